"""The raw images of a set, one by one: out of folders, npm archives, wheels and films."""

import fnmatch
import hashlib
import io
import warnings
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path

from PIL import Image, ImageOps

from ..files import InputError
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
        found.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return len(found), (RawImage(name, licence, _read(path), decode) for name, path, licence in found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # one file that cannot be read is left out as unreadable, and does not end the preparation


def decode(content: bytes) -> Image.Image:
    """An image file's bytes as an RGB picture: turned as its EXIF says, transparency over white.

    Raises an exception of any kind if it is broken or absurdly large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


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
    """Frames at equal distances over a whole video; the bytes are the decoded pixels."""
    import av

    try:
        with av.open(str(source.path)) as container:
            stream = container.streams.video[0]
            known = stream.duration is not None
            seconds = float(stream.duration * stream.time_base if known else container.duration / av.time_base)
    except (av.error.FFmpegError, IndexError, TypeError) as error:
        raise InputError(f"{source.path} cannot be read as a video ({error}): convert it to MP4.") from error
    count = max(1, min(limit or FRAMES_OF_A_VIDEO, int(seconds / SECONDS_BETWEEN_FRAMES)))

    def frames() -> Iterator[RawImage]:
        taken = 0
        with av.open(str(source.path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            try:
                for frame in container.decode(video=0):
                    if frame.time is None or frame.time < taken * seconds / count:
                        continue
                    taken += 1
                    image = frame.to_image()
                    unpack = partial(Image.frombytes, "RGB", image.size)
                    yield RawImage(f"{source.path.name}@{frame.time:.2f}s", source.licence, image.tobytes(), unpack)
                    if taken == count:
                        return
            except av.error.FFmpegError:
                return  # a truncated video: what came before is good

    return count, frames()
