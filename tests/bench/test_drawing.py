"""What notebook 07 measures of drawing photos: its table, its processes, and the flicker of a film."""

import json

import numpy as np
import pytest
import torch

from cartoonlib import files
from cartoonlib.bench import drawing, measuring
from cartoonlib.files import InputError
from cartoonlib.networks import Generator
from cartoonlib.photos import shipped
from cartoonlib.report.render import shown
from cartoonlib.runs.profiles import load_profile


def cells(table: str) -> list[list[str]]:
    """The cells of a markdown table, without its titles."""
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_more_repeats_measure_more_sizes():
    counts = [len(drawing.sizes(load_profile("bench", {"bench_repeats": repeats}))) for repeats in (1, 2, 5)]
    assert counts == [1, 2, 6] and drawing.sizes(load_profile("bench"))[-1] == (4000, 6000)


def test_the_table_has_a_line_a_size_and_says_what_failed_or_was_not_tried():
    row = {"height": 3000, "width": 4000, "way": drawing.USUAL, "seconds": {"median": 2.5}, "peak_mb": 1234.0}
    failed = {"height": 3000, "width": 4000, "way": "float32", "failed": "it was killed"}
    (line,) = cells(shown("photo", [row, failed]))
    assert line[0] == "4000 x 3000, 12 MP" and len(line) == 1 + len(drawing.WAYS)
    found = dict(zip(drawing.WAYS, line[1:], strict=True))
    assert found[drawing.USUAL] == "2.5 s, 1.23 GB" and found["float32"] == "it was killed"
    assert found[drawing.WHOLE] == "not tried"


def test_goals_compare_with_what_was_asked_and_with_the_generator_alone():
    def row(size, way, seconds, mb):
        return {"height": size[0], "width": size[1], "way": way, "seconds": {"median": seconds}, "peak_mb": mb}

    rows = [row(drawing.PHONE, drawing.USUAL, 2.5, 2100.0), row(drawing.SMALL, drawing.COMMAND, 3.5, 900.0)]
    rows += [row(drawing.SMALL, way, 0.4, 900.0) for way in (drawing.USUAL, "float32", "bfloat16")]
    rows += [{"height": 512, "width": 512, "way": "ONNX Runtime", "failed": "it was killed"}]
    found = drawing.goals(rows)
    assert found[0] == {
        "goal": "12 megapixels, once read", "limits": {"seconds": 20.0, "gb": 2.0},
        "found": {"seconds": 2.5, "gb": 2.1}, "met": False,
    }  # fmt: skip
    lines = {title: (found, met) for title, found, met in cells(shown("goals", found))}
    assert lines.pop("12 megapixels, once read: under 20 s and under 2 GB") == ("2.5 s, 2.1 GB", "no")
    assert lines.pop("512 x 512, once read: under 0.5 s") == ("0.4 s, 0.9 GB", "yes")
    assert lines.pop("512 x 512, from the command's start to its end: under 6 s") == ("3.5 s, 0.9 GB", "yes")
    assert not lines  # the others were not measured, and nothing was drawn whole
    compared = drawing.goals([*rows, row(drawing.SMALL, drawing.WHOLE, 0.2, 900.0)])[3:]
    quantities = [(one["limits"], one["found"], one["met"]) for one in compared]
    assert quantities == [({"ratio": 1.0}, {"ratio": 2.0}, False)] * 3
    title = "512 x 512, float32 / the whole picture at once, time: at most 1"
    assert cells(shown("goals", compared))[1] == [title, "2", "no"]
    failed = {"height": 3000, "width": 4000, "way": drawing.USUAL, "failed": "it was killed"}
    line = ["12 megapixels, once read: under 20 s and under 2 GB", "it was killed", "no"]
    assert cells(shown("goals", drawing.goals([failed]))) == [line]


def test_the_goals_that_are_in_git_are_those_of_the_numbers_beside_them():
    path = files.ROOT / "results" / "bench" / "cpu.json"
    if not path.exists():
        pytest.skip("needs the results that come with the project: git checkout results/bench")
    kept = json.loads(path.read_text(encoding="utf-8"))["performance"]
    goals = drawing.goals(kept["drawing"])
    assert kept["drawing_goals"] in (goals, cells(shown("goals", goals)))  # older files have texts


def test_models_in_fewer_bits_are_smaller_and_their_error_is_measured():
    if not shipped.styles():
        pytest.skip("needs the generators that come with the project: git checkout results/reference/generators")
    full, half, int8 = drawing.variants(shipped.styles()[0], 1, side=96)
    assert [row["model"] for row in (full, half, int8)] == ["float32", "float16", "int8"]
    assert full["mean_difference"] == full["largest_difference"] == 0
    assert half["largest_difference"] < int8["largest_difference"]
    assert full["mb"] > 1.8 * half["mb"] > 3 * int8["mb"]


def test_a_process_measures_one_way_and_one_that_fails_says_why(monkeypatch):
    if not shipped.styles():
        pytest.skip("needs the generators that come with the project: git checkout results/reference/generators")
    with measuring.Process() as process:
        found = process(drawing.draw_here, "float32", shipped.styles()[0], 64, 80, 1)
    assert 0 < found["seconds"]["min"] <= found["seconds"]["max"] < 60 and 100 < found["peak_mb"] < 4000
    found = drawing.time_command(photo := drawing._photo(64, 80), 1)
    assert 0 < found["seconds"]["min"] < 60 and 100 < found["peak_mb"] < 4000
    monkeypatch.setattr(photo, "save", lambda path, quality: None)
    with pytest.raises(InputError, match="photo.jpg") as problem:
        drawing.time_command(photo, 1)
    assert "Traceback" not in str(problem.value)


def test_a_frame_of_a_film_is_measured_beside_the_photo():
    found = drawing.draw_here(drawing.FILM, shipped.styles()[0], 64, 64, 1)
    assert 0 < found["seconds"]["min"] < 60 and found["peak_mb"] > 100


def test_flicker_takes_the_motion_out():
    """A generator that gives the photo back flickers as the film does; one that draws a fixed pattern flickers more."""
    identity = Generator().eval().requires_grad_(False)
    identity.unfiltered, identity.filter_eps = lambda image: image, 1e-9
    still = drawing.flicker(identity, frames=3)
    assert still["film"] == pytest.approx(2 * 2 / np.pi**0.5, rel=0.1)  # of two frames' noise of deviation 2
    assert still["film_squares"] == pytest.approx(still["film"] / 4, rel=0.1)
    assert still["alone"] == pytest.approx(still["film"], rel=0.05) and still["cartoon"] < still["film"] / 2
    stripes = Generator().eval().requires_grad_(False)
    stripes.filter_eps = 1e-9
    stripes.unfiltered = lambda image: image + 0.3 * (torch.arange(image.shape[-1]) // 8 % 2)
    striped = drawing.flicker(stripes, frames=3)
    assert striped["alone"] > 1.5 * still["alone"] and striped["cartoon"] > 1.5 * still["cartoon"]
