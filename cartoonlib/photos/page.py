"""What the page of notebook 08 does behind its buttons: read a photo, draw it, show it, save its cartoon."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..media.pictures import read_picture
from . import formats
from .draw import cartoonize, faces_only

SHOWN_SIDE = 1200  # px, the longer side at most of what the page shows


class Drawing:
    """A photo, uint8 (H, W, 3), with its name and its alpha, uint8 (H, W) or None; and the cartoon last made of it."""

    def __init__(self, name: str, photo: np.ndarray):
        self.name, self.photo, self.alpha, self.cartoon = name, photo, None, photo

    def read(self, name: str, content: bytes) -> None:
        """Take the photo in a file's content instead. InputError, and nothing changes, when there is none in it."""
        self.photo, self.alpha = read_picture(io.BytesIO(content))
        self.name = Path(name).stem

    def draw(self, generator, strength: float, scale: float | None, faces: bool) -> str:
        """Make the cartoon, by draw.cartoonize or, with `faces`, by draw.faces_only; returns a note on it, or ""."""
        drawn = faces_only(generator, self.photo, strength) if faces else None
        self.cartoon = cartoonize(generator, self.photo, strength, scale) if drawn is None else drawn
        return "No face found, so the whole picture is drawn." if faces and drawn is None else ""

    def save(self, folder: Path, style: str, strength: float) -> Path:
        """Write the cartoon, in the photo's size, as FOLDER/NAME-STYLE-PERCENT.png. InputError when that fails."""
        path = folder / f"{self.name}-{style}-{100 * strength:.0f}.png"
        formats.write(path, self.cartoon, self.alpha)
        return path.resolve()


def preview(picture: np.ndarray) -> bytes:
    """A PNG of a picture, uint8 (H, W, 3), made smaller when a side is longer than SHOWN_SIDE."""
    image, buffer = Image.fromarray(picture), io.BytesIO()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    image.save(buffer, "PNG")
    return buffer.getvalue()
