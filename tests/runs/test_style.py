"""`make style`: a generator in the style of a folder, in a few steps at 32 px, from drawings that a package brings."""

import itertools
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import silent
from PIL import Image

from cartoonlib import files
from cartoonlib.dataset import catalogue, origins
from cartoonlib.dataset.batches import Batches
from cartoonlib.dataset.prepare import prepare
from cartoonlib.files import InputError
from cartoonlib.photos import shipped
from cartoonlib.runs import loop, style
from cartoonlib.runs.profiles import load_profile

needs_generators = pytest.mark.skipif(not style.MEANS.exists(), reason="needs the shipped generators of a clone")


@pytest.fixture(scope="session")
def comics(tmp_path_factory):
    """A folder of 30 drawn faces of the set adventurer."""
    folder = tmp_path_factory.mktemp("drawings") / "comics"
    folder.mkdir()
    _, images = origins.raw_images(catalogue.find("adventurer"), 144, 0, [])
    for number, image in zip(range(30), images):
        Image.fromarray(image.decode(image.content)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch, processed, face_set):
    """Styles are made at 32 px, of six photos, in seven steps of half a minute each; returns their folder."""
    reference = load_profile("reference").replace(size=32, segments=20, precision="fp32")
    monkeypatch.setattr(style, "load_profile", lambda _name: reference)
    monkeypatch.setattr(style, "FEWEST_FACES", 6)
    monkeypatch.setattr(style, "nearest", lambda _cartoons: "comic")  # the means are of pictures of 144 px
    monkeypatch.setattr(style.Style, "seconds_of_a_step", lambda _self: 30.0)
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")

    def prepared(source, size, *, kind, **settings):
        return face_set if kind == "faces" else prepare(source, size, kind=kind, **settings, progress=silent)

    monkeypatch.setattr(style, "prepare", prepared)
    return files.RESULTS / "styles"


def one_sentence(error: pytest.ExceptionInfo) -> bool:
    return re.fullmatch(r"[^\n]+\.", str(error.value)) is not None


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@needs_generators
def test_a_style_is_made_of_a_folder_and_found_by_its_name(small, comics, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["style", str(comics), "--minutes", "4"])
    style.main()
    said = capsys.readouterr()
    assert said.out.strip().endswith("png; draw with it: make cartoonize PHOTO=photo.jpg STYLE=comics")
    assert "30.00 s a step: 7 steps in 4 minutes" in said.err
    assert set(contents(small)) == {f"comics.{kind}" for kind in ("json", "md", "png", "safetensors")}
    made, begun = shipped.load("comics").state_dict(), shipped.load("comic").state_dict()
    assert any(not torch.equal(made[key], begun[key]) for key in made)
    assert all((made[key] - begun[key]).abs().max() < 0.1 for key in made)  # it has gone on from that one
    card = (small / "comics.md").read_text(encoding="utf-8")
    assert "comics (licence: its owner's)" in card and "7 steps from the generator of `comic`" in card
    with Image.open(small / "comics.png") as sheet:
        assert sheet.size == (2 * 32, 4 * 32)  # drawings, photos held out, before, after
    before = contents(small)
    monkeypatch.setattr(style.training, "train", None)
    style.main()  # returns at once
    assert contents(small) == before


@needs_generators
@pytest.mark.parametrize("damaged", [False, True])
def test_a_style_that_is_killed_goes_on_to_the_same_bits(damaged, small, comics, tmp_path, monkeypatch):
    style.learn(str(comics), minutes=4)
    whole = (small / "comics.safetensors").read_bytes()
    monkeypatch.setattr(files, "RESULTS", tmp_path / "again")
    again = files.RESULTS / "styles"
    with monkeypatch.context() as patch:
        batches = Batches.__call__

        def killed(self, step):
            if step == 5:
                raise KeyboardInterrupt
            return batches(self, step)

        patch.setattr(Batches, "__call__", killed)
        clock = itertools.count(0, 3)  # a line of progress every two seconds, so one a step
        patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        with pytest.raises(KeyboardInterrupt):
            style.learn(str(comics), minutes=4)
    assert set(contents(again)) == {"comics.json", "comics.png"}  # the plan, and a first preview
    plan, kept = (again / "comics.json").read_bytes(), list(again.glob("runs/comics-*/checkpoint-*"))
    assert kept
    for path in kept if damaged else ():
        path.write_bytes(b"half a checkpoint")
    monkeypatch.setattr(style.Style, "seconds_of_a_step", None)
    style.learn(str(comics), minutes=4)
    assert (again / "comics.json").read_bytes() == plan
    assert (again / "comics.safetensors").read_bytes() == whole


