"""The raw images of a set, one by one: out of folders, npm archives, wheels and films, or drawn by DiceBear."""

import colorsys
import fnmatch
import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..files import InputError
from ..media import films
from ..media.pictures import read_picture
from .catalogue import Source, listing
from .folders import npm_package

FRAMES_OF_A_VIDEO, SECONDS_BETWEEN_FRAMES = 1000, 0.5  # at most, at least
EYE_LEVEL = 0.472  # height of the eyes in an aligned face, in units of its side (faces.CANONICAL)


class RawImage(NamedTuple):
    """An image as it came: its name within the set, its licence, its bytes, and how to decode these.

    decode: bytes -> uint8 (H, W, 3) RGB; raises InputError when they are no picture.
    """

    name: str
    licence: str
    content: bytes
    decode: Callable[[bytes], np.ndarray]


def raw_images(source: Source, side: int, limit: int, rejected: list[dict]) -> tuple[int, Iterator[RawImage]]:
    """The number of raw images of a set, and the images one by one.

    side: that they will have, in pixels, for vector faces. limit: how many will be taken, 0 for all; with a limit files
    come in the order of their names' hashes, and a video's frames further apart, so that the first few stand for all.
    rejected: gets what is passed over in a folder, and what is missing of a video: file and reason.
    """
    if source.drawn:
        return source.drawn["count"], _drawn_faces(source, side)
    if source.path.is_file():
        return _frames(source, limit, rejected)
    if source.packages:
        found = _packaged(source)
    else:
        paths, passed = listing(source)
        found = [(path.relative_to(source.path).as_posix(), path, source.licence) for path in paths]
        names = [path.relative_to(source.path).as_posix() for path, _ in passed]
        rejected += [{"file": name, "reason": f"passed over: {kind}"} for name, (_, kind) in zip(names, passed)]
    if limit:
        found.sort(key=lambda item: hashlib.sha256(item[0].encode(errors="surrogateescape")).digest())
    return len(found), (RawImage(name, licence, _read(path), decode) for name, path, licence in found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # one file that cannot be read is left out as unreadable, and does not end the preparation


def decode(content: bytes) -> np.ndarray:
    """An image file's bytes as `cartoonize` reads them, uint8 (H, W, 3) sRGB, with transparency over white.

    Raises InputError when they are no picture or an absurdly large one.
    """
    picture, alpha = read_picture(io.BytesIO(content), smallest=1)
    if alpha is None:
        return picture
    image = Image.fromarray(np.dstack([picture, alpha]))
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def _packaged(source: Source) -> list[tuple[str, Path, str]]:
    """Name, path and licence of the photos inside npm archives and wheels."""
    found = []
    for package in source.packages:
        folder = npm_package(package)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            inside = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatch(inside, pattern) for pattern in package["photos"]):
                found.append((f"{folder.name}/{inside}", path, package["licence"]))
    for wheel in source.wheels:
        path = Path(str(resources.files(wheel["package"]))) / wheel["path"]
        found.append((f"{wheel['package']}/{path.name}", path, wheel["licence"]))
    return found


def _frames(source: Source, limit: int, rejected: list[dict]) -> tuple[int, Iterator[RawImage]]:
    """Frames at equal distances over a whole film; their bytes are those of the pixels."""
    try:
        begin, end, note = films.span(source.path)
    except InputError as problem:
        raise InputError(f"{source.path}: {problem}. Convert it to MP4.") from None
    count = max(1, min(limit or FRAMES_OF_A_VIDEO, int((end - begin) / SECONDS_BETWEEN_FRAMES)))
    times = [float(begin + (end - begin) * number / count) for number in range(count)]
    if note:
        rejected.append({"file": source.path.name, "reason": f"end of the film, for {note}"})
    return count, _frames_at(source, times, rejected)


def _frames_at(source: Source, times: list[float], rejected: list[dict]) -> Iterator[RawImage]:
    """For each time, in seconds and rising, the first frame then or later that no earlier time has got."""
    taken, broken = 0, []
    with films.open_film(source.path) as (container, stream):
        for frame in films.read(container, stream, broken):
            if taken == len(times):
                break
            if frame.time is None or frame.time < times[taken]:
                continue
            taken += 1
            try:
                pixels, shape = films.pixels(frame, stream)
            except InputError as problem:
                raise InputError(f"{source.path}: {problem}.") from None
            if shape != 1:  # times wider than high is each pixel: enlarge the frame, so that they are squares
                size = (round(pixels.shape[1] * max(shape, 1)), round(pixels.shape[0] / min(shape, 1)))
                pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
            unpack = partial(np.ndarray, pixels.shape, np.uint8)  # takes the bytes for such an array
            yield RawImage(f"{source.path.name}@{frame.time:.2f}s", source.licence, pixels.tobytes(), unpack)
    rejected += [{"file": source.path.name, "reason": f"unreadable: the piece at byte {place}"} for place in broken]


def _drawn_faces(source: Source, side: int) -> Iterator[RawImage]:
    """Seeded vector faces of one DiceBear style, framed like the aligned photos; the bytes are the SVG's."""
    from dicebear import Avatar, Style

    drawn = source.drawn
    definition = resources.files("dicebear_styles").joinpath(f"{drawn['style']}.json")
    style = Style(json.loads(definition.read_text(encoding="utf-8")))
    x, y, extent = drawn["view"]
    view = f'viewBox="{x - extent / 2:g} {y - EYE_LEVEL * extent:g} {extent:g} {extent:g}"'
    for index in range(drawn["count"]):
        seed = f"{source.name}-{index:04d}"
        svg = Avatar(style, {"seed": seed, **drawn["options"]}).to_string()
        svg = re.sub(r'viewBox="[^"]*"', view, svg, count=1)
        svg = svg.replace("</metadata>", "</metadata>" + _background(random.Random(seed), x, y, extent), 1)
        yield RawImage(f"{seed}.svg", source.licence, svg.encode(), partial(_render, side=side))


def _background(rng: random.Random, x: float, y: float, extent: float) -> str:
    """A plain or softly graded square. Varied, or the generator would learn to paint the background one colour."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.95)
    change = rng.uniform(-0.25, 0.25) * rng.choice([0, 1])
    gradient = f'<linearGradient id="ground" gradientTransform="rotate({rng.randrange(0, 91)})">'
    for offset, sign in enumerate((-1, 1)):
        level = min(1.0, max(0.2, value + sign * change))
        red, green, blue = colorsys.hsv_to_rgb(hue + sign * change / 6, saturation, level)
        gradient += f'<stop offset="{offset}" stop-color="rgb({red:.1%},{green:.1%},{blue:.1%})"/>'
    place = f'x="{x - extent}" y="{y - extent}" width="{2 * extent}" height="{2 * extent}"'
    return f'{gradient}</linearGradient><rect {place} fill="url(#ground)"/>'


def _render(svg: bytes, side: int) -> np.ndarray:
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side, height=side, skip_system_fonts=True)
    except ValueError as error:
        raise InputError(f"it cannot be rendered ({error})") from None
    return np.array(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
