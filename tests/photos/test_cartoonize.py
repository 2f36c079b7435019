"""Any photo in, a cartoon out: sizes, tiles, strength, formats, folders, what is loaded, what is said of bad files."""

import copy
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types
import zlib
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageCms
from skimage.measure import find_contours

from cartoonlib import files, networks
from cartoonlib.files import InputError
from cartoonlib.media import pictures
from cartoonlib.media.faces import Face, detect_faces
from cartoonlib.media.pictures import read_picture
from cartoonlib.networks import Generator
from cartoonlib.photos import Cartoonizer, adjust, cartoonizer, cli, draw, formats, onnx, page, shipped, tflite, video
from cartoonlib.photos.draw import _spans, _tile, cartoonize, usual_scale, view_size
from cartoonlib.photos.onnx import OnnxGenerator, export_onnx, to_onnx
from cartoonlib.photos.steady import Steady
from cartoonlib.report import metrics


@pytest.fixture(scope="module")
def generator():
    """One that changes everything: an untrained tail would leave the picture grey."""
    torch.manual_seed(0)
    network = Generator().eval().requires_grad_(False)
    torch.nn.init.normal_(network.tail.weight, std=0.05)
    return network


@pytest.fixture(scope="module")
def pen(generator):
    """The same without the guided filter, so that its cartoons are drawings."""
    network = copy.deepcopy(generator)
    network.filter_radius = 0
    return network


@pytest.fixture(scope="module")
def photo(face_photos):
    return np.array(Image.fromarray(face_photos[0]).resize((413, 299), Image.Resampling.BICUBIC))


@pytest.fixture
def plain(tmp_path, monkeypatch, generator):
    """A style `plain` that comes with the project."""
    monkeypatch.setattr(shipped, "GENERATORS", tmp_path / "generators")
    path = tmp_path / "generators" / "plain.safetensors"
    networks.save_generator(generator, path)
    card = f"SHA-256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`"
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    return path


# --- the network on a picture of any size -----------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["generator", "pen"])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (299, 413), (64, 300)])
def test_at_full_scale_it_is_what_the_generator_draws(size, network, photo, request):
    generator = request.getfixturevalue(network)
    part = photo[: size[0], : size[1]]
    cartoon = cartoonize(generator, part, scale=1)
    assert cartoon.shape == part.shape and cartoon.dtype == np.uint8
    difference = cartoon.astype(int) - metrics.generate(generator, part[None])[0]
    assert abs(difference).max() <= 1 and abs(cartoon.astype(int) - part).mean() > 5


@pytest.mark.parametrize(
    ("scale", "options"),
    [(1, {}), (0.6, {}), (1, {"outline": 2}), (0.6, {"outline": 0}), (0.6, {"keep_colors": 0.7, "outline": 1.5})],
)
@pytest.mark.parametrize("network", ["generator", "pen"])
def test_tiles_meet_without_a_seam(scale, options, network, photo, monkeypatch, request):
    generator = request.getfixturevalue(network)
    way = {"scale": scale, **options}
    whole = cartoonize(generator, photo, memory=5000, **way).astype(int)
    spans = []
    monkeypatch.setattr(draw, "_tile", lambda *a, tile=_tile: (spans.append(a[-1]), tile(*a)))
    shares = []
    tiled = cartoonize(generator, photo, memory=1, progress=shares.append, **way)
    assert len(spans) == len(shares) > 5 and sum(shares) == pytest.approx(1)
    assert abs(tiled - whole).max() <= 1 and (tiled != whole).mean() < 0.001
    monkeypatch.setattr(draw, "MARGIN", 16 if network == "generator" else 4)  # the test sees a seam where there is one
    monkeypatch.setattr(draw, "AROUND", 0)
    monkeypatch.setattr(draw, "REACH", 0)
    seamed = cartoonize(generator, photo, memory=1, **way)
    assert abs(seamed - whole).max() > 1


def test_spans_cover_a_side_once_and_begin_at_multiples_of_the_network():
    for length in (16, 63, 64, 65, 1000, 4001):
        for core in (64, 100, 512):
            spans = list(_spans(length, core))
            assert [end for _, end in spans[:-1]] == [begin for begin, _ in spans[1:]]
            assert spans[0][0] == 0 and spans[-1][1] == length and all(begin % 4 == 0 for begin, _ in spans)
            assert max(end - begin for begin, end in spans) <= core + 3


