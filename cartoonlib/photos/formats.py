"""The formats of your own pictures: which are read, and writing them whole or not at all."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import InputError, write_atomic
from ..media.listing import VIDEOS
from ..media.pictures import FORMATS

CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")  # of videos, that are written
SAVE = {"JPEG": {"quality": 92, "subsampling": 0}, "WEBP": {"quality": 92}, "TIFF": {"compression": "tiff_lzw"}}


def suffix_of_cartoon(file: Path) -> str:
    """The file's own suffix, where that format is also written; else .mkv for videos and .png for pictures."""
    suffix = file.suffix.lower()
    if suffix in FORMATS or suffix in CONTAINERS:
        return file.suffix
    return ".mkv" if suffix in VIDEOS else ".png"


def with_alpha(path: Path) -> Path:
    """Where a picture with alpha goes whose own format cannot hold it: beside its place, as a PNG."""
    return path.with_name(f"{path.name}.png") if FORMATS[path.suffix.lower()] in ("JPEG", "BMP") else path


def write(path: Path, picture: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all, without metadata.

    uint8 (H, W, 3), and (H, W) for alpha. InputError when the format cannot hold it.
    """
    image = Image.fromarray(picture if alpha is None else np.dstack([picture, alpha]))
    name, buffer = FORMATS[path.suffix.lower()], io.BytesIO()
    try:
        image.save(buffer, name, **SAVE.get(name, {}))
    except (ValueError, OSError) as error:
        raise InputError(f"{name} cannot hold its cartoon ({error}); convert it to PNG first") from None
    write_atomic(path, buffer.getbuffer())
