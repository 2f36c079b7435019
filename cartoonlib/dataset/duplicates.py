"""Images that are nearly the same as one before."""

import numpy as np
from PIL import Image

from .squares import Reject

NEAR_BITS, NEAR_COLOUR = 4, 6.0  # nearly the same: dHash bits of 64 that differ, and mean colour difference of 255


class NearDuplicates:
    """Finds images that differ only by compression, size or a slight crop: alike in brightness steps and in colour.

    The steps are a dHash (is a pixel brighter than its right neighbour, 8 x 8). Faces drawn from the same parts agree
    in that too, and differ in colour.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.hashes = np.zeros(1024, np.uint64)
        self.colours = np.zeros((1024, 8 * 8 * 3), np.float32)

    def check(self, image: np.ndarray, name: str) -> None:
        """Raise Reject if a former image is nearly this one (uint8 H x W x 3), else remember it."""
        picture, count = Image.fromarray(image), len(self.names)
        grey = np.array(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        steps = np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]
        colour = np.array(picture.resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
        for other in np.flatnonzero(np.bitwise_count(self.hashes[:count] ^ steps) <= NEAR_BITS):
            if np.abs(self.colours[other] - colour).mean() <= NEAR_COLOUR:
                raise Reject(f"near-duplicate: almost the same as {self.names[other]}")
        if count == len(self.hashes):
            self.hashes, self.colours = (np.concatenate([a, np.zeros_like(a)]) for a in (self.hashes, self.colours))
        self.hashes[count], self.colours[count] = steps, colour
        self.names.append(name)