@pytest.mark.parametrize("network", ["generator", "pen"])
def test_blocks_join(network, photo, monkeypatch, request):
    generator = request.getfixturevalue(network)
    whole = [cartoonize(generator, photo, scale=scale) for scale in (1, 0.6)]
    monkeypatch.setattr(draw, "BLOCK", 45)
    for scale, expected in zip((1, 0.6), whole, strict=True):
        difference = abs(cartoonize(generator, photo, scale=scale).astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001  # positions are rounded


def test_a_smaller_view_keeps_the_edges_of_the_photo(generator, photo):
    """A step that is sharp in the photo is as sharp in the cartoon, though the network saw a third of the size."""
    identity = Generator().eval().requires_grad_(False)
    identity.unfiltered = lambda image: image
    step = np.full((300, 300, 3), 40, np.uint8)
    step[:, 150:] = 220
    drawn = cartoonize(identity, step, scale=1 / 3).astype(int)
    assert (drawn[:, 150] - drawn[:, 149]).min() > 140 and abs(drawn - step).max() < 20
    enlarged = np.asarray(Image.fromarray(step).resize((100, 100)).resize((300, 300))).astype(int)
    assert (enlarged[:, 150] - enlarged[:, 149]).max() < 90


@pytest.fixture
def disc():
    """A dark disc on a light ground with faint ripples, as a network draws it: float32 (3, 60, 60) in [-1, 1]."""
    y, x = np.mgrid[:60, :60]
    edge = 1 / (1 + np.exp(-2 * (np.hypot(x - 29.5, y - 29.5) - 18)))
    return np.stack([1.4 * edge - 0.8 + 0.01 * np.sin(2 * x + y)] * 3).astype(np.float32)


@pytest.mark.parametrize("ratio", [1.5, 2.5, 4, 7])
def test_contours_of_an_enlarged_drawing_are_crisp_and_no_stairs(disc, ratio):
    size, box = (round(60 * ratio),) * 2, (0, 0, 60, 60)
    soft, drawn = adjust.resized(disc, size)[0], adjust.crisp(disc, size, box, adjust.finer(ratio))[0]
    ramps = [np.mean((picture > -0.6) & (picture < 0.4)) for picture in (soft, drawn)]
    assert ramps[1] < 0.7 * ramps[0]
    line = drawn[size[1] // 2, size[0] // 2 :]
    assert np.diff(line).min() > -0.015 and line.max() < soft.max() + 0.02  # no halo
    contours = [max(find_contours(picture, -0.1), key=len) - (size[0] - 1) / 2 for picture in (soft, drawn)]
    uneven = [np.hypot(*contour.T).std() for contour in contours]
    assert uneven[1] < 2 * uneven[0]  # values that jump give 3.5 to 6 times as much: stairs
    flat = np.s_[: round(6 * ratio), : round(6 * ratio)]
    assert abs(drawn - soft)[flat].max() < 0.01  # ripples do not become lines


def test_a_part_of_a_drawing_is_the_part_of_the_whole(disc):
    whole = adjust.crisp(disc, (150, 150), (0, 0, 60, 60), 3)
    part, box = adjust.part_of(disc, (20, 30, 40, 40))
    assert part.shape[1] < 25 and abs(adjust.crisp(part, (50, 25), box, 3) - whole[:, 75:100, 50:100]).max() < 1e-5


@pytest.mark.parametrize("ratio", [1.2, 1.5, 2, 5])
def test_a_thin_line_does_not_pale(ratio):
    line = np.full((3, 40, 40), 0.4, np.float32)
    line[:, :, 20] = -0.4
    size = (round(40 * ratio),) * 2
    soft, drawn = adjust.resized(line, size), adjust.crisp(line, size, (0, 0, 40, 40), adjust.finer(ratio))
    assert drawn.min() < soft.min() + 0.02 and soft.min() < 0


def test_strength_goes_from_the_photo_to_the_cartoon(generator, photo):
    drawn = [cartoonize(generator, photo, strength=s).astype(int) for s in (0, 0.5, 1)]
    assert np.array_equal(drawn[0], photo)
    clipped = (drawn[2] == 0) | (drawn[2] == 255)
    assert abs(drawn[1] - (drawn[0] + drawn[2]) / 2)[~clipped].max() <= 1


# --- contours and colours ---------------------------------------------------------------------------------------------


@pytest.fixture
def inked():
    """A generator that draws a black line, 3 px wide, where photos have a step from dark to light at column 100."""
    identity = Generator().eval().requires_grad_(False)

    def draw_line(image):
        drawn = image.clone()
        drawn[..., 97:100] = -1
        return drawn

    identity.unfiltered = draw_line
    return identity


def test_outlines_change_the_ink_that_the_style_drew(inked):
    step = np.full((120, 200, 3), (90, 70, 60), np.uint8)
    step[:, 100:] = (220, 200, 190)
    none, some, as_drawn, strong = (cartoonize(inked, step, scale=1, outline=k).astype(int) for k in (0, 0.5, 1, 2))
    assert np.array_equal(as_drawn, cartoonize(inked, step, scale=1))
    darkest = [picture[60, 90:100].min() for picture in (none, some, as_drawn, strong)]
    assert darkest[0] > 0.85 * step[60, 90].min() and darkest == sorted(darkest, reverse=True) and darkest[3] < 10
    assert abs(none - step).max() < 40 < abs(as_drawn - step).max()  # no halo where the line was
    for picture in (none, some, strong):  # and nothing else
        assert np.array_equal(picture[:, :80], as_drawn[:, :80]) and np.array_equal(picture[:, 120:], as_drawn[:, 120:])


def test_lines_of_the_photo_are_no_outlines():
    identity = Generator().eval().requires_grad_(False)
    identity.unfiltered = lambda image: image
    eye = np.full((80, 80, 3), (200, 160, 140), np.uint8)
    eye[38:42, 30:50] = 20
    drawn = [cartoonize(identity, eye, scale=1, outline=k) for k in (0, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[2], drawn[1])


def luma(picture: np.ndarray) -> np.ndarray:
    return picture.astype(float) @ (0.299, 0.587, 0.114)


def test_kept_colours_lie_in_the_light_of_the_cartoon(generator, photo):
    cartoon, half, kept = (cartoonize(generator, photo, scale=0.6, keep_colors=k).astype(int) for k in (0, 0.5, 1))
    assert np.array_equal(cartoon, cartoonize(generator, photo, scale=0.6))
    assert abs(luma(kept) - luma(cartoon)).mean() < 3 < abs(kept - cartoon).mean()
    inside = ((cartoon % 255 > 0) & (kept % 255 > 0)).all(axis=-1)
    assert abs(half - (cartoon + kept) / 2)[inside].max() <= 1
    grey = np.repeat(np.rint(luma(photo)).astype(np.uint8)[..., None], 3, axis=-1)
    assert np.ptp(cartoonize(generator, grey, keep_colors=1), axis=-1).max() <= 1 < np.ptp(cartoon, axis=-1).max()
    assert np.array_equal(cartoonize(generator, photo, strength=0, keep_colors=1), photo)


def test_ink_has_no_colour_and_light_skin_does_not_pale():
    photo = torch.tensor([0.4, 0.0, -0.2]).view(1, 3, 1, 1)
    levels = torch.tensor([-1.0, -0.5, 0.2]).view(3, 1, 1, 1).expand(3, 3, 1, 1)
    ink, dark, light = adjust.recoloured(levels, photo, 1.0)
    assert ink.tolist() == [[[-1]]] * 3
    change = adjust.recoloured(levels, photo, 1.0) - levels
    assert abs(change.squeeze() @ torch.tensor([0.299, 0.587, 0.114])).max() < 1e-6  # luma stays
    spread = float(photo.max() - photo.min())
    assert dark.max() - dark.min() < 0.6 * spread and spread < light.max() - light.min() <= adjust.BRIGHTER * spread


# --- as a library -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}), ("a.png", {"strength": 0.5, "scale": 0.5}), ("a.png", {"keep_colors": 0.4, "outline": 1.6}),
        ("a.png", {"faces": True, "outline": 0.0}), ("turned.jpg", {}), ("alpha.png", {"memory": 100}),
    ],
)  # fmt: skip
def test_the_library_draws_what_the_command_draws(name, options, plain, face_photos, tmp_path):
    scene, exif = Image.fromarray(face_photos[0]).resize((200, 260)), Image.Exif()
    exif[0x0112] = 6 if name == "turned.jpg" else 1
    if name == "alpha.png":
        scene.putalpha(120)
    source = saved(scene, tmp_path / name, exif=exif)
    given = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    given = ["--faces" if word == "--faces" else word for word in given if word != "True"]
    assert command(source, "-o", tmp_path / "out", "--style", "plain", *given) == 0
    draws = Cartoonizer("plain", **options)
    with Image.open(source) as image:
        drawn = draws(image)
    if name == "turned.jpg":  # what is written is not exact
        assert np.array_equal(np.asarray(drawn), draws(read_picture(source)[0]))
        assert drawn.size == (260, 200)
        return
    made = np.asarray(Image.open(tmp_path / "out" / name.replace(".", "-plain.")))
    assert np.array_equal(np.asarray(drawn), made)
    if name == "a.png":
        array = np.asarray(scene)
        assert np.array_equal(draws(array), made)
        floats = draws((array / 255).astype(np.float32))
        assert floats.dtype == np.float32 and np.array_equal(np.rint(floats * 255), made)


@pytest.mark.parametrize(
    ("options", "image", "words"),
    [
        ({"outline": 3}, None, "outline is 3: give a number from 0 to 2."),
        ({"keep_colors": "much"}, None, "keep_colors is 'much'"), ({"strength": None}, None, "strength is None"),
        ({"style": "paprika"}, None, "no style `paprika`"), ({}, np.zeros((40, 50), np.uint8), r"not uint8 \(40, 50\)"),
        ({}, np.zeros((40, 50, 3)) + 7, "uint8 or in"), ({}, np.zeros((8, 50, 3), np.uint8), "of 16 px or more"),
        ({}, [], "not float64"),
    ],
)  # fmt: skip
def test_wrong_use_of_the_library_is_one_sentence(options, image, words, plain):
    with pytest.raises(InputError, match=words):
        Cartoonizer(**{"generator": options.pop("style", "plain"), **options})(image)


# --- what the network looks at ----------------------------------------------------------------------------------------


def detector(*found: tuple[float, float]):
    """Stands in for the detector: faces of such a share of the picture's width, with such a probability."""

    def detect(picture):
        boxes = [np.array([0, 0, share * picture.shape[1], share * picture.shape[0]]) for share, _ in found]
        return [Face(np.zeros((5, 2)), box, probability) for box, (_, probability) in zip(boxes, found, strict=True)]

    return detect


@pytest.fixture
def views(monkeypatch) -> list[tuple[int, int]]:
    """Heights and widths of the views that are drawn, one a photo of one tile."""
    seen = []
    monkeypatch.setattr(draw, "_tile", lambda *a: (seen.append(a[2].shape[:2]), _tile(*a)))
    return seen


def test_a_view_is_never_larger_than_the_photo_and_never_too_small_to_draw():
    assert view_size(3000, 4000, 0.25) == (750, 1000)
    assert view_size(3000, 4000, 0.001) == (16, 16)
    assert view_size(300, 400, 1) == view_size(300, 400, 2) == (300, 400)


def test_the_face_of_a_portrait_has_one_width_in_the_view():
    portrait = Image.fromarray(skimage.data.astronaut()[0:256, 96:352]).resize((1024, 1024), Image.Resampling.BICUBIC)
    rows, columns = view_size(1024, 1024, usual_scale([np.asarray(portrait)])[0])
    box = detect_faces(np.asarray(portrait.resize((columns, rows), Image.Resampling.LANCZOS)))[0].box
    assert box[2] - box[0] == pytest.approx(draw.FACE, rel=0.08)


@pytest.mark.parametrize(
    ("found", "scale"),
    [
        ([(0.5, 0.99)], 0.25), ([(0.2, 0.99), (0.5, 0.99)], 0.25),  # the largest counts
        ([(0.5, 0.8), (0.2, 0.95)], 0.625),  # of those that are certain
        ([(0.05, 0.99)], 1), ([(1, 0.99)], 0.125), ([], 512 / 800),
    ],
)  # fmt: skip
def test_the_largest_certain_face_sets_the_scale(found, scale, monkeypatch):
    monkeypatch.setattr(draw, "detect_faces", detector(*found))
    assert usual_scale([np.zeros((1000, 800, 3), np.uint8)])[0] == pytest.approx(scale, rel=0.01)


def test_a_view_has_a_least_size_and_small_photos_are_not_searched(monkeypatch):
    monkeypatch.setattr(draw, "detect_faces", detector((1, 0.99)))
    assert usual_scale([np.zeros((400, 4000, 3), np.uint8)])[0] == pytest.approx(64 / 400)
    monkeypatch.setattr(draw, "detect_faces", None)
    assert usual_scale([np.zeros((150, 4000, 3), np.uint8)])[0] == usual_scale([])[0] == 1


def test_without_a_detector_no_face_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    detect_faces.__globals__["_detector"].cache_clear()
    assert usual_scale([np.zeros((1024, 1024, 3), np.uint8)])[0] == 0.5


def test_a_scale_that_is_given_is_the_scale(plain, photo, tmp_path, views, monkeypatch):
    source, large = tmp_path / "a.png", np.asarray(Image.fromarray(photo).resize((400, 300)))
    Image.fromarray(large).save(source)
    monkeypatch.setattr(draw, "detect_faces", detector((0.5, 0.99)))
    for number, way in enumerate(([], ["--scale", "0.4"])):
        assert command(source, "-o", tmp_path / str(number), "--style", "plain", *way) == 0
    assert views == [(150, 200), (120, 160)]
    drawing = page.Drawing("large", large)
    for scale in (None, 0.4):
        drawing.draw(Cartoonizer("plain", scale=scale))
    assert views[-2:] == [(150, 200), (120, 160)]


@pytest.mark.parametrize("first", [0, 2])
def test_a_film_has_one_scale_by_the_first_face(first, plain, tmp_path, views, monkeypatch):
    looks = iter([[]] * first + [[(0.5, 0.99)], [(0.9, 0.99)]])
    monkeypatch.setattr(draw, "detect_faces", lambda picture: detector(*next(looks))(picture))
    source = film(tmp_path / "a.mp4", (320, 240), frames=14)
    assert command(source, "-o", tmp_path / "out", "--style", "plain") == 0
    assert len(views) == 14 and set(views) == {(150, 200)} and len(list(looks)) == 1
    assert command(source, "-o", tmp_path / "half", "--style", "plain", "--scale", "0.5") == 0
    assert set(views[14:]) == {(120, 160)}


def test_films_are_drawn_with_the_same_options(plain, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(cartoonizer, "cartoonize", lambda _, frame, **how: (told.append(how), frame)[1])
    ways = ["--strength", "0.5", "--scale", "0.5", "--keep-colors", "0.3", "--outline", "1.7", "--memory", "200"]
    assert command(film(tmp_path / "a.mp4"), "-o", tmp_path / "out", "--style", "plain", *ways) == 0
    wanted = {"strength": 0.5, "scale": 0.5, "keep_colors": 0.3, "outline": 1.7, "memory": 200, "progress": None}
    assert len(told) == 8 and all(how == wanted for how in told)


def test_the_command_draws_films_steadily_and_says_how_fast(plain, tmp_path, monkeypatch, capsys):
    light = itertools.cycle([100, 110])
    monkeypatch.setattr(cartoonizer, "cartoonize", lambda _, frame, **how: np.full_like(frame, next(light)))
    assert command(film(tmp_path / "a.mp4"), "-o", tmp_path / "out", "--style", "plain") == 0
    with av.open(str(tmp_path / "out" / "a-plain.mp4")) as copy:
        lights = [frame.to_ndarray(format="rgb24").mean() for frame in copy.decode(video=0)]
    assert len(lights) == 8 and abs(lights[0] - 100) < 2 and abs(np.diff(lights)).max() < 5
    assert re.search(r"a\.mp4: 8 frames, \d+\.\d\d a second", capsys.readouterr().err)


def test_faces_alone_are_drawn(generator, face_photos):
    scene = np.full((400, 500, 3), 127, np.uint8)
    scene[100:228, 180:308] = face_photos[0]
    drawn = Cartoonizer(generator, faces=True)(scene)
    changed = (drawn != scene).any(axis=-1)
    assert changed[130:200, 210:280].mean() > 0.9
    assert not changed[:20].any() and not changed[:, :50].any() and not changed[:, -50:].any()


@pytest.fixture
def group(face_photos, monkeypatch):
    """A picture with faces at (left, width) of 800 px, all 100 px from the top; and what sets these."""

    def of(*places):
        def detect(picture):
            ratio = picture.shape[1] / 800
            boxes = [np.array([left, 100, left + width, 100 + 1.3 * width]) * ratio for left, width in places]
            return [Face(np.zeros((5, 2)), box, 0.99) for box in boxes]

        monkeypatch.setattr(draw, "detect_faces", detect)

    return np.array(Image.fromarray(face_photos[0]).resize((800, 600), Image.Resampling.BICUBIC)), of


def test_faces_of_different_sizes_are_drawn_at_scales_of_their_own(generator, group, plain, tmp_path, capsys):
    picture, faces_at = group
    faces_at((100, 250), (600, 100))
    drawn, notes = Cartoonizer(generator).draw(picture)
    assert notes == ["faces found: 2; small ones, each drawn at its own scale: 1"]
    bold, fine = cartoonize(generator, picture, scale=0.4), cartoonize(generator, picture, scale=1.0)
    small = np.s_[140:190, 625:675]
    drawn, bold, fine = (cartoon.astype(int) for cartoon in (drawn, bold, fine))
    assert abs(drawn - fine)[small].max() < 5 < abs(fine - bold)[small].max()  # cut out at another pixel, so not exact
    assert np.array_equal(drawn[350:], bold[350:]) and np.array_equal(drawn[:, :450], bold[:, :450])
    low, high = np.minimum(bold, fine) - 5, np.maximum(bold, fine) + 5
    assert ((drawn >= low) & (drawn <= high)).all()  # so that no line is drawn twice where they are blended
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert command(tmp_path / "a.png", "-o", tmp_path / "out", "--style", "plain") == 0
    assert f"a.png: {notes[0]}" in capsys.readouterr().err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a-plain.png")), drawn)


@pytest.mark.parametrize(
    ("places", "options"),
    [([(100, 250), (600, 180)], {}), ([(100, 90), (600, 30)], {}), ([(100, 250), (600, 100)], {"scale": 0.4})],
)
def test_faces_of_like_size_or_scale_are_drawn_with_the_picture(places, options, generator, group):
    picture, faces_at = group
    faces_at(*places)
    drawn, notes = Cartoonizer(generator, **options).draw(picture)
    scale = options.get("scale", min(1, 100 / max(width for _, width in places)))
    assert not notes and np.array_equal(drawn, cartoonize(generator, picture, scale=scale))


# --- styles -----------------------------------------------------------------------------------------------------------


def test_a_style_is_what_its_card_describes(plain, photo):
    assert shipped.styles() == ["plain"]
    by_name, by_path = shipped.load("plain"), shipped.load(str(plain))
    assert all(torch.equal(a, b) for a, b in zip(by_name.parameters(), by_path.parameters(), strict=True))
    with pytest.raises(InputError, match="no style `paprika`: choose one of .*plain"):
        shipped.load("paprika")
    content = bytearray(plain.read_bytes())
    content[-1] ^= 1
    plain.write_bytes(content)
    with pytest.raises(InputError, match="not the file that plain.md describes"):
        shipped.load("plain")
    plain.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="is no generator of this project"):
        shipped.load(str(plain))


def test_the_generators_of_the_project_are_whole():
    for style in shipped.styles():
        assert shipped.load(style).filter_eps == 0.004


# --- reading and writing ----------------------------------------------------------------------------------------------


def saved(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff", "jpg", "gif", "avif", "heic"])
def test_formats_are_read(suffix, tmp_path):
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    rgb, alpha = read_picture(saved(image, tmp_path / f"a.{suffix}"))
    assert rgb.shape == (30, 40, 3) and alpha is None
    assert abs(rgb.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "I", "F", "LA", "RGBA", "YCbCr"])
def test_modes_become_rgb_of_the_same_picture(mode, tmp_path):
    ramp = np.repeat(np.linspace(0, 255, 64)[None], 32, axis=0)
    if mode in ("I;16", "I", "F"):
        values = {"I;16": (ramp * 257).astype(np.uint16), "I": (ramp * 257).astype(np.int32), "F": ramp / 255}[mode]
        image = Image.fromarray(values.astype(np.float32) if mode == "F" else values)
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB").convert(mode)
    rgb, alpha = read_picture(saved(image, tmp_path / "a.tiff"))
    expected = np.asarray(image.convert("RGB")) if mode in ("1", "P", "CMYK", "YCbCr") else ramp[..., None]
    assert abs(rgb.astype(int) - expected).max() <= 2
    assert (alpha is not None) == (mode in ("LA", "RGBA"))


def test_orientation_alpha_and_profile(tmp_path):
    image = Image.new("RGB", (40, 30), "black")
    image.paste((255, 255, 255), (0, 0, 20, 30))  # light on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right: then it is light at the top
    rgb, _ = read_picture(saved(image, tmp_path / "turned.jpg", exif=exif))
    assert rgb.shape == (40, 30, 3) and rgb[:15].mean() > 240 > 15 > rgb[-15:].mean()

    image.putalpha(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40).astype(np.uint8)))
    rgb, alpha = read_picture(saved(image, tmp_path / "alpha.png"))
    assert np.array_equal(alpha, np.asarray(image.getchannel("A"))) and rgb[0, 0, 0] == 255
    formats.write(tmp_path / "again.png", rgb, alpha)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), np.dstack([rgb, alpha]))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16", "CMYK"])
