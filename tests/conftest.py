"""Fixtures that several modules share: two real faces out of packages, drawn cartoons, and sets made of them."""

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from cartoonlib import features, files, landmarks
from cartoonlib.dataset.prepare import ImageSet
from cartoonlib.images import to_tensor
from cartoonlib.media.faces import CANONICAL, align, detect_faces
from cartoonlib.profile import Profile

SIDE = 36  # of the sets: 1.125 times 32
TINY = Profile(
    name="tiny", size=32, batch=2, perceptual="efficientnet_lite0", segments=20, pretrain_steps=6, start_steps=0,
    train_steps=8, log_every=2, checkpoint_every=3, ema=0.5, precision="fp32",
)  # fmt: skip


def silent(_line: str) -> None:
    """A progress that says nothing."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums are split by thread: results that are compared bit for bit need a fixed number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def face_photos() -> np.ndarray:
    """Two aligned faces, uint8 (2, 128, 128, 3): Eileen Collins and Grace Hopper (public domain)."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photos = [skimage.data.astronaut(), np.asarray(Image.open(file).convert("RGB"))]
    found = [detect_faces(photo) for photo in photos]
    return np.stack([align(photo, faces[0].points, 128)[0] for photo, faces in zip(photos, found)])


@pytest.fixture(scope="session")
def faces_tensor(face_photos) -> torch.Tensor:
    """The two faces as the networks take them: (2, 3, 128, 128) in [-1, 1]."""
    return to_tensor(face_photos)


def draw_cartoon(seed: int, side: int) -> np.ndarray:
    """A face of four flat colours: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    image = np.empty((side, side, 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    image[(x - 0.5) ** 2 + (y - 0.55) ** 2 < 0.1] = (235, 190, 160) - rng.integers(0, 60, 3)
    for eye in (0.377, 0.623):
        image[(x - eye) ** 2 + (y - 0.472) ** 2 < 0.003] = 20
    image[(abs(x - 0.5) < 0.12) & (abs(y - 0.724) < 0.02)] = (160, 30, 40)
    return image


def _image_set(kind: str, images: np.ndarray, tests: int) -> ImageSet:
    split = ["train"] * (len(images) - tests) + ["test"] * tests
    manifest = [{"file": f"{i}.png", "source": kind, "split": part} for i, part in enumerate(split)]
    points = np.stack([CANONICAL if kind == "faces" else np.full_like(CANONICAL, np.nan)] * len(images))
    return ImageSet(kind, kind, kind, "public domain", images, points, manifest, [], f"hash of {kind}")


@pytest.fixture(scope="session")
def face_set(face_photos) -> ImageSet:
    """Six small photos: both faces, mirrored, darker; the last two are held out."""
    small = np.stack([np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX)) for p in face_photos])
    return _image_set("faces", np.concatenate([small, small[:, :, ::-1], small // 4 * 3]), tests=2)


@pytest.fixture(scope="session")
def cartoon_set() -> ImageSet:
    """Eight small drawings, two of them held out."""
    return _image_set("cartoons", np.stack([draw_cartoon(seed, SIDE) for seed in range(8)]), tests=2)


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    """A folder of prepared data for a module, where the structures of its photos come to lie."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PROCESSED", tmp_path_factory.mktemp("processed"))
        yield files.PROCESSED


@pytest.fixture(scope="session")
def onet():
    return landmarks.landmark_network("onet")


@pytest.fixture(scope="session")
def lite0():
    return features.EfficientNetLite0()
