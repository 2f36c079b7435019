"""What notebook 06 measures of drawing photos: its table, its processes, and the flicker of a film."""

import numpy as np
import pytest
import torch

from cartoonlib.bench import drawing
from cartoonlib.networks import Generator
from cartoonlib.photos import shipped
from cartoonlib.profile import load_profile


def test_more_repeats_measure_more_sizes():
    counts = [len(drawing.sizes(load_profile("bench", {"bench_repeats": repeats}))) for repeats in (1, 2, 5)]
    assert counts == [1, 2, 6] and drawing.sizes(load_profile("bench"))[-1] == (4000, 6000)


def test_the_table_has_a_line_a_size_and_says_what_failed_or_was_not_tried():
    row = {"height": 3000, "width": 4000, "way": drawing.USUAL, "seconds": {"median": 2.5}, "peak_mb": 1234.0}
    (line,) = drawing.lines([row, {"height": 3000, "width": 4000, "way": "float32", "failed": "it was killed"}])
    assert line[0] == "4000 x 3000, 12 MP" and len(line) == 1 + len(drawing.WAYS)
    cells = dict(zip(drawing.WAYS, line[1:], strict=True))
    assert cells[drawing.USUAL] == "2.5 s, 1.23 GB" and cells["float32"] == "it was killed"
    assert cells[drawing.WHOLE] == "not tried"


def test_goals_compare_with_what_was_asked_and_with_the_generator_alone():
    def row(size, way, seconds, mb):
        return {"height": size[0], "width": size[1], "way": way, "seconds": {"median": seconds}, "peak_mb": mb}

    rows = [row(drawing.PHONE, drawing.USUAL, 2.5, 2100.0), row(drawing.SMALL, drawing.COMMAND, 3.5, 900.0)]
    rows += [row(drawing.SMALL, way, 0.4, 900.0) for way in (drawing.USUAL, "float32", "bfloat16")]
    rows += [{"height": 512, "width": 512, "way": "ONNX Runtime", "failed": "it was killed"}]
    lines = {title: (found, met) for title, found, met in drawing.goals(rows)}
    assert lines.pop("12 megapixels, once read: under 20 s and under 2 GB") == ("2.5 s, 2.1 GB", "no")
    assert lines.pop("512 x 512, once read: under 0.5 s") == ("0.4 s, 0.9 GB", "yes")
    assert lines.pop("512 x 512, from the command's start to its end: under 6 s") == ("3.5 s, 0.9 GB", "yes")
    assert not lines  # the others were not measured, and nothing was drawn whole
    compared = drawing.goals([*rows, row(drawing.SMALL, drawing.WHOLE, 0.2, 900.0)])[3:]
    assert [line[1:] for line in compared] == [["2", "no"]] * 3
    failed = {"height": 3000, "width": 4000, "way": drawing.USUAL, "failed": "it was killed"}
    assert drawing.goals([failed]) == [["12 megapixels, once read: under 20 s and under 2 GB", "it was killed", "no"]]


def test_models_in_fewer_bits_are_smaller_and_their_error_is_measured():
    if not shipped.styles():
        pytest.skip("needs the generators that come with the project: git checkout results/reference/generators")
    full, half, int8 = drawing.variants(shipped.styles()[0], 1, side=96)
    assert [line[0] for line in (full, half, int8)] == ["float32", "float16", "int8"]
    assert full[3:] == ["0", "0"] and int(half[4]) < int(int8[4])
    assert float(full[1]) > 1.8 * float(half[1]) > 3 * float(int8[1])


def test_a_process_measures_one_way_and_one_that_fails_says_why():
    if not shipped.styles():
        pytest.skip("needs the generators that come with the project: git checkout results/reference/generators")
    found, seconds = drawing._timed("-m", "cartoonlib.bench", "draw", "float32", shipped.styles()[0], "64", "80", "1")
    assert 0 < found["seconds"]["min"] <= found["seconds"]["max"] < seconds and 100 < found["peak_mb"] < 4000
    failed, _ = drawing._timed("-c", drawing.ONLY_THE_COMMAND, "no such photo.jpg", "-o", "nowhere")
    assert "no such photo.jpg" in failed["failed"] and "Traceback" not in failed["failed"]


def test_flicker_takes_the_motion_out():
    """A generator that gives the photo back flickers as the film does; one that draws a fixed pattern flickers more."""
    identity = Generator().eval().requires_grad_(False)
    identity.unfiltered, identity.filter_eps = lambda image: image, 1e-9
    still = drawing.flicker(identity, frames=3)
    assert still["film"] == pytest.approx(2 * 2 / np.pi**0.5, rel=0.1)  # of two frames' noise of deviation 2
    assert still["cartoon"] == pytest.approx(still["film"], rel=0.05)
    stripes = Generator().eval().requires_grad_(False)
    stripes.filter_eps = 1e-9
    stripes.unfiltered = lambda image: image + 0.3 * (torch.arange(image.shape[-1]) // 8 % 2)
    assert drawing.flicker(stripes, frames=3)["cartoon"] > 1.5 * still["cartoon"]

