"""Every judge sees the fault that it is for, painted into a photo, and is left alone by a harmless change."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cartoonlib.files import InputError
from cartoonlib.images import to_tensor
from cartoonlib.report import indices, metrics
from cartoonlib.report.detector import FaceApiPersons
from cartoonlib.superpixels import smooth


def lab(*pictures):
    return indices.lab(np.stack(pictures).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(face_photos):
    """Both faces as they are, mirrored and darker: (6, 128, 128, 3) float."""
    return np.concatenate([face_photos, face_photos[:, :, ::-1], face_photos * 0.5]).astype(float)


@pytest.fixture(scope="module")
def harmless(photos):
    """The photos after a JPEG file of good quality and a bit lighter."""
    made = []
    for photo in photos:
        file = io.BytesIO()
        Image.fromarray(photo.astype(np.uint8)).save(file, "JPEG", quality=95)
        made.append(np.asarray(Image.open(file)) + 2.0)
    return np.stack(made)


def judged(outputs, photos):
    return {name: e.value for name, e in metrics.faults(lab(*outputs), lab(*photos)).items()}


def test_a_harmless_change_moves_no_judge(photos, harmless):
    found = judged(harmless, photos)
    assert found["stroke"] == pytest.approx(1, abs=0.05) and found["mesh"] == pytest.approx(1, abs=0.1)
    for name in (*metrics.SKIN, "skin_worst", "blacks"):
        assert abs(found[name]) < 2, name


def test_upright_strokes_on_the_forehead(photos):
    upright, lying = photos.copy(), photos.copy()
    upright[:, 26:46, 44:84:4] *= 0.8
    lying[:, 26:46:4, 44:84] *= 0.8
    assert judged(upright, photos)["stroke"] > 2
    assert judged(lying, photos)["stroke"] < 1  # a wrinkle or a fringe
    below = photos.copy()
    below[:, 90:, ::4] *= 0.8
    assert judged(below, photos)["stroke"] == 1


@pytest.mark.parametrize("period", indices.PERIODS)
def test_a_faint_mesh_on_a_smooth_ground(period):
    rng = np.random.default_rng(0)
    ground = (np.full((3, 64, 64, 1), 150.0) + rng.normal(0, 1, (3, 64, 64, 1))).repeat(3, axis=3)
    meshed = ground.copy()
    meshed[:, :, ::period] += 3
    assert judged(meshed, ground)["mesh"] > 2
    assert judged(np.asarray(smooth(torch.tensor(ground), 0.0001)), ground)["mesh"] == pytest.approx(1, abs=0.05)
    edges = (rng.random((3, 64, 64, 1)) * 200).repeat(3, axis=3)  # a mesh where the photo is not flat is none
    assert judged(np.where(np.arange(64)[:, None, None] % period, edges, edges + 9), edges)["mesh"] == 1


def test_bleached_dark_skin(photos):
    bleached = photos.copy()
    bleached[4:] = bleached[4:] * 0.5 + 110
    found = judged(bleached, photos)
    assert found["skin_dark"] > 15 and found["skin_middle"] == found["skin_light"] == 0
    assert found["skin_worst"] > 15 and found["blacks"] > 10


def test_lifted_blacks(photos):
    lifted = np.maximum(photos, 45)
    found = judged(lifted, photos)
    assert found["blacks"] > 8 and abs(found["skin_light"]) < 2
    assert judged(np.full((2, 32, 32, 3), 200.0), np.full((2, 32, 32, 3), 180.0))["blacks"] > 0  # no photo has blacks


def test_green_skin_is_seen_although_its_lightness_stays(photos):
    green = photos + (-18, 12, -18)
    found = judged(green, photos)
    assert found["skin_worst"] > 10 and max(abs(found[name]) for name in metrics.SKIN) < 5


@pytest.mark.parametrize("size, n", [(32, 1), (33, 2), (48, 3), (100, 4)])
def test_any_size_and_number_gives_numbers(size, n):
    rng = np.random.default_rng(0)
    for photo in (rng.integers(0, 256, (n, size, size, 3)), np.full((n, size, size, 3), 128)):
        for output in (photo, photo * 0 + 7, photo // 2):
            assert np.isfinite(list(judged(output, photo).values())).all()
        same = judged(photo, photo)
        assert same["stroke"] == same["mesh"] == 1 and {same[name] for name in (*metrics.SKIN, "blacks")} == {0}


@pytest.fixture(scope="module")
def persons():
    try:
        return FaceApiPersons()
    except InputError as reason:
        pytest.skip(f"the npm package is not at hand: {reason}")


def test_the_look_sees_blur_and_drawing_but_no_white_ground(photos, harmless, lite0):
    def look(pictures):
        images = to_tensor(np.stack(list(pictures)).clip(0, 255).astype(np.uint8))
        return indices.style_vectors(lite0, images).double().numpy()

    def distance(pictures):
        return metrics.kid(look(pictures), cartoons).value

    cartoons = look(photos // 64 * 64)  # in four tones, with hard edges
    assert look(photos).shape == (6, 160)
    white, half = photos.copy(), photos // 32 * 32
    white[:, :20] = white[:, 114:] = white[:, :, :20] = white[:, :, 108:] = 255
    blurred = smooth(torch.tensor(photos).permute(0, 3, 1, 2), 3.0).permute(0, 2, 3, 1).numpy()
    untouched = distance(photos)
    assert distance(harmless) == pytest.approx(untouched, rel=0.15)
    assert distance(white) == pytest.approx(untouched, rel=0.1)
    assert distance(half) < 0.9 * untouched and distance(blurred) > 1.1 * untouched


def test_the_look_on_faces_sees_blur_and_drawing_but_no_white_ground(photos, harmless, persons):
    def look(pictures):
        images = to_tensor(np.stack(list(pictures)).clip(0, 255).astype(np.uint8))
        return indices.face_style_vectors(persons, images).double().numpy()

    cartoons = look(photos // 64 * 64)  # in four tones, with hard edges
    untouched = metrics.kid(look(photos), cartoons).value
    white = photos.copy()
    white[:, :14] = white[:, :, :12] = white[:, :, 116:] = 255
    blurred = smooth(torch.tensor(photos).permute(0, 3, 1, 2), 3.0).permute(0, 2, 3, 1).numpy()
    assert look(photos).shape == (6, 448) and metrics.kid(cartoons, cartoons).value < 0 < untouched
    assert metrics.kid(look(white), cartoons).value == pytest.approx(untouched, rel=0.1)
    assert metrics.kid(look(harmless), cartoons).value == pytest.approx(untouched, rel=0.25)
    assert metrics.kid(look(photos // 32 * 32), cartoons).value < 0.9 * untouched
    assert metrics.kid(look(blurred), cartoons).value > 1.1 * untouched


def test_another_person_is_not_known_again(photos, harmless, persons):
    seen, again = (persons(to_tensor(images.clip(0, 255).astype(np.uint8))) for images in (photos, harmless))
    assert seen.shape == (6, 128) and not any(p.requires_grad for p in persons.parameters())
    apart = (seen[0] - seen[1]).norm()  # dlib's bound between persons is 0.6
    assert apart > 0.6 and (again - seen).norm(dim=1).max() < 0.25
    assert (seen[2] - seen[0]).norm() < 0.4 and (seen[4] - seen[0]).norm() < 0.4  # mirrored, darker


def test_an_evaluator_knows_persons_by_the_distances_of_its_photos(photos, cartoon_set, lite0):
    pictures, detector = photos[[0, 1, 4, 5]].astype(np.uint8), lambda images: torch.rand(len(images), 68, 2)
    evaluator = metrics.Evaluator(pictures, cartoon_set.images, lite0, lite0, detector)
    evaluator._strangers = 0.6
    assert evaluator.measure(pictures[::-1].copy())["likeness"].value == 0
    assert evaluator.measure(pictures // 8 * 8)["likeness"].value == 1
