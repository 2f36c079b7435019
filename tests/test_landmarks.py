import hashlib

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from cartoonlib import files, landmarks
from cartoonlib.files import InputError
from cartoonlib.landmarks import Square, landmark_network, soft_argmax
from cartoonlib.media.faces import CANONICAL, align, cut_off, detect_faces
from cartoonlib.report.detector import FaceApiLandmarks

SIDE = 144


@pytest.fixture(scope="module")
def photos():
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return {"astronaut": skimage.data.astronaut(), "hopper": np.asarray(Image.open(file).convert("RGB"))}


@pytest.fixture(scope="module")
def faces(photos):
    return {name: detect_faces(photo)[0] for name, photo in photos.items()}


@pytest.fixture(scope="module")
def onet():
    return landmark_network("onet")


@pytest.fixture(scope="module")
def aligned(photos, faces):
    return {name: align(photos[name], face.points, SIDE) for name, face in faces.items()}


def tensor(image):
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1


def distances(points, others):
    return np.linalg.norm(np.asarray(points) - np.asarray(others), axis=-1)


def test_detection_finds_the_face_and_orders_its_points(photos, faces):
    assert faces["astronaut"].probability > 0.99 and faces["hopper"].probability > 0.99
    left_eye, right_eye, nose, left_mouth, right_mouth = faces["astronaut"].points
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    left, top, right, bottom = faces["astronaut"].box
    assert left < left_eye[0] and right_eye[0] < right and top < left_eye[1] and left_mouth[1] < bottom
    assert distances(faces["astronaut"].points, [[205, 102], [247, 104], [224, 129], [202, 139], [245, 142]]).max() < 3


def test_detection_scales_points_of_huge_images_back(photos, faces):
    huge = np.asarray(Image.fromarray(photos["astronaut"]).resize((2048, 1536)))  # stretched on purpose
    points = detect_faces(huge)[0].points
    assert distances(points / [4, 3], faces["astronaut"].points).max() < 4