def test_colours_of_a_profile_become_those_of_srgb(mode, tmp_path, monkeypatch):
    """A converter that darkens stands in for a profile of another space: Pillow can make none but sRGB's."""

    def darken(image, source, target, outputMode):
        assert image.mode == {"RGBA": "RGB", "P": "RGB", "LA": "L", "I;16": "L"}.get(mode, mode) and outputMode == "RGB"
        return image.convert("RGB").point(lambda value: value // 2)

    ramp = np.tile(np.linspace(0, 255, 32), (20, 1))
    image = Image.fromarray((ramp * 257).astype(np.uint16) if mode == "I;16" else ramp.astype(np.uint8))
    image = image if mode == "I;16" else image.convert("RGB").convert(mode)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(image, tmp_path / "a.tiff", icc_profile=profile)
    plain, _ = read_picture(path)
    with monkeypatch.context() as patch:
        patch.setattr(ImageCms, "profileToProfile", darken)
        converted, alpha = read_picture(path)
    assert abs(converted.astype(int) - plain // 2).max() <= 1 and (alpha is not None) == (mode in ("RGBA", "LA"))


def test_broken_metadata_does_not_break_a_picture(tmp_path):
    grey = Image.new("RGB", (20, 20), (128, 128, 128))
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # for another mode
    for profile in (other, b"nonsense"):
        rgb, _ = read_picture(saved(grey, tmp_path / "profile.png", icc_profile=profile))
        assert abs(rgb.astype(int) - 128).max() <= 1
    rgb, _ = read_picture(saved(grey, tmp_path / "exif.jpg", exif=b"Exif\0\0nonsense"))
    assert abs(rgb.astype(int) - 128).max() <= 1


def test_dark_pictures_of_sixteen_bits_stay_dark(tmp_path):
    dark = Image.fromarray(np.full((20, 20), 200, np.uint16))
    assert read_picture(saved(dark, tmp_path / "dark.png"))[0].max() == 1
    bright = np.full((20, 20), 0.5, np.float32)
    bright[0, 0], bright[0, 1], bright[0, 2] = 1.3, np.inf, np.nan
    rgb, _ = read_picture(saved(Image.fromarray(bright), tmp_path / "bright.tiff"))
    assert rgb[5, 5, 0] == 128 and rgb[0, 0, 0] == 255


def test_the_limit_is_ours(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (60, 50)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_picture(path)[0].shape == (50, 60, 3) and Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(pictures, "LARGEST", 2_000_000)
    with pytest.raises(InputError, match="more than 2 million"):
        read_picture(saved(Image.new("1", (2000, 1001)), tmp_path / "b.png"))


def png(path: Path, mode: str = "RGB", value=128, **chunks: bytes) -> Path:
    """A PNG of one value with further chunks behind its header."""
    content = io.BytesIO()
    Image.new(mode, (20, 20), value).save(content, "PNG")
    content = content.getvalue()
    for name, chunk in chunks.items():
        body = name.encode() + chunk
        whole = len(chunk).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        content = content[:33] + whole + content[33:]
    path.write_bytes(content)
    return path


def test_the_gamma_of_a_png_is_honoured_and_an_hdr_one_refused(tmp_path):
    def read(**chunks):
        return read_picture(png(tmp_path / "a.png", value=(128, 128, 128), **chunks))[0].max()

    gamma = {value: round(value * 1e5).to_bytes(4, "big") for value in (1.0, 0.45455, 0.0)}
    assert read(gAMA=gamma[1.0]) == 188  # half of the light, as sRGB has it
    assert read(gAMA=gamma[0.45455]) == read(gAMA=gamma[0.0]) == 128
    assert read(gAMA=gamma[1.0], sRGB=b"\0") == 128  # sRGB outweighs gAMA
    assert read(cICP=bytes([1, 13, 0, 1])) == 128
    with pytest.raises(InputError, match="it is HDR"):
        read(cICP=bytes([9, 16, 0, 1]))


def test_a_transparent_grey_of_sixteen_bits_is_transparent(tmp_path):
    rgb, alpha = read_picture(png(tmp_path / "a.png", "I;16", 30000, tRNS=(30000).to_bytes(2, "big")))
    assert (alpha == 0).all() and (rgb == 117).all()
    assert (read_picture(png(tmp_path / "a.png", "I;16", 30000, tRNS=(1).to_bytes(2, "big")))[1] == 255).all()


def test_a_transparent_colour_of_sixteen_bits_is_transparent(tmp_path):
    colour, depth = b"".join(value.to_bytes(2, "big") for value in (30000, 20000, 10000)), 16
    header = (20).to_bytes(4, "big") * 2 + bytes([depth, 2, 0, 0, 0])
    rows = (b"\0" + 10 * colour + 10 * b"\x90\0\x90\0\x90\0") * 20
    content = b"\x89PNG\r\n\x1a\n"
    for name, chunk in ((b"IHDR", header), (b"tRNS", colour), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += len(chunk).to_bytes(4, "big") + name + chunk + zlib.crc32(name + chunk).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    rgb, alpha = read_picture(tmp_path / "a.png")
    assert rgb[0, 0].tolist() == [117, 78, 39] and rgb[0, -1].tolist() == [144] * 3
    assert (alpha[:, :10] == 0).all() and (alpha[:, 10:] == 255).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff", "avif"])
def test_of_an_animation_it_is_said_that_the_first_frame_is_drawn(suffix, plain, tmp_path, capsys):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    source = saved(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert command(source, "-o", tmp_path / "out", "--style", "plain") == 0
    assert f"{source}: it has 3 frames or pages, of which the first is taken" in capsys.readouterr().err
    assert command(saved(frames[0], tmp_path / f"b.{suffix}"), "-o", tmp_path / "out", "--style", "plain") == 0
    assert "frames" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_a_turned_tiff_is_the_same_from_a_path_and_from_bytes(mode, tmp_path):
    """Pillow maps plain TIFF files of some modes into memory, with width and height of the turned picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)).convert(mode)
    path = saved(image, tmp_path / "a.tiff", exif=exif)
    rgb, _ = read_picture(path)
    assert rgb.shape == (30, 20, 3) and np.array_equal(rgb, read_picture(io.BytesIO(path.read_bytes()))[0])
    assert np.array_equal(rgb, np.asarray(image.convert("RGB").transpose(Image.Transpose.ROTATE_270)))


# --- the command ------------------------------------------------------------------------------------------------------


def command(*arguments) -> int:
    """The exit status; what it says on stderr ends in the exception's text."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code or 0
    return 0


def test_a_folder_keeps_its_structure_and_is_not_done_twice(plain, photo, tmp_path, capsys):
    album, out = tmp_path / "album", tmp_path / "out"
    picture = Image.fromarray(photo[:40, :50])
    for name in ("a.jpg", "a.png", "sub/b.webp", "sub/ünïcode – 漢字.png", ".hidden/c.png"):
        saved(picture, album / name)
    (album / "notes.txt").write_text("no picture", encoding="utf-8")
    (album / "loop").symlink_to(album)
    before = {path: path.read_bytes() for path in album.rglob("*") if path.is_file()}
    assert command(album, "-o", out, "--style", "plain") == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert made == ["a-plain.jpg", "a-plain.png", "sub/b-plain.webp", "sub/ünïcode – 漢字-plain.png"]
    assert all(Image.open(out / name).size == (50, 40) for name in made)
    times = {name: (out / name).stat().st_mtime_ns for name in made}
    (out / made[0]).unlink()
    assert command(album, "-o", out, "--style", "plain") == 0 and "3 of 4 are there already" in capsys.readouterr().out
    assert all((out / name).stat().st_mtime_ns == times[name] for name in made[1:]) and (out / made[0]).exists()
    assert command(album, "-o", out, "--style", "plain", "--overwrite") == 0
    assert all((out / name).stat().st_mtime_ns != times[name] for name in made)
    assert {path: path.read_bytes() for path in album.rglob("*") if path.is_file()} == before


def test_what_is_passed_over_in_a_folder_is_counted_and_named(plain, photo, tmp_path, capsys):
    album, picture = tmp_path / "album", Image.fromarray(photo[:40, :50])
    for name in ("a.jpg", "b.jfif", "c.jp2", ".hidden.png", ".thumbnails/d.png", "e/f.JPE"):
        saved(picture, album / name, format="JPEG2000" if name.endswith("jp2") else "JPEG")
    for name in ("a.xmp", "b.XMP", "raw.nef", "README"):
        (album / name).touch()
    (album / "elsewhere").symlink_to(tmp_path)
    assert command(album, "-o", tmp_path / "out", "--style", "plain") == 0
    assert f"{album}: passed over: 2 hidden, 2 .xmp, 1 README, 1 links to folders, 1 .nef\n" in capsys.readouterr().err
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert made == ["a-plain.jpg", "b-plain.jfif", "c-plain.png", "e/f-plain.JPE"]


def test_an_empty_name_is_no_folder(plain, photo, tmp_path, monkeypatch):
    saved(Image.fromarray(photo[:40, :50]), tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert "an empty name: there is no such file or folder" in command("", "-o", tmp_path / "out", "--style", "plain")
    assert not (tmp_path / "out").exists()


def test_an_output_inside_the_folder_is_no_input(plain, photo, tmp_path):
    saved(Image.fromarray(photo[:40, :50]), tmp_path / "album" / "a.png")
    for _ in range(2):
        assert command(tmp_path / "album", "-o", tmp_path / "album" / "out", "--style", "plain", "--overwrite") == 0
    assert [path.name for path in (tmp_path / "album" / "out").iterdir()] == ["a-plain.png"]


def hostile(folder: Path, picture: Image.Image) -> list[Path]:
    """Files that are no pictures, or hardly."""
    whole = io.BytesIO()
    picture.save(whole, "PNG")
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG")
    contents = {"zero.jpg": b"", "text.jpg": b"hello, I am a text", "null.png": bytes(1000)}
    for share in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        contents[f"cut{share}.png"] = whole.getvalue()[: int(len(whole.getvalue()) * share)]
        contents[f"cut{share}.jpg"] = jpeg.getvalue()[: int(len(jpeg.getvalue()) * share)]
    for place in range(8, 36, 4):  # bits of the header
        flipped = bytearray(whole.getvalue())
        flipped[place] ^= 0xFF
        contents[f"flipped{place}.png"] = bytes(flipped)
    huge = bytearray(whole.getvalue())  # says that it is 100,000 x 100,000 px
    huge[16:24] = (100_000).to_bytes(4, "big") * 2
    contents["bomb.png"] = bytes(huge)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for width, height in ((1, 1), (15, 200), (20000, 10), (1, 5000)):
        saved(Image.new("RGB", (width, height)), folder / f"thin{width}x{height}.png")
    (folder / "dangling.png").symlink_to(folder / "nothing")
    (folder / "named.png").mkdir()
    secret = saved(picture, folder / "secret.png")
    secret.chmod(0)
    if os.access(secret, os.R_OK):  # root reads everything
        secret.unlink()
    return sorted(path for path in folder.iterdir())


def test_hostile_files_end_in_one_sentence_each_and_stop_nothing(plain, photo, tmp_path, capsys):
    folder, out = tmp_path / "bad", tmp_path / "out"
    folder.mkdir()
    picture = Image.fromarray(photo[:60, :70])
    bad = hostile(folder, picture)
    odd = [  # hardly pictures, and drawn all the same
        saved(picture, folder / "animated.gif", save_all=True, append_images=[picture.rotate(90)]),
        saved(picture, folder / "UPPER.PNG"),
        saved(picture.resize((2000, 16)), folder / "strip.png"),
        saved(Image.new("RGBA", (20, 20)), folder / "invisible.png"),
    ]
    assert len(bad) + len(odd) >= 40
    said = command(*bad, *odd, "-o", out, "--style", "plain")
    assert isinstance(said, str)
    lines = said.splitlines()
    assert lines[0] == f"{len(bad)} could not be done:" and "Traceback" not in said + capsys.readouterr().err
    for path in bad:
        assert sum(line.startswith(f"{path}: ") for line in lines[1:]) == 1, path
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["animated-plain.png", "UPPER-plain.PNG", "strip-plain.png", "invisible-plain.png"]
    )
    assert Image.open(out / "strip-plain.png").size == (2000, 16)


def test_nothing_is_half_written_when_the_disk_is_full(plain, photo, tmp_path, monkeypatch):
    source = saved(Image.fromarray(photo[:40, :50]), tmp_path / "a.png")
    command(source, "-o", tmp_path / "out", "--style", "plain")
    before = (tmp_path / "out" / "a-plain.png").read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = command(source, "-o", tmp_path / "out", "--style", "plain", "--overwrite")
    assert f"a.png: No space is left on the disk of {tmp_path / 'out'}: free some" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a-plain.png"]
    assert (tmp_path / "out" / "a-plain.png").read_bytes() == before


def test_sources_are_never_overwritten(plain, photo, tmp_path):
    picture = Image.fromarray(photo[:40, :50])
    for name in ("a.png", "a-plain.png"):
        saved(picture, tmp_path / name)
    before = (tmp_path / "a-plain.png").read_bytes()
    said = command(tmp_path / "a.png", tmp_path / "a-plain.png", "-o", tmp_path, "--style", "plain")
    assert "would overwrite" in said and (tmp_path / "a-plain.png").read_bytes() == before
    (tmp_path / "a-plain-plain.png").unlink()
    # Is a-plain.png a photo, or a cartoon of before?
    said = command(tmp_path, "-o", tmp_path, "--style", "plain", "--overwrite")
    assert "would overwrite" in said and (tmp_path / "a-plain.png").read_bytes() == before


def test_cartoons_among_the_photos_are_not_drawn_again(plain, photo, tmp_path):
    saved(Image.fromarray(photo[:40, :50]), tmp_path / "album" / "a.png")
    for _ in range(3):
        assert command(tmp_path / "album", "-o", tmp_path / "album", "--style", "plain") == 0
    assert sorted(path.name for path in (tmp_path / "album").iterdir()) == ["a-plain.png", "a.png"]


def test_names_that_are_taken(plain, photo, tmp_path):
    picture, out = Image.fromarray(photo[:40, :50]), tmp_path / "out"
    for name in ("2023/a.png", "2023/a.gif", "2024/a.png", "2024/A.PNG", "2025/x/a.png"):
        saved(picture, tmp_path / name)
    years = [tmp_path / year for year in ("2023", "2024", "2025/x", "2023")]
    for _ in range(2):
        assert command(*years, tmp_path / "2023" / "a.png", "-o", out, "--style", "plain") == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert len(made) == 5 == len({name.casefold() for name in made})
    assert {"a-plain.png", "a.png-plain.png", "x/a-plain.png"} <= set(made)


def test_alpha_in_a_format_that_cannot_hold_it(plain, photo, tmp_path, capsys):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo[:40, :50]).convert("RGBA").save(path, "PNG")
    for _ in range(2):
        assert command(path, "-o", tmp_path / "out", "--style", "plain") == 0
    assert "1 of 1 are there already" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a-plain.jpg.png"]
    assert Image.open(tmp_path / "out" / "a-plain.jpg.png").mode == "RGBA"


def test_odd_names_and_places(plain, photo, tmp_path, monkeypatch, capsys):
    picture = Image.fromarray(photo[:40, :50])
    monkeypatch.chdir(tmp_path)
    album = tmp_path / "album"
    saved(picture, album / "good.png")
    (album / "self.png").symlink_to("self.png")
    os.mkfifo(album / "pipe.png")
    saved(picture, tmp_path / "~nobody.png"), saved(picture, tmp_path / ("x" * 249 + ".png"))
    os.rename(tmp_path / "~nobody.png", b"~\xff.png")
    said = command("album", "~\udcff.png", "x" * 249 + ".png", "-o", "out", "--style", "plain")
    lines = said.splitlines()
    assert lines[0] == "2 could not be done:" and "self.png" in said and "x" * 249 in said
    assert (tmp_path / "out" / "good-plain.png").exists() and len(list((tmp_path / "out").iterdir())) == 2


def test_a_defect_or_too_little_memory_stops_one_file_only(plain, photo, tmp_path, monkeypatch):
    for name in "abc":
        saved(Image.fromarray(photo[:40, :50]), tmp_path / f"{name}.png")
    errors = iter([RuntimeError("[enforce fail] can't allocate memory"), KeyError("x")])

    def draw(*arguments, real=cartoonize, **settings):
        if (error := next(errors, None)) is not None:
            raise error
        return real(*arguments, **settings)

    monkeypatch.setattr(cartoonizer, "cartoonize", draw)
    said = command(*(tmp_path / f"{name}.png" for name in "abc"), "-o", tmp_path / "out", "--style", "plain")
    assert "a.png: there is too little memory" in said and "b.png: KeyError('x')" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c-plain.png"]


def test_what_failed_is_named_when_it_is_stopped(plain, photo, tmp_path, monkeypatch, capsys):
    for name in "ab":
        saved(Image.fromarray(photo[:40, :50]), tmp_path / f"{name}.png")
    errors = iter([InputError("broken"), KeyboardInterrupt()])
    monkeypatch.setattr(cartoonizer, "cartoonize", lambda *a, **k: (_ for _ in ()).throw(next(errors)))
    said = command(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out", "--style", "plain")
    assert "Stopped" in said and "a.png: broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strength", "2"], "strength is 2.0: give a number from 0 to 1."), (["--strength", "nan"], "from 0 to 1"),
        (["--keep-colors", "-1"], "keep_colors is -1.0: give a number from 0 to 1."), (["--outline", "x"], "float"),
        (["--outline", "2.1"], "from 0 to 2"), (["--scale", "0"], "from 0.01 to 1"), (["--memory", "3"], "from 100"),
        (["--style", "none"], "no style `none`"),
    ],
)  # fmt: skip
def test_wrong_options_are_said_before_anything_is_done(arguments, words, plain, photo, tmp_path, capsys):
    source = saved(Image.fromarray(photo[:40, :50]), tmp_path / "a.png")
    style = [] if "--style" in arguments else ["--style", "plain"]
    said = command(source, "-o", tmp_path / "out", *style, *arguments)
    assert said != 0 and words in str(said) + capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for folder in (source, ""):
        assert "is no folder: give one" in command(source, "-o", folder, "--style", "plain")


def test_it_runs_as_a_module_and_teaches_by_example():
    result = subprocess.run(
        [sys.executable, "-m", "cartoonlib", "--help"], capture_output=True, encoding="utf-8", cwd=files.ROOT
    )
    assert result.returncode == 0 and "cartoonize photo.jpg" in result.stdout
    text = " ".join(result.stdout.split())
    assert f"{draw.FACE} px for the largest face, or {draw.VIEW} px on the short side" in text


# --- what the command loads -------------------------------------------------------------------------------------------

# Each costs the command a tenth of a second or more, and drawing a photo needs none of them.
HEAVY = {
    "accelerate", "av", "dask", "distributed", "facenet_pytorch", "kornia", "matplotlib", "onnx", "onnxruntime",
    "papermill", "pooch", "pydantic", "scipy", "skimage", "sympy", "torchvision", "yaml",
}  # fmt: skip
ROOMS = {"bench", "dataset", "report", "runs", "device", "features", "losses", "profile", "step"}  # of cartoonlib
COMMAND = """
import sys
from cartoonlib.photos.cli import main
try:
    main()
finally:
    print(" ".join(sys.modules))
"""


def unneeded(modules: set[str]) -> list[str]:
    """Those among the loaded modules that the command must not load, by their first names."""
    packages = {name.split(".")[0] for name in modules} & HEAVY
    return sorted(packages | ({f"cartoonlib.{room}" for room in ROOMS} & modules))


def loaded(*arguments) -> set[str]:
    """The modules that are loaded in a process of its own when the command has ended, as it should."""
    words = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    result = subprocess.run(words, capture_output=True, encoding="utf-8", cwd=files.ROOT)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("suffix", ["jpg", "heic"])  # HEIC is read by a package that other packages load as well
def test_a_photo_is_drawn_without_what_it_does_not_need(suffix, plain, photo, tmp_path):
    source = saved(Image.fromarray(photo[:40, :50]), tmp_path / f"a.{suffix}")
    modules = loaded(source, "-o", tmp_path / "out", "--style", plain)
    assert unneeded(modules) == [] and "torch" in modules
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"a-plain.{'jpg' if suffix == 'jpg' else 'png'}"]


