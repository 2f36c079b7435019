"""The gallery of large portraits: a row a person, the photo first, each style in its column, whole files."""

import numpy as np
import pytest
from PIL import Image

from cartoonlib.files import InputError
from cartoonlib.report import gallery, paper

ASTRONAUT = (("skimage/astronaut.png", (96, 0, 256)), ("skimage/astronaut.png", (0, 256, 128)))


@pytest.fixture(autouse=True)
def no_packages(monkeypatch, tmp_path):
    """The wheels' portraits alone: the others take the network in a fresh clone."""
    monkeypatch.setattr(gallery.origins, "npm_package", lambda name: tmp_path / "empty")


def test_a_person_has_a_row_and_a_style_a_column(tmp_path):
    drawn = []
    drawers = {"same": lambda photo: photo, "none": lambda photo: (drawn.append(photo.shape), photo * 0)[1]}
    sheet = gallery.large(lambda draw, photo: draw(photo), drawers, ASTRONAUT)
    pitch, side = gallery.SIDE + gallery.GAP, gallery.SIDE
    assert sheet.size == (3 * pitch - gallery.GAP, 2 * pitch - gallery.GAP)
    assert drawn == [(512, 512, 3)] * 2  # in full: the scale is that of the whole photo
    pixels = np.asarray(sheet)
    assert np.array_equal(pixels[:, :side], pixels[:, pitch : pitch + side]) and pixels[:side, :side].std() > 30
    assert not pixels[:side, 2 * pitch :].any() and (pixels[:, side:pitch] == 255).all()
    paper.save_picture(sheet, tmp_path / "gallery.png")
    kept = np.asarray(Image.open(tmp_path / "gallery.png")).astype(int)
    assert abs(kept - pixels).max() <= 3 and (kept[:, side:pitch] == 255).all()


def test_what_cannot_be_shown_is_said():
    with pytest.raises(InputError, match="has no skimage/cat.png"):
        gallery.large(lambda _, photo: photo, {"same": None}, (("skimage/cat.png", (0, 0, 9)),))


def test_every_portrait_is_a_square_of_at_least_256_px_of_a_known_package():
    packages = gallery.catalogue.sources()["embedded_faces"].packages
    stems = {f"{p['name'].lstrip('@').replace('/', '-')}-{p['version']}" for p in packages} | {"skimage", "matplotlib"}
    for name, (left, top, side) in gallery.PORTRAITS:
        assert name.split("/")[0] in stems and min(left, top) >= 0 and side >= gallery.SIDE
