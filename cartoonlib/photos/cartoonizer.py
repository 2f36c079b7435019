"""A generator and the options of the command: what the command, the page and your own programs draw with."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files import InputError
from ..media.pictures import SMALLEST, as_rgb
from ..networks import Generator
from . import shipped
from .draw import FACE, blend_faces, cartoonize, certain_faces, usual_scale, width_of

RANGES = {"strength": (0, 1), "scale": (0.01, 1), "keep_colors": (0, 1), "outline": (0, 2), "memory": (100, 1_000_000)}
UNEQUAL = 1.5  # times the scale of the photo, that of its largest face: who needs more gets a scale of its own


@dataclass
class Cartoonizer:
    """Draws photos: `Cartoonizer("anime", outline=1.5)(image)`. InputError for a wrong option or a wrong image.

    generator: one, or what shipped.load makes one of. faces: draw these alone. The others: see draw.cartoonize.
    """

    generator: Any
    strength: float = 1.0
    scale: float | None = None
    keep_colors: float = 0.0
    outline: float = 1.0
    faces: bool = False
    memory: int = 600

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and low <= value <= high) and (name, value) != ("scale", None):
                raise InputError(f"{name} is {value!r}: give a number from {low:g} to {high:g}.")
        if not callable(self.generator):
            self.generator = shipped.load(str(self.generator))

    def __call__(self, image):
        """Of an image of Pillow's, read as if from its file, or an array (H, W, 3) RGB, uint8 or floats in [0, 1]."""
        if isinstance(image, Image.Image):
            photo, alpha = as_rgb(image)
            drawn = self.draw(photo)[0]
            return Image.fromarray(drawn if alpha is None else np.dstack([drawn, alpha]))
        photo = np.asarray(image)
        if photo.dtype.kind == "f" and photo.size and photo.min() >= 0 and photo.max() <= 1:
            return (self(np.rint(photo * 255).astype(np.uint8)) / 255).astype(photo.dtype)
        return self.draw(photo)[0]

    def for_film(self, first: Iterable[np.ndarray]) -> "Cartoonizer":
        """One for frames: of one scale, by the first, and in bfloat16 where that is faster, at most 4 of 255 away."""
        generator, scale = self.generator, self.scale or usual_scale(first)[0]
        if isinstance(generator, Generator):  # and no other runtime's
            dtype = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32  # as in training
            generator = copy.deepcopy(generator).to(dtype, memory_format=torch.channels_last)  # photos keep the other
            generator.head.register_forward_pre_hook(lambda _, photo: photo[0].to(dtype))
            generator.tail.register_forward_hook(lambda *given: given[-1].float())
        return replace(self, generator=generator, scale=scale)

    def draw(self, photo: np.ndarray, progress: Callable[[float], None] | None = None) -> tuple[np.ndarray, list[str]]:
        """The cartoon of a photo, uint8 (H, W, 3) RGB, and sentences on the faces that were found in it."""
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or min(photo.shape[:2]) < SMALLEST:
            raise InputError(f"Give RGB of {SMALLEST} px or more, uint8 or in [0, 1], not {photo.dtype} {photo.shape}.")
        settings = {name: getattr(self, name) for name in ("strength", "keep_colors", "outline", "memory")}
        if self.faces and (found := certain_faces(photo)):
            return blend_faces(self.generator, photo, photo, found, **settings), []
        notes = ["no face found, so the whole picture is drawn"] if self.faces else []
        scale, found = (self.scale, []) if self.scale else usual_scale([photo])
        cartoon = cartoonize(self.generator, photo, scale=scale, progress=progress, **settings)
        small = [face for face in found if min(1.0, FACE / width_of(face)) > UNEQUAL * scale]
        if small:
            cartoon = blend_faces(self.generator, photo, cartoon, small, **settings)
            notes.append(f"faces found: {len(found)}; small ones, each drawn at its own scale: {len(small)}")
        return cartoon, notes