def test_a_film_loads_what_reads_films_alone(plain, tmp_path):
    modules = loaded(film(tmp_path / "a.mp4", frames=2), "-o", tmp_path / "out", "--style", plain)
    assert unneeded(modules) == ["av"]


def test_help_does_not_wait_for_pytorch():
    modules = loaded("--help")
    assert unneeded(modules) == [] and "torch" not in modules


def test_what_is_loaded_in_vain_is_named():
    modules = {"torch.nn", "matplotlib.pyplot", "matplotlib", "skimage.segmentation", "cartoonlib.report", "torch"}
    assert unneeded(modules) == ["cartoonlib.report", "matplotlib", "skimage"]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_opens_draws_and_saves(generator, photo, face_photos, tmp_path):
    drawing = page.Drawing("astronaut", face_photos[0])
    assert drawing.draw(Cartoonizer(generator, 0.5)) == ""
    assert np.array_equal(drawing.cartoon, cartoonize(generator, face_photos[0], 0.5))
    image = Image.fromarray(photo).convert("RGBA")
    image.putalpha(100)
    content = io.BytesIO()
    image.save(content, "PNG")
    drawing.read("mine.of me.png", content.getvalue())
    assert drawing.draw(Cartoonizer(generator, scale=0.5)) == "" and drawing.cartoon.shape == photo.shape
    path = drawing.save(tmp_path, "comic", 0.55)
    assert path == tmp_path.resolve() / "mine.of me-comic-55.png"
    assert np.array_equal(np.asarray(Image.open(path))[..., :3], drawing.cartoon)
    assert np.asarray(Image.open(path))[..., 3].min() == 100
    with pytest.raises(InputError, match="cannot be read as a picture"):
        drawing.read("notes.png", b"this is text")
    assert drawing.name == "mine.of me" and np.array_equal(drawing.photo, photo)


