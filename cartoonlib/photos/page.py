"""What the page of notebook 08 does behind its buttons: read a photo, draw it, show it, save its cartoon."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import InputError
from ..media.pictures import read_picture
from . import Cartoonizer, formats

SHOWN_SIDE = 1200  # px, the longer side at most of what the page shows
NAME = 150  # bytes of a photo's name at most that its cartoons are called after; a disk takes some 255 in all


class Drawing:
    """A photo, uint8 (H, W, 3), with its name and its alpha, uint8 (H, W) or None; and its cartoon, or None."""

    def __init__(self, name: str, photo: np.ndarray):
        self.name, self.photo, self.alpha, self.cartoon, self.notes = name, photo, None, None, []

    def read(self, name: str, content: bytes) -> None:
        """Take the photo in a file's content instead. InputError, and nothing changes, when there is none in it."""
        notes: list[str] = []
        self.photo, self.alpha = read_picture(io.BytesIO(content), notes=notes)
        self.name, self.cartoon, self.notes = os.fsencode(Path(name).stem)[:NAME].decode(errors="ignore"), None, notes

    def draw(self, cartoonizer: Cartoonizer) -> str:
        """Make the cartoon; returns a note on it, or ""."""
        self.cartoon = None  # in case of an error
        self.cartoon, found = cartoonizer.draw(self.photo)
        return "; ".join(self.notes + found)

    def save(self, folder: Path, style: str, strength: float) -> Path:
        """Write the cartoon, in the photo's size, as FOLDER/NAME-STYLE-PERCENT.png; a number is added if need be."""
        if self.cartoon is None:
            raise InputError("there is no cartoon to save")
        stem = f"{self.name}-{style}-{100 * strength:.0f}"
        path, numbers = folder / f"{stem}.png", itertools.count(2)
        while os.path.lexists(path):
            path = folder / f"{stem}-{next(numbers)}.png"
        formats.write(path, self.cartoon, self.alpha)
        return path.resolve()


def preview(picture: np.ndarray | None) -> bytes:
    """A PNG of a picture, uint8 (H, W, 3), made smaller when a side is longer than SHOWN_SIDE; nothing of none."""
    if picture is None:
        return b""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(buffer, "PNG")
    return buffer.getvalue()
