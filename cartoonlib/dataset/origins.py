"""The raw images of a set, one by one: out of folders, npm archives, wheels and films."""

import contextlib
import fnmatch
import hashlib
import io
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import InputError
from ..media import films
from ..media.pictures import read_picture
from .catalogue import RawImage, Source, listing
from .downloads import npm_package
from .drawn import drawn_faces

FRAMES_OF_A_VIDEO, SECONDS_BETWEEN_FRAMES = 1000, 0.5  # at most, at least


def raw_images(source: Source, side: int, limit: int = 0) -> tuple[int, Iterator[RawImage]]:
    """The number of raw images of a set, and the images one by one.

    side: the side in pixels that they will have, for vector faces.
    limit: if not 0, how many will be taken: then files come in the order of their names' hashes and a video's frames
    further apart, so that the first few stand for all.
    """
    if source.drawn:
        return source.drawn["count"], drawn_faces(source, side)
    if source.path.is_file():
        return _frames(source, limit)
    if source.packages:
        found = _packaged(source)
    else:
        found = [(path.relative_to(source.path).as_posix(), path, source.licence) for path in listing(source)]
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
    found = []
    for package in source.packages:
        folder = npm_package(package["name"])
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            inside = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatch(inside, pattern) for pattern in package["photos"]):
                found.append((f"{folder.name}/{inside}", path, package["licence"]))
    for wheel in source.wheels:
        path = Path(str(resources.files(wheel["package"]))) / wheel["path"]
        found.append((f"{wheel['package']}/{path.name}", path, wheel["licence"]))
    return found


def _frames(source: Source, limit: int) -> tuple[int, Iterator[RawImage]]:
    """Frames at equal distances over a whole film; their bytes are those of the pixels."""
    try:
        begin, end = films.span(source.path)
    except InputError as problem:
        raise InputError(f"{source.path}: {problem}. Convert it to MP4.") from None
    count = max(1, min(limit or FRAMES_OF_A_VIDEO, int((end - begin) / SECONDS_BETWEEN_FRAMES)))
    return count, _frames_at(source, [float(begin + (end - begin) * number / count) for number in range(count)])


def _frames_at(source: Source, times: list[float]) -> Iterator[RawImage]:
    """For each time, in seconds and rising, the first frame then or later that no earlier time has got."""
    taken = 0
    with films.open_film(source.path) as (container, stream):
        for frame in _decoded(container, stream):
            if taken == len(times):
                return
            if frame.time is None or frame.time < times[taken]:
                continue
            taken += 1
            try:
                pixels = _square_pixels(*films.pixels(frame, stream))
            except InputError as problem:
                raise InputError(f"{source.path}: {problem}.") from None
            unpack = partial(_unpack, shape=pixels.shape)
            yield RawImage(f"{source.path.name}@{frame.time:.2f}s", source.licence, pixels.tobytes(), unpack)


def _decoded(container, stream) -> Iterator:
    """All frames that can be decoded."""
    import av

    with contextlib.suppress(av.error.FFmpegError):  # a film that breaks off: what came before is good
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                yield from packet.decode()


def _square_pixels(pixels: np.ndarray, shape: Fraction) -> np.ndarray:
    """A frame whose pixels are `shape` times wider than high, enlarged so that they are squares."""
    if shape == 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (round(width * max(shape, 1)), round(height / min(shape, 1)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _unpack(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(shape)
