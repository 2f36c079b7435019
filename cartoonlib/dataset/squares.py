"""What becomes of one raw image: the squares that are kept of it, or the reason why it is left out."""

import hashlib
from array import array
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..files import InputError
from ..media.faces import CANONICAL, Face, align, cut_off, detect_faces
from .origins import RawImage

PROBABILITY = 0.97  # of MTCNN, below which a detection is no face
SMALLEST = 20  # pixels; nothing is asked about smaller images
UPSCALING = 2.0  # an image that would be enlarged more than this is too small
CUT_OFF = 0.25  # share of an aligned face outside its image, reflected there, above which a second mouth may appear
CHROMA = 10.0  # mean over a face of max(R, G, B) - min(R, G, B), of 255, below which a photo is grey
NEAR_BITS, NEAR_COLOUR = 4, 6.0  # nearly the same: dHash bits of 64 that differ, and mean colour difference of 255


class Square(NamedTuple):
    """A square of an image: uint8 (side, side, 3), its points (5, 2) in units of the side, NaN where none were asked.

    compared: uint8 (H, W, 3), the picture by which near-duplicates are found.
    """

    image: np.ndarray
    points: np.ndarray
    compared: np.ndarray


def squares(item: RawImage, crop: str, side: int) -> list[tuple[str, Square | str]]:
    """(name, square or the reason why there is none): one per face with the crop `faces`, else one per image."""
    try:
        picture = item.decode(item.content)
    except InputError as problem:
        return [(item.name, f"unreadable: {problem}")]
    except MemoryError:
        return [(item.name, "unreadable: there is too little memory for it")]
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        return [(item.name, f"small: an image of {width} x {height} px")]
    if crop != "faces":
        return [(item.name, _cartoon(picture, crop, side))]
    found = [_face(picture, face, side) for face in _detect(picture)] or ["no face"]
    if len(found) == 1:
        return [(item.name, found[0])]
    return [(f"{item.name}#{number}", square) for number, square in enumerate(found, start=1)]


def _detect(picture: np.ndarray) -> list[Face]:
    """The faces of a picture, found on one thread.

    Its many small operations gain nothing from more, and on a busy machine take 15 times as long with them, because
    threads wait for one another.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return detect_faces(picture)
    finally:
        torch.set_num_threads(threads)


def _face(picture: np.ndarray, face: Face, side: int) -> Square | str:
    """The aligned face, or why there is none: the detector finds faces in patterns, and profiles do not align."""
    if face.probability < PROBABILITY:
        return f"uncertain: probability {face.probability:.2f} of a face"
    left, right, nose, *corners = face.points
    eyes = right - left
    distance = float(np.hypot(*eyes))
    needed = float(CANONICAL[1, 0] - CANONICAL[0, 0]) * side / UPSCALING
    if distance < needed:
        return f"small: eyes {distance:.0f} px apart, {needed:.0f} needed"
    along = float((nose - left) @ eyes) / distance**2  # 0 under the left eye, 1 under the right one
    mouth = float(np.hypot(*(sum(corners) - (left + right)) / 2)) / distance
    if not 0.15 < along < 0.85 or not 0.6 < mouth < 1.7:
        return f"not frontal: nose at {along:.2f} between the eyes, mouth {mouth:.2f} eye distances below"
    outside = cut_off(face.points, *picture.shape[:2])
    if outside > CUT_OFF:
        return f"cut off: {outside:.0%} of the face's square lies outside the image"
    image, points = align(picture, face.points, side)
    middle = image[side // 4 : -side // 4, side // 4 : -side // 4]
    chroma = float(np.ptp(middle, axis=2).mean())
    if chroma < CHROMA:
        return f"grey: mean chroma {chroma:.1f} of 255"
    return Square(image, points, compared=image)


def _cartoon(picture: np.ndarray, crop: str, side: int) -> Square | str:
    """A square of a drawing, resized, or why there is none."""
    height, width = picture.shape[:2]
    extent = min(height, width)
    x, y = (width - extent) / 2, (height - extent) / 2
    if crop == "random":
        rng = np.random.default_rng(list(hashlib.sha256(picture.tobytes()).digest()))
        extent *= rng.uniform(0.7, 1.0)
        x, y = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
    if extent * UPSCALING < side:
        return f"small: a square of {extent:.0f} px, {side / UPSCALING:.0f} needed"
    box = (x, y, x + extent, y + extent)
    image = np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS, box=box))
    # Frames of a scene are alike, though not their crops: the whole picture is compared.
    return Square(image, np.full((5, 2), np.nan), compared=picture)


class NearDuplicates:
    """Finds images that differ only by compression, size or a slight crop: alike in brightness steps and in colour.

    The steps are a dHash (is a pixel brighter than its right neighbour, 8 x 8). Faces drawn from the same parts agree
    in that too, and differ in colour.
    """

    def __init__(self) -> None:
        self._names, self._steps, self._colours = [], array("Q"), []

    def reason(self, image: np.ndarray, name: str) -> str:
        """Which former image is nearly this one, uint8 (H, W, 3); if none is, an empty string, and it is remembered."""
        picture = Image.fromarray(image)
        grey = np.array(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        steps = np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]
        colour = np.array(picture.resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
        for other in np.flatnonzero(np.bitwise_count(np.asarray(self._steps) ^ steps) <= NEAR_BITS):
            if np.abs(self._colours[other] - colour).mean() <= NEAR_COLOUR:
                return f"near-duplicate: almost the same as {self._names[other]}"
        self._names.append(name)
        self._steps.append(int(steps))
        self._colours.append(colour)
        return ""