@pytest.mark.parametrize("shape", [(1, 1), (19, 300), (20, 20), (21, 400), (3000, 25), (64, 64)])
def test_detection_finds_nothing_in_noise_of_any_size(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert detect_faces(noise) == []


def test_detection_refuses_what_is_not_an_rgb_image():
    with pytest.raises(InputError, match="RGB"):
        detect_faces(np.zeros((64, 64), np.uint8))


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_aligned_points_are_near_the_canonical_ones(aligned, name):
    image, points = aligned[name]
    assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8 and points.dtype == np.float32
    assert distances(points, CANONICAL).max() < 0.06
    found = detect_faces(image)[0].points / SIDE  # the points that are returned are those of the picture
    assert distances(found, points).max() < 0.02


def test_aligning_an_aligned_face_changes_nothing(aligned):
    image, points = aligned["astronaut"]
    again, same = align(image, points * SIDE, SIDE)
    assert np.abs(again.astype(int) - image).max() <= 1
    assert np.allclose(same, points, atol=1e-5)


def test_align_undoes_a_rotation(photos, faces, aligned):
    turned = np.rot90(photos["astronaut"])  # (x, y) -> (y, width - x)
    x, y = faces["astronaut"].points.T
    image, points = align(turned, np.stack((y, 512 - x), axis=1), SIDE)
    assert np.allclose(points, aligned["astronaut"][1], atol=1e-5)
    assert np.abs(image.astype(int) - aligned["astronaut"][0]).mean() < 2


def test_align_reflects_beyond_the_border_and_averages_when_shrinking():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = align(stripes, CANONICAL * 1024, 64)
    assert np.abs(image.astype(int) - 127).max() <= 1
    flat, _ = align(np.full((40, 40, 3), 200, np.uint8), CANONICAL * 400 - 300, 64)
    assert (flat == 200).all()


@pytest.mark.parametrize("points", [np.ones((5, 2)), np.full((5, 2), np.nan)])
def test_align_refuses_points_that_coincide(points):
    with pytest.raises(InputError, match="coincide"):
        align(np.zeros((64, 64, 3), np.uint8), points, 32)


def test_how_much_of_a_face_is_cut_off_by_hand():
    square = CANONICAL * 100  # the aligned face is the square of 100 px from the upper left corner
    for points, height, width, share in [
        (square, 100, 100, 0.0),
        (square, 100, 50, 0.5),
        (square, 75, 200, 0.25),
        (square + (50, 0), 100, 150, 0.0),
        (square - (50, 0), 100, 100, 0.5),
        (square - (50, 50), 100, 100, 0.75),
        (square + (0, 75), 100, 100, 0.75),
        (square - 200, 100, 100, 1.0),
        (2 * square - 50, 100, 100, 0.75),
    ]:
        assert cut_off(points, height, width) == pytest.approx(share), (height, width, share)
    turned = (square - 50) @ np.array([[1, 1], [-1, 1]]) / 2**0.5 + 50  # by 45 degrees: 4 corners of 0.3 / 4 each
    assert cut_off(turned, 100, 100) == pytest.approx(3 - 2 * 2**0.5, abs=0.03)


def test_crop_equals_antialiased_resizing_of_the_square():
    images = torch.rand(2, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    for size in (48, 80, 112):
        expected = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        assert torch.allclose(Square(0.5, 0.5, 1.0).crop(images, size), expected, atol=1e-5)
    assert torch.equal(Square(0.5, 0.5, 0.5).crop(images, 40), images[:, :, 20:60, 20:60])


def test_points_return_from_the_square_to_the_frame():
    assert torch.allclose(Square(0.5, 0.6, 0.4).to_frame(torch.tensor([0.0, 1.0])), torch.tensor([0.3, 0.8]))


@pytest.mark.parametrize("name", ["astronaut", "hopper"])
def test_onet_agrees_with_the_detector(aligned, onet, name):
    image, points = aligned[name]
    assert distances(onet(tensor(image))[0], points).max() < 0.03


@pytest.mark.parametrize("size", [64, 256])
def test_onet_is_independent_of_the_resolution(photos, faces, onet, size):
    image, points = align(photos["astronaut"], faces["astronaut"].points, size)
    assert distances(onet(tensor(image))[0], points).max() < 0.03


def test_onet_passes_gradient_to_the_image_and_to_nothing_else(aligned, onet):
    image = tensor(aligned["astronaut"][0]).requires_grad_()
    onet(image).square().sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
    assert all(not p.requires_grad and p.grad is None for p in onet.parameters())
    assert not torch.nn.Sequential(onet).train()[0].training


@pytest.mark.parametrize("shift", [(6, 0), (0, 6), (-5, -4)])
def test_onet_points_move_with_the_image(aligned, onet, shift):
    x, y = shift
    image = tensor(aligned["astronaut"][0])
    crop, moved = image[:, :, 8:-8, 8:-8], image[:, :, 8 - y : SIDE - 8 - y, 8 - x : SIDE - 8 - x]
    difference = (onet(moved) - onet(crop))[0] * (SIDE - 16)
    assert distances(difference, shift).max() < 2.5
    assert distances(difference.mean(dim=0), shift) < 1.5


def test_the_gradient_finds_a_shift(aligned, onet):
    """Descent on the distance of the landmarks moves a shifted face back to where it was."""
    image = tensor(aligned["astronaut"][0])
    target, shift = onet(image), torch.tensor([0.08, -0.06], requires_grad=True)  # 5.8 and 4.3 px
    optimizer = torch.optim.Adam([shift], lr=0.01)
    for _ in range(40):
        theta = torch.cat((torch.eye(2), shift[:, None]), dim=1)[None]
        moved = F.grid_sample(image, F.affine_grid(theta, image.shape, False), "bilinear", "reflection", False)
        loss = (onet(moved) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift.detach().abs().max() < 0.015


def test_the_gradient_moves_a_landmark(aligned, onet):
    image = tensor(aligned["hopper"][0]).requires_grad_()
    target = onet(image).detach()
    target[0, 4, 0] += 0.03  # the right mouth corner outwards, by an eighth of the distance between the eyes
    optimizer = torch.optim.Adam([image], lr=0.005)
    losses = []
    for _ in range(25):
        loss = (onet(image) - target).square().sum().sqrt()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_soft_argmax_finds_peaks_between_pixels_despite_noise():
    generator = torch.Generator().manual_seed(0)
    centres = 4 + 56 * torch.rand(1, 68, 2, generator=generator)  # pixels of a 64 x 64 map
    grid = torch.arange(64) + 0.5
    x, y = centres[..., 0, None, None], centres[..., 1, None, None]
    maps = torch.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / 2)
    maps = (maps + 0.01 * torch.randn(maps.shape, generator=generator)).requires_grad_()
    points = soft_argmax(maps)
    assert (points * 64 - centres).norm(dim=2).max() < 0.25
    points.sum().backward()
    assert maps.grad.isfinite().all() and maps.grad.abs().max() > 0
    assert soft_argmax(-torch.ones(1, 1, 8, 8)).isfinite().all()


def test_fan_without_its_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    name = next(iter(landmarks.FAN_FILES))
    monkeypatch.setattr(landmarks, "FAN_URL", f"http://127.0.0.1:9/{name}")  # nobody listens there
    with pytest.raises(InputError, match="FAN's weights are missing.*put the file at.*landmarks: onet"):
        landmark_network("fan")
    (tmp_path / name).write_bytes(b"half a file")
    with pytest.raises(InputError, match="damaged"):
        landmark_network("fan")


def test_fan_reads_a_state_dict_and_is_differentiable(tmp_path, monkeypatch):
    from face_alignment.models import FAN

    torch.manual_seed(0)
    state = FAN(4).state_dict()
    torch.save(state, tmp_path / "unnamed")
    digest = hashlib.sha256((tmp_path / "unnamed").read_bytes()).hexdigest()[:10]
    (tmp_path / "unnamed").rename(tmp_path / f"random-{digest}.pth.tar")
    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    monkeypatch.setattr(landmarks, "FAN_FILES", {f"random-{digest}.pth.tar": digest})
    fan = landmark_network("fan")
    image = torch.rand(1, 3, 64, 64).requires_grad_()
    points = fan(image)
    points.sum().backward()
    assert points.shape == (1, 68, 2)
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
    assert not fan.fan.bn1.training and not any(p.requires_grad for p in fan.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_fan_weights_are_read_from_a_torchscript_archive(tmp_path, monkeypatch):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)), tmp_path / "unnamed")
    name = f"net-{hashlib.sha256((tmp_path / 'unnamed').read_bytes()).hexdigest()[:10]}.zip"
    (tmp_path / "unnamed").rename(tmp_path / name)
    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    weights = files.load_weights({name: name[4:14]}, "", "net", "")
    assert {key: tuple(v.shape) for key, v in weights.items()} == {"weight": (3, 2), "bias": (3,)}


def test_faceapi_agrees_with_onet(aligned, onet):
    try:
        network = FaceApiLandmarks()
    except InputError as reason:
        pytest.skip(f"the npm package is not at hand: {reason}")
    image = tensor(aligned["astronaut"][0])
    points, five = network(image)[0], onet(image)[0]
    eyes = torch.stack((points[36:42].mean(dim=0), points[42:48].mean(dim=0)))
    assert points.shape == (68, 2) and not any(p.requires_grad for p in network.parameters())
    assert distances(eyes, five[:2]).max() < 0.02
    assert distances(points[[30, 48, 54]], five[2:]).max() < 0.05
    assert points[8, 1] > points[57, 1] > points[51, 1] > points[30, 1] > points[19, 1]  # chin, lips, nose, brow


def test_there_is_no_other_network():
    with pytest.raises(InputError, match="onet, fan"):
        landmark_network("dlib")
