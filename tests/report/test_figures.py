"""Every figure is drawn, says what the modules say, and is written to the same bytes twice."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from torch import nn

from cartoonlib.files import InputError
from cartoonlib.images import to_tensor
from cartoonlib.networks import Generator, PatchDiscriminator, count_parameters
from cartoonlib.report import diagrams, figures, plots, tables
from cartoonlib.report.paper import save_figure
from cartoonlib.report.render import shown

POINTS = np.full((16, 5, 2), 0.5)
LOG = [{"step": step, "content": 1 / step, "d_surface": 0.2} for step in range(1, 60)]


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


def _rows(metrics=("kid_cartoon", "landmark_error")) -> list[dict]:
    variants = ("untouched photo", "full method", "without texture", "more surface", "original")
    return [
        {"style": style, "variant": variant, "steps": 400, "seed": 0, "n": 64, "metric": metric, "features": "Net",
         "value": i + 1.0, "low": i + 0.5, "high": i + 0.9}  # as bootstraps of a biased statistic do: value outside
        for style in ("anime", "comic") for metric in metrics for i, variant in enumerate(variants)
    ]  # fmt: skip


def _texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def _pipeline(faces, second_head=24):
    images = dict.fromkeys(("photo", "target", "output", "surface", "structure", "cartoon", "real_surface"), faces)
    images |= dict.fromkeys(("texture", "real_texture"), faces[..., :1])
    images |= {"photo_points": POINTS, "output_points": POINTS}
    networks = {"generator": 1_234_567, "d_surface": 2222, "d_texture": 3333, "perceptual": "VGG19"}
    return diagrams.pipeline(images, networks | {"second_head": second_head})


DRAWINGS = {
    "pipeline": _pipeline,
    "generator": lambda faces: diagrams.generator_architecture(Generator()),
    "original generator": lambda faces: diagrams.generator_architecture(Generator(0.01, True, False, 0.1)),
    "discriminator": lambda faces: diagrams.discriminator_architecture(PatchDiscriminator(1, sigmoid=True)),
    "second head": lambda faces: diagrams.discriminator_architecture(PatchDiscriminator(1, features=24)),
    "comparison": lambda faces: figures.comparison(faces[:2], {"full method": faces[:2]}, {"full method": "content 1"}),
    "training_strip": lambda faces: figures.training_strip({1000: faces[:2], 0: faces[:2]}),
    "loss_curves": lambda faces: plots.loss_curves({"a": LOG, "b": LOG[:5]}, ["content", "d_surface"]),
    "metric_bars": lambda faces: plots.metric_bars(_rows(), "kid_cartoon", {"full": {"full method": 0}}),
    "tradeoff": lambda faces: plots.tradeoff(_rows()),
    "gallery": lambda faces: figures.gallery({"photo": faces[:5], "a longer title": faces[5:10]}),
    "points": lambda faces: figures.gallery({"photo": faces[:5], "grey": faces[:5, ..., :1]}, {"grey": POINTS}),
    "tones": lambda faces: figures.tone_histogram({"photos": figures.tones(faces), "one": figures.tones(faces[:1])}),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_drawn_and_saved_to_the_same_bytes(name, faces, tmp_path):
    for path in (tmp_path / "one.png", tmp_path / "two.png"):
        figure = DRAWINGS[name](faces)
        assert figure.get_size_inches()[0] * 150 <= 1600
        save_figure(figure, path)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["one.png", "two.png"]  # no temporary file left
    assert not plt.get_fignums()  # pyplot keeps none


def test_pipeline_names_every_loss_and_count(faces):
    texts = _texts(_pipeline(faces))
    for word in ("landmark", "anchor", "content", "tv", "surface", "texture", "structure"):
        assert rf"\mathrm{{{word}}}" in texts
    assert "1,234,567" in texts and "2,222" in texts and "3,333" in texts and "VGG19" in texts


def test_the_pipeline_shows_a_real_cartoon_to_both_discriminators(faces):
    """Eleven pictures: with one more than one white face in them, the places of the white ones say who is who."""
    white = np.full_like(faces[:1], 255)
    names = ("photo", "target", "output", "surface", "structure", "texture")
    images = dict.fromkeys(names, faces) | dict.fromkeys(("cartoon", "real_surface", "real_texture"), white)
    images |= {"photo_points": POINTS, "output_points": POINTS}
    counts = dict.fromkeys(("generator", "d_surface", "d_texture", "second_head"), 1) | {"perceptual": "VGG19"}
    shown = diagrams.pipeline(images, counts).axes[0].images
    real = [picture.get_extent() for picture in shown if np.asarray(picture.get_array()).min() == 255]
    assert len(shown) == 11 and len(real) == 3
    assert len({(left, right) for left, right, _, _ in real}) == 1  # in one column
    heights = {
        name: sum(ends) / 2 for name, ends in zip(("surface", "texture", "cartoon"), sorted(e[2:] for e in real))
    }
    assert sorted(heights.values()) == pytest.approx([0.95, 2.2, 3.65])  # beside its counterparts, and between them


def test_a_second_head_is_drawn_where_there_is_one(faces):
    assert "second head" in _texts(_pipeline(faces)) and "second head" not in _texts(_pipeline(faces, 0))
    texts = _texts(diagrams.discriminator_architecture(PatchDiscriminator(1, slope=0.3, features=24)))
    assert "judges 24 features" in texts and texts.count("k1n128s1") == 1 and texts.count("LeakyReLU 0.3") == 3
    assert "7 spectrally normalised" in texts  # of the first head
    assert "second head" not in _texts(diagrams.discriminator_architecture(PatchDiscriminator(1)))


def test_alignment_shows_the_square_that_is_cut_and_what_becomes_of_it(face_photos):
    """A face that is turned has a square that is turned as far, and the same aligned face."""
    photo = np.pad(face_photos[0], ((64, 64), (64, 64), (0, 0)), mode="edge")
    turned = np.asarray(Image.fromarray(photo).rotate(20, Image.Resampling.BICUBIC))
    ax = figures.alignment([photo, turned]).axes[0]
    squares = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 5 and line.get_marker() == "None"]
    angles = [np.degrees(np.arctan2(*(square[1] - square[0])[::-1])) for square in squares]
    assert angles[0] - angles[1] == pytest.approx(20, abs=3)  # y points down
    for square in squares:
        sides = np.linalg.norm(np.diff(square, axis=0), axis=1)
        assert sides == pytest.approx([sides[0]] * 4) and np.allclose(square[0], square[4])
    _, upright, _, again = (np.asarray(picture.get_array()).astype(int) for picture in ax.images)
    assert abs(upright - again).mean() < 12


def test_a_tone_is_the_median_of_the_middle_from_dark_to_light():
    faces = np.full((3, 64, 64, 3), 20, np.uint8)
    faces[0, 24:, 16:48], faces[1, 24:, 16:48], faces[2, 24:, 16:48] = (200, 150, 120), 128, (90, 60, 40)
    faces[0, 30:34, 22:26] = 0  # an eye
    colours, light = figures.tones(faces)
    assert colours.tolist() == [[90, 60, 40], [128, 128, 128], [200, 150, 120]]
    assert light[1] == pytest.approx(53.6, abs=0.1) and (np.diff(light) > 0).all()  # CIELAB's L of mid-grey


def test_bricks_of_one_lightness_are_piled_up_in_their_own_colours():
    colours = np.array([[10, 10, 10], [200, 150, 120], [201, 150, 120]], np.uint8)
    figure = figures.tone_histogram(
        {"photos": (colours, np.array([2.6, 66.0, 66.1])), "one": (colours[:1], np.array([2.6]))}
    )
    bricks = [(brick.get_x(), brick.get_y(), brick.get_facecolor()[:3]) for brick in figure.axes[0].patches]
    assert [brick[1] for brick in bricks] == [0, 0, 1] and bricks[1][0] == bricks[2][0] > bricks[0][0]
    assert np.allclose([brick[2] for brick in bricks], colours / 255)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["photos, n = 3", "one, n = 1"]


def test_what_the_losses_see_are_pictures_that_repeat(faces):
    images = to_tensor(faces[:2])
    seen, again = figures.represented(images, TINY), figures.represented(images, TINY)
    assert {name: (view.shape, view.dtype) for name, view in seen.items()} == {
        "structure": (faces[:2].shape, np.uint8), "texture": ((2, 32, 32, 1), np.uint8),
        "surface": (faces[:2].shape, np.uint8),
    }  # fmt: skip
    assert all(np.array_equal(seen[name], again[name]) for name in seen)
    other = figures.represented(images, TINY.replace(seed=1))
    assert not np.array_equal(seen["texture"], other["texture"])  # its grey is drawn with the seed


def test_the_pipeline_counts_the_networks_of_the_profile(lite0):
    counts = diagrams.pipeline_counts(Generator().requires_grad_(False), TINY, lite0)
    assert counts["generator"] == count_parameters(Generator()) and counts["perceptual"] == "EfficientNet-Lite0"
    plain = diagrams.pipeline_counts(Generator(), TINY.replace(texture_features=False), lite0)
    assert plain["d_texture"] == count_parameters(PatchDiscriminator(1)) < counts["d_texture"]


def test_generator_labels_are_read_off_the_module():
    generator = Generator(filter_eps=0.03)
    texts = _texts(diagrams.generator_architecture(generator))
    assert f"{count_parameters(generator):,} parameters" in texts
    assert "k7n32s1" in texts and "k3n64s2" in texts and "8 × k3n128s1" in texts and "ε = 0.03" in texts
    assert "skip" in texts and "unused" not in texts and "tanh" not in texts
    generator.down2[0] = nn.Conv2d(64, 48, 5, stride=4)
    generator.blocks[1].conv2 = nn.Conv2d(128, 96, 3)
    texts = _texts(diagrams.generator_architecture(generator))
    assert "k5n48s4" in texts and "H/8 × W/8" in texts and "k3n64s2" not in texts
    assert "7 × k3n128s1\nk3n96s1" in texts and f"{count_parameters(generator):,} parameters" in texts


def test_dead_skips_are_shown_as_unused():
    texts = _texts(diagrams.generator_architecture(Generator(slope=0.01, tanh=True, skips=False)))
    assert "skip (unused)" in texts and "tanh" in texts and "LeakyReLU 0.01" in texts


def test_discriminator_labels_are_read_off_the_module():
    discriminator = PatchDiscriminator(3)
    texts = _texts(diagrams.discriminator_architecture(discriminator))
    assert "3 channels" in texts and "k3n128s2\nk3n128s1" in texts and "k1n1s1" in texts and "sigmoid" not in texts
    assert "43 × 43 px" in texts and "every 8 × 8 px" in texts and "7 spectrally normalised" in texts
    discriminator.layers[0] = nn.Conv2d(3, 40, 5, stride=1)
    texts = _texts(diagrams.discriminator_architecture(discriminator))
    assert "k5n40s1" in texts and "every 4 × 4 px" in texts and "spectrally" not in texts
    assert "sigmoid" in _texts(diagrams.discriminator_architecture(PatchDiscriminator(1, sigmoid=True)))


def test_only_discriminator_panels_have_the_reference_line():
    assert _texts(plots.loss_curves({"run": LOG}, ["content", "d_surface"])).count("cannot tell") == 1


def test_a_run_that_logged_once_shows_a_point():
    panel = plots.loss_curves({"run": LOG[:1]}, ["content"]).axes[0]
    assert [line.get_marker() for line in panel.lines][-1] == "."
    assert [line.get_marker() for line in plots.loss_curves({"run": LOG}, ["content"]).axes[0].lines][-1] == ""


def test_labels_of_the_tradeoff_do_not_overlap():
    figure = plots.tradeoff(_rows())
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [plt.Text.get_window_extent(text) for text in ax.texts]
        assert len(boxes) == 5
        assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))


def test_table():
    lines = tables.table_markdown(_rows(), ["kid_cartoon", "landmark_error"]).splitlines()
    assert lines[0] == "| style | variant | KID × 1000 to cartoons ↓ (Net) | landmark error / eye distance ↓ (Net) |"
    assert lines[3] == "| anime | full method | 2 [1.5, 1.9] | 2 [1.5, 1.9] |"
    assert len(lines) == 2 + 10
    one_style = [row for row in _rows(("flatness",)) if row["style"] == "anime"]
    assert tables.table_markdown(one_style, ["flatness"]).startswith("| variant | share of flat pixels (Net) |")


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda faces: figures.gallery({"photo": faces / 255}), "must be a uint8 array"),
        (lambda faces: figures.alignment([faces[0] * 0]), "finds no face in photo 1: turn it less"),
        (lambda faces: figures.comparison(faces, {"a": faces[:2]}), "different numbers of images"),
        (lambda faces: figures.training_strip({}), "no samples"),
        (
            lambda faces: diagrams.pipeline({"photo": faces}, {}),
            "lacks cartoon, d_surface, d_texture, generator, output",
        ),
        (lambda faces: plots.loss_curves({"a": LOG}, ["other"]), "none of the losses other"),
        (lambda faces: plots.metric_bars(_rows(), "fid"), "choose one of kid_cartoon, landmark_error"),
        (lambda faces: plots.tradeoff([{"metric": "kid_cartoon"}]), "lack style"),
    ],
)
def test_bad_input_is_one_sentence(draw, message, faces):
    with pytest.raises(InputError, match=message):
        draw(faces)


def test_seeds_are_told_one_by_one_with_mean_and_deviation():
    row = {"variant": "original", "metric": "landmark_error", "features": "faceapi68", "values": [0.1, 0.2, 0.3]}
    line = shown("seeds", [row | {"mean": 0.2, "deviation": 0.1}]).splitlines()[-1]
    assert line == "| original | landmark error / eye distance ↓ (faceapi68) | 0.1, 0.2, 0.3 | 0.2 ± 0.1 |"
