"""Pictures and numbers that must not drift: what a change of the layout, or of a library, must leave as it is.

`python tests/test_golden.py` writes them anew, after a change that is meant to change them.
"""

import json
from pathlib import Path

import conftest
import numpy as np
import pytest
import torch
from PIL import Image

from cartoonlib import files
from cartoonlib.dataset.structures import structure
from cartoonlib.images import to_tensor
from cartoonlib.media.faces import CANONICAL
from cartoonlib.photos import shipped
from cartoonlib.photos.draw import cartoonize
from cartoonlib.report import metrics
from cartoonlib.runs import training
from cartoonlib.runs.profiles import load_profile
from cartoonlib.step import PretrainStep, StartStep, TrainStep, build_generator

GOLDEN = Path(__file__).with_name("golden")
PHOTOS = [GOLDEN / "photos" / f"{name}.png" for name in ("collins", "hopper")]
NUMBERS = GOLDEN / "numbers.json"
PROFILE = conftest.TINY.replace(size=128, segments=200)


def pictures(photos: np.ndarray) -> dict[str, np.ndarray]:
    """What each generator that comes with the project makes of the first photo, uint8 (128, 128, 3)."""
    return {style: cartoonize(shipped.load(style), photos[0]) for style in shipped.styles()}


def losses(photos: np.ndarray) -> dict[str, float]:
    """Every loss of the first step of training, of pretraining, and of the structure start (`start`)."""
    photo, cartoon = (to_tensor(x).contiguous(memory_format=torch.channels_last) for x in (photos, cartoons()))
    accelerator = training.make_accelerator(PROFILE)
    weights = torch.tensor([0.3, 0.6, 0.1]).view(1, 3, 1, 1)
    values, start = PretrainStep(PROFILE, accelerator)(photo), build_generator(PROFILE).state_dict()
    drawn_from = structure(photo, torch.from_numpy(CANONICAL).repeat(len(photo), 1, 1), PROFILE.look)
    values["start"] = StartStep(PROFILE, accelerator, start)(photo, drawn_from)["anchor"]
    values |= TrainStep(PROFILE, accelerator)(photo, cartoon, weights)
    return {name: float(value) for name, value in values.items()}


def read_photos() -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in PHOTOS])


def cartoons() -> np.ndarray:
    return np.stack([conftest.draw_cartoon(seed, 128) for seed in range(2)])


def kernel_distance() -> float:
    """KID of two small sets that never change."""
    rng = np.random.default_rng(0)
    return metrics.kid(rng.normal(size=(12, 16)), rng.normal(0.3, 1.2, size=(9, 16))).value


def keys() -> dict[str, str]:
    """What names the runs of every profile."""
    names = sorted(path.stem for path in files.PROFILES.glob("*.yaml") if path.stem != "ablations")
    return {name: load_profile(name).key() for name in names}


@pytest.fixture(scope="module")
def numbers() -> dict:
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def test_the_generators_draw_the_same_pictures():
    drawn = pictures(read_photos())
    assert {path.stem for path in GOLDEN.glob("*.png")} == set(drawn)
    for style, picture in drawn.items():
        wanted = np.asarray(Image.open(GOLDEN / f"{style}.png")).astype(int)
        assert np.abs(picture.astype(int) - wanted).max() <= 1, style


def test_the_losses_of_a_step_are_the_same(numbers):
    found, wanted = losses(read_photos()), numbers["losses"]
    for name in ("structure", "start", "total"):  # another processor rounds a few pixels into another region
        assert found.pop(name) == pytest.approx(wanted.pop(name), rel=5e-4)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_kernel_distance_is_the_same(numbers):
    assert kernel_distance() == pytest.approx(numbers["kid"], rel=1e-9)


def test_profiles_name_their_runs_as_before(numbers):
    assert keys() == numbers["keys"]


def write() -> None:
    torch.set_num_threads(1)
    photos = read_photos()
    for style, picture in pictures(photos).items():
        Image.fromarray(picture).save(GOLDEN / f"{style}.png")
    content = {"losses": losses(photos), "kid": kernel_distance(), "keys": keys()}
    NUMBERS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