def test_the_page_saves_over_nothing_and_takes_long_names(generator, tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(content, "PNG")
    drawing = page.Drawing("astronaut", np.zeros((20, 20, 3), np.uint8))
    for name in ("image.jpg", "image.jpg", "漢" * 300 + ".jpg"):
        drawing.read(name, content.getvalue())
        with pytest.raises(InputError, match="no cartoon to save"):
            drawing.save(tmp_path, "comic", 1.0)  # what was made of the photo before is not this one's
        drawing.draw(Cartoonizer(generator))
        drawing.save(tmp_path, "comic", 1.0)
    drawing.save(tmp_path, "comic", 1.0)
    names = [f"image-comic-100{number}.png" for number in ("", "-2")]
    names += [f"{'漢' * 50}-comic-100{number}.png" for number in ("", "-2")]
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_the_page_tells_every_error(tmp_path, monkeypatch):
    """The buttons of notebook 08, without a browser."""
    cells = json.loads((files.NOTEBOOKS / "08_your_photo.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    begin, end = (next(i for i, s in enumerate(sources) if word in s) for word in ("FileUpload", "observe("))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = {"generators": {"plain": str}, "display": lambda *_: None, "errors": [MemoryError(), OSError("no disk")]}
    monkeypatch.setattr(cartoonizer, "cartoonize", lambda generator, photo, **_: photo)
    exec("\n".join([sources[1], *sources[begin : end + 1]]), names)
    note, photo = names["note"], io.BytesIO()
    Image.new("RGB", (20, 20)).save(photo, "PNG")

    def upload(name, content):
        item = {"name": name, "type": "", "size": 1, "content": memoryview(content), "last_modified": datetime.now()}
        names["upload"].value = (item,)

    upload("a.png", photo.getvalue())
    names["button"].click()
    assert note.value == f"Saved as {tmp_path / 'cartoons' / 'a-plain-100.png'}"
    monkeypatch.setattr(formats, "write", lambda *_: (_ for _ in ()).throw(OSError("no such place")))
    names["button"].click()
    assert note.value == "its cartoon could not be written (no such place)"
    upload("notes.txt", b"this is text")
    assert note.value.startswith("notes.txt: it cannot be read as a picture")
    monkeypatch.setattr(cartoonizer, "cartoonize", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    upload("b.png", photo.getvalue())
    assert "there is too little memory" in note.value and bytes(names["after"].value) == b""


def test_a_wheel_has_the_generators(plain, tmp_path):
    """pip puts them into the package, where pyproject.toml says; there is no results/ then."""
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    shutil.copytree(files.ROOT / "cartoonlib", source / "cartoonlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(files.ROOT / name, source)
    shutil.copytree(plain.parent, source / "results" / "reference" / "generators")
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    wheels.mkdir()
    done = subprocess.run([sys.executable, "-c", build, wheels], cwd=source, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    code = "from cartoonlib.photos import shipped; print(shipped.styles()); shipped.load('plain')"
    here = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}, "capture_output": True, "encoding": "utf-8"}
    assert subprocess.run([sys.executable, "-c", code], **here).stdout == "['plain']\n"
    shutil.rmtree(site / "cartoonlib" / "generators")
    said = subprocess.run([sys.executable, "-c", code], **here).stderr
    assert f"There is no generator in {site / 'cartoonlib' / 'generators'}" in said


def test_the_page_says_when_there_is_no_face(generator):
    grey = page.Drawing("grey", np.full((64, 80, 3), 127, np.uint8))
    assert grey.draw(Cartoonizer(generator, faces=True)) == "no face found, so the whole picture is drawn"
    assert grey.cartoon.shape == grey.photo.shape and not np.array_equal(grey.cartoon, grey.photo)


@pytest.mark.parametrize(("size", "shown"), [((300, 200), (300, 200)), ((2400, 600), (1200, 300))])
def test_a_preview_is_small(size, shown):
    preview = Image.open(io.BytesIO(page.preview(np.zeros((size[1], size[0], 3), np.uint8))))
    assert preview.format == "PNG" and preview.size == shown


# --- videos -----------------------------------------------------------------------------------------------------------


def film(path: Path, size=(64, 48), frames=8, turned=False, aspect=None) -> Path:
    """Green on the left, red on the right, frames at 0, 1, 2, 4, 5, ... twelfths of a second, and a tone."""
    with av.open(str(path), "w") as output:
        picture, tone = output.add_stream("libx264", rate=12), output.add_stream("aac", rate=44100)
        picture.width, picture.height, picture.pix_fmt = *size, "yuv444p"
        tone.layout = "mono"
        picture.codec_context.sample_aspect_ratio = aspect or Fraction(1)
        pixels = np.full((size[1], size[0], 3), (200, 60, 40), np.uint8)
        pixels[:, : size[0] // 2] = (20, 200, 90)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + number // 3, Fraction(1, 12)
            output.mux(picture.encode(frame))
        for number in range(30):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts = 44100, number * 1024
            output.mux(tone.encode(sound))
        output.mux([*picture.encode(None), *tone.encode(None)])
    if turned:  # the matrix of the track's header: by 90 degrees to the right
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 44
        matrix = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
        content[place : place + 36] = np.array(matrix, ">i4").tobytes()
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(("size", "turned"), [((64, 48), False), ((65, 47), False), ((64, 48), True)])
def test_a_video_keeps_size_times_sound_and_orientation(size, turned, tmp_path):
    source, target = film(tmp_path / "a.mp4", size, turned=turned), tmp_path / "out" / "b.mp4"
    shares = []
    video.convert(source, target, lambda pixels: 255 - pixels, shares.append)
    assert 0.5 < sum(shares) <= 1 and [path.name for path in target.parent.iterdir()] == ["b.mp4"]
    with av.open(str(source)) as a, av.open(str(target)) as b:
        before, after = list(a.decode(video=0)), list(b.decode(video=0))
        assert (after[0].width, after[0].height) == (size[::-1] if turned else size) and after[0].rotation == 0
        assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before], abs=1e-3)
    pixels = after[3].to_ndarray(format="rgb24").astype(int)
    corner = pixels[8, -8] if turned else pixels[-8, 8]  # both were at the left
    assert abs(corner - (235, 55, 165)).max() < 12 and abs(pixels[-8, -8] - (55, 195, 215)).max() < 12
    with av.open(str(source)) as a, av.open(str(target)) as b:
        packets = [[bytes(p) for p in container.demux(audio=0) if p.size] for container in (a, b)]
    assert packets[0] == packets[1] and len(packets[0]) > 10


def test_videos_by_the_command(plain, photo, tmp_path):
    source = film(tmp_path / "film.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "cut.mkv").write_bytes(source.read_bytes()[:700])
    said = command(source, tmp_path / "broken.mp4", tmp_path / "cut.mkv", "-o", tmp_path / "out", "--style", "plain")
    assert said.startswith("2 could not be done") and said.count("cannot be read as a video") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film-plain.mp4"]
    assert "--faces is for photos" in command(source, "-o", tmp_path / "other", "--style", "plain", "--faces")


def test_pixels_that_are_not_square_and_colours_that_are_not_ours(tmp_path):
    for turned, aspect in ((False, Fraction(4, 3)), (True, Fraction(3, 4))):
        source = film(tmp_path / "a.mp4", turned=turned, aspect=Fraction(4, 3))
        video.convert(source, tmp_path / "b.mp4", lambda pixels: pixels)
        with av.open(str(tmp_path / "b.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == aspect
    with pytest.raises(InputError, match="16 each way"):
        video.convert(film(tmp_path / "small.mp4", (32, 8)), tmp_path / "c.mp4", lambda pixels: pixels)
    assert not (tmp_path / "c.mp4").exists() and not list(tmp_path.glob(".*"))


def test_a_frame_is_drawn_while_the_one_before_is_finished(tmp_path, monkeypatch):
    drawn, finished, both = [], [], threading.Event()
    steady = Steady.__call__

    def draw(pixels):
        drawn.append(pixels)
        if len(drawn) == 2:
            both.set()
        return 255 - pixels

    def finish(self, pixels, cartoon):
        assert both.wait(20)  # the second is drawn, although the first is not written yet
        finished.append(np.array_equal(cartoon, 255 - pixels))
        return steady(self, pixels, cartoon)

    monkeypatch.setattr(Steady, "__call__", finish)
    video.convert(film(tmp_path / "a.mp4"), tmp_path / "b.mp4", draw)
    assert len(drawn) == 8 and finished == [True] * 8


def test_a_video_with_a_hole_and_a_name_like_a_protocol(tmp_path):
    source = film(tmp_path / "12:30 a.mp4", frames=40)
    with av.open(str(source)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][20]
    content = bytearray(source.read_bytes())
    content[place : place + size] = b"\xff" * size
    source.write_bytes(content)
    notes = video.convert(source, tmp_path / "b.mp4", lambda pixels: pixels)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert 30 < sum(1 for _ in container.decode(video=0)) <= 40
    assert notes[1:] == ["pieces left out because they cannot be read: 1"]


@pytest.mark.parametrize("where", ["drawing", "copying"])
def test_a_video_that_is_stopped_leaves_nothing(where, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    calls = {"drawing": (stop,), "copying": (lambda pixels: pixels, stop)}[where]
    with pytest.raises(KeyboardInterrupt):
        video.convert(film(tmp_path / "a.mp4"), tmp_path / "out" / "b.mp4", *calls)
    assert list((tmp_path / "out").iterdir()) == []


# --- other runtimes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(generator) -> bytes:
    """The generator as an ONNX model, which takes seconds to make."""
    return to_onnx(generator)


def test_an_exported_generator_draws_the_same(plain, photo, tmp_path, generator, exported, monkeypatch, capsys):
    source, model = saved(Image.fromarray(photo), tmp_path / "a.png"), tmp_path / "plain.onnx"
    assert command("--style", "plain", "--export", model) == 0 and "differs from PyTorch by" in capsys.readouterr().out
    by_file = shipped.load(str(model))
    assert (by_file.filter_eps, by_file.filter_radius) == (generator.filter_eps, generator.filter_radius)
    drawn = cartoonize(by_file, photo, scale=1).astype(int)
    assert abs(drawn - cartoonize(generator, photo, scale=1)).max() <= 1

    def made_before(of):
        assert all(map(torch.equal, of.state_dict().values(), generator.state_dict().values()))
        return exported

    monkeypatch.setattr(onnx, "to_onnx", made_before)
    for number, how in enumerate((["--style", "plain"], ["--style", "plain", "--runtime", "onnx"], ["--style", model])):
        assert command(source, "-o", tmp_path / str(number), *how) == 0
    images = [np.asarray(Image.open(tmp_path / str(number) / "a-plain.png")).astype(int) for number in range(3)]
    assert np.array_equal(images[1], images[2]) and abs(images[0] - images[1]).max() <= 1
    assert "exported already" in command("--style", model, "--export", tmp_path / "again.onnx")
    assert "is there already" in command("--style", "plain", "--export", model)
    before = source.read_bytes()
    assert "does not end in .onnx" in command("--style", "plain", "--export", source) and source.read_bytes() == before
    assert not (tmp_path / "cartoons").exists() and not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize("wrong", [lambda self, photo: photo, lambda self, photo: photo * float("nan")])
@pytest.mark.parametrize("name", ["__call__", "unfiltered"])
def test_an_export_that_differs_is_not_written(name, wrong, generator, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "to_onnx", lambda _: exported)
    monkeypatch.setattr(OnnxGenerator, name, wrong)
    with pytest.raises(InputError, match="differs from PyTorch by .*, so it was not written"):
        export_onnx(generator, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(InputError, match="is no generator of this project"):
        shipped.load(str(tmp_path / "text.onnx"))


class FakeTflite:
    """What litert-torch makes of a network, by PyTorch, with all values moved by `shift`."""

    def __init__(self, network, shift: float):
        self.network, self.shift = network, shift

    def __call__(self, photo: np.ndarray) -> dict[str, np.ndarray]:
        return {"cartoon": self.network(torch.from_numpy(photo))["cartoon"].numpy() + self.shift}

    def model_content(self) -> bytes:
        return b"a model"


def test_the_suffix_chooses_tflite_which_is_checked_as_well(plain, tmp_path, monkeypatch, capsys):
    model, shift = tmp_path / "plain.tflite", 0.0
    package = types.SimpleNamespace(convert=lambda network, sample_kwargs: FakeTflite(network, shift))
    monkeypatch.setitem(sys.modules, "litert_torch", package)
    monkeypatch.setattr(tflite, "SIDE", 32)
    for shift in (0.1, float("nan")):
        said = command("--style", "plain", "--export", model)
        assert "differs from PyTorch by" in said and "so it was not written" in said and not model.exists()
    shift = 1e-5
    assert command("--style", "plain", "--export", model) == 0 and model.read_bytes() == b"a model"
    assert "plain.tflite: differs from PyTorch by 1e-05 at most" in capsys.readouterr().out
    assert "is there already" in command("--style", "plain", "--export", model)


def test_without_litert_torch_an_export_says_what_to_install(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_torch", None)  # as if it were not installed
    said = command("--style", "plain", "--export", tmp_path / "plain.tflite")
    assert "TFLite needs litert-torch" in said and 'pip install ".[photos,tflite]"' in said
    assert not (tmp_path / "plain.tflite").exists()


@pytest.mark.parametrize("radius", [0, 1])
def test_litert_draws_what_pytorch_draws(radius, generator, photo, tmp_path, monkeypatch):
    pytest.importorskip("litert_torch", reason="needs the group tflite")
    from ai_edge_litert.interpreter import Interpreter

    monkeypatch.setattr(tflite, "SIDE", 64)
    network = copy.deepcopy(generator)
    network.filter_radius = radius
    assert tflite.export_tflite(network, tmp_path / "a.tflite") < 1e-4
    image = torch.from_numpy(photo[None, :64, :64].astype(np.float32) / 127.5 - 1)
    drawn = Interpreter(str(tmp_path / "a.tflite")).get_signature_runner()(photo=image.numpy())["cartoon"]
    assert abs(drawn - network(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()).max() < 1e-4
