"""What becomes of one raw image: the squares that are kept of it, or why it is left out."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from ..files import InputError
from ..media.faces import detect_faces
from .catalogue import RawImage, Source
from .faces import CANONICAL, align, cut_off

PROBABILITY = 0.97  # of MTCNN, below which a detection is no face
SMALLEST = 20  # pixels; nothing is asked about smaller images
CHUNK, CHUNK_BYTES = 8, 3 * 10**8  # photos held in memory at a time, fewer of very large ones
UPSCALING = 2.0  # an image that would be enlarged more than this is too small
CUT_OFF = 0.25  # share of an aligned face outside its image, reflected there, above which a second mouth may appear
CHROMA = 10.0  # mean over a face of max(R, G, B) - min(R, G, B), of 255, below which a photo is grey


class Reject(Exception):
    """Why an image is left out."""


def squares(raw: Iterator[RawImage], source: Source, side: int) -> Iterator[tuple]:
    """(raw image, name, square or Reject): one per face of a photo or of a set with `crop: faces`, else one per image.

    A square is (uint8 side x side x 3, its points, the uint8 picture by which near-duplicates are found).
    """
    by_face = source.kind == "faces" or source.crop == "faces"
    for chunk in _chunks(raw):
        readable = [picture for _, picture in chunk if not isinstance(picture, Reject)]
        detected = iter(_detect(readable) if by_face else [])
        for item, picture in chunk:
            if isinstance(picture, Reject):
                yield item, item.name, picture
            elif not by_face:
                yield item, item.name, _or_reject(_cartoon, picture, source.crop, side)
            else:
                faces = next(detected)
                if not faces:
                    yield item, item.name, Reject("no face")
                for number, face in enumerate(faces, start=1):
                    name = item.name if len(faces) == 1 else f"{item.name}#{number}"
                    yield item, name, _or_reject(_face, picture, face, side)


def _chunks(raw: Iterator[RawImage]) -> Iterator[list[tuple]]:
    """Raw images, each with its pixels or the Reject of one that cannot be read, a few at a time."""
    chunk, held = [], 0
    for item in raw:
        if len(chunk) == CHUNK or held > CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
        picture = _or_reject(_pixels, item)
        chunk.append((item, picture))
        held += getattr(picture, "nbytes", 0)
    yield chunk


def _detect(pictures: list[np.ndarray]) -> list[list]:
    """The faces of each picture, found on one thread.

    Its many small operations gain nothing from more, and on a busy machine take 15 times as long with them, because
    threads wait for one another.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return detect_faces(pictures)
    finally:
        torch.set_num_threads(threads)


def _or_reject(function: Callable, *arguments):
    """What the function returns, or the Reject that it raises."""
    try:
        return function(*arguments)
    except Reject as reason:
        return reason


def _pixels(item: RawImage) -> np.ndarray:
    try:
        pixels = item.decode(item.content)
    except InputError as problem:
        raise Reject(f"unreadable: {problem}") from None
    except MemoryError:
        raise Reject("unreadable: there is too little memory for it") from None
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise Reject(f"small: an image of {width} x {height} px")
    return pixels


def _face(picture: np.ndarray, face, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The aligned face and its points, or Reject. The detector finds faces in patterns, and profiles do not align."""
    if face.probability < PROBABILITY:
        raise Reject(f"uncertain: probability {face.probability:.2f} of a face")
    left, right, nose = face.points[:3]
    eyes = right - left
    distance = float(np.hypot(*eyes))
    needed = float(CANONICAL[1, 0] - CANONICAL[0, 0]) * side / UPSCALING
    if distance < needed:
        raise Reject(f"small: eyes {distance:.0f} px apart, {needed:.0f} needed")
    along = float((nose - left) @ eyes) / distance**2  # 0 under the left eye, 1 under the right one
    mouth = float(np.hypot(*((face.points[3] + face.points[4]) - (left + right)) / 2)) / distance
    if not 0.15 < along < 0.85 or not 0.6 < mouth < 1.7:
        raise Reject(f"not frontal: nose at {along:.2f} between the eyes, mouth {mouth:.2f} eye distances below")
    outside = cut_off(face.points, *picture.shape[:2])
    if outside > CUT_OFF:
        raise Reject(f"cut off: {outside:.0%} of the face's square lies outside the image")
    image, points = align(picture, face.points, side)
    middle = image[side // 4 : -side // 4, side // 4 : -side // 4].astype(np.int16)
    chroma = float((middle.max(axis=2) - middle.min(axis=2)).mean())
    if chroma < CHROMA:
        raise Reject(f"grey: mean chroma {chroma:.1f} of 255")
    return image, points, image


def _cartoon(picture: np.ndarray, crop: str, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of a drawing, resized, or Reject."""
    height, width = picture.shape[:2]
    extent = min(height, width)
    x, y = (width - extent) / 2, (height - extent) / 2
    if crop == "upper":
        y = 0
    elif crop == "random":
        rng = np.random.default_rng(list(hashlib.sha256(picture.tobytes()).digest()))
        extent *= rng.uniform(0.7, 1.0)
        x, y = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
    if extent * UPSCALING < side:
        raise Reject(f"small: a square of {extent:.0f} px, {side / UPSCALING:.0f} needed")
    box = (x, y, x + extent, y + extent)
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS, box=box)
    return np.array(image), np.full((5, 2), np.nan), picture  # frames of a scene are alike, though not their crops