@needs_generators
def test_a_style_that_exists_is_kept(small, comics):
    style.learn(str(comics), minutes=4)
    before = contents(small)
    with pytest.raises(InputError, match="The style `comics` is there, of other drawings, photos or minutes") as error:
        style.learn(str(comics), minutes=5)
    assert one_sentence(error) and contents(small) == before


@needs_generators
def test_a_style_is_made_of_a_film(small, comics, tmp_path):
    film = tmp_path / "My Comics.mkv"
    with av.open(str(film), "w") as output:
        picture = output.add_stream("ffv1", rate=2)
        picture.width, picture.height, picture.pix_fmt = 192, 144, "bgr0"
        for path in sorted(comics.iterdir()):
            wide = np.pad(np.asarray(Image.open(path).convert("RGB")), ((0, 0), (24, 24), (0, 0)), mode="edge")
            output.mux(picture.encode(av.VideoFrame.from_ndarray(wide, format="rgb24")))
        output.mux(picture.encode(None))
    assert style.learn(str(film), minutes=4) == small / "my_comics.safetensors"
    assert "My Comics.mkv" in (small / "my_comics.md").read_text(encoding="utf-8")
    assert shipped.load("my_comics")


def test_a_film_that_is_none_is_refused(small, tmp_path):
    (tmp_path / "toon.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match="toon.mp4: it cannot be read as a video .*Convert it to MP4") as error:
        style.learn(str(tmp_path / "toon.mp4"))
    assert one_sentence(error) and not small.exists()


@needs_generators
def test_few_photos_are_counted(small, comics, monkeypatch):
    monkeypatch.setattr(style, "FEWEST_FACES", 7)
    with pytest.raises(InputError, match="6 faces can be used, and 7 are needed: give more") as error:
        style.learn(str(comics))
    assert one_sentence(error) and not small.exists()


@needs_generators
def test_names_of_shipped_styles_are_taken(small, tmp_path):
    (tmp_path / "Comic").mkdir()
    with pytest.raises(InputError, match="A style `comic` comes with the project") as error:
        style.learn(str(tmp_path / "Comic"))
    assert one_sentence(error)


def test_three_drawings_are_too_few(small, comics, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(comics.iterdir())[:3]:
        (few / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="few: 3 cartoons can be used, and 30 are needed: give more") as error:
        style.learn(str(few))
    assert one_sentence(error) and not small.exists()


@pytest.mark.parametrize("minutes", [0, -3, float("nan"), float("inf")])
def test_no_time_is_said_to_be_too_little(small, comics, minutes):
    with pytest.raises(InputError, match="give a number from 1 on") as error:
        style.learn(str(comics), minutes=minutes)
    assert one_sentence(error)


@needs_generators
def test_the_nearest_style_is_chosen_and_said(comics, cartoon_set, capsys):
    drawings = np.stack([np.asarray(Image.open(path)) for path in sorted(comics.iterdir())[:8]])
    assert style.nearest(replace(cartoon_set, images=drawings)) == "cartoonset"
    said = capsys.readouterr().err
    distances = [float(number) for number in re.findall(r"(?:cartoonset|anime|comic|ghibli) (\d+\.\d)", said)]
    assert len(distances) == 4 and distances == sorted(distances) and "the first is the start" in said


@needs_generators
def test_photos_in_place_of_drawings_are_refused(cartoon_set, face_photos):
    photos = np.stack([np.asarray(Image.fromarray(photo).resize((144, 144))) for photo in face_photos])
    with pytest.raises(InputError, match="100% of its pictures look like photos: give drawings") as error:
        style.nearest(replace(cartoon_set, images=photos))
    assert one_sentence(error)


@needs_generators
def test_the_first_steps_are_timed(processed, face_set, cartoon_set, monkeypatch):
    reference = load_profile("reference").replace(size=32, segments=20, precision="fp32")
    monkeypatch.setattr(style, "load_profile", lambda _name: reference)
    seconds = style.Style(cartoon_set, face_set, "comic", style.TIMED, 2).seconds_of_a_step()
    assert 0.001 < seconds < 60
