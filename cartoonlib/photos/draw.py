"""A photo of any size in, a cartoon of the same size out.

The generator ends in a guided filter, so a cartoon is slope * photo + intercept, pixel by pixel. Everything here rests
on that: strength draws the two to 1 and 0; a network that looks at a smaller copy has them enlarged and applied to the
photo itself; and they are computed tile by tile, each with all the pixels around it that the network can see, so that
tiles meet without a seam.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from ..images import to_tensor, to_uint8
from ..landmarks import FACE_WIDTH
from ..media.faces import detect_faces
from ..media.pictures import SMALLEST
from ..networks import Generator
from ..representations import guided_coefficients

MARGIN = 64  # px around a tile: the network and its filter see 63 px far
VIEW = 512  # px: the short side of what the network looks at, unless `--scale` says otherwise
TILE_BYTES = 900  # that a pixel of a tile takes in the network, at the peak
STRIP = 500_000  # px of a photo whose cartoon is put together at once


def view_size(height: int, width: int, scale: float | None = None) -> tuple[int, int]:
    """Height and width of what the network looks at: `scale` times the photo's, never more than the photo's.

    A generator learned from faces 128 px wide, so that on a large photo its strokes are fine and on a small copy of it
    they are bold. None takes a copy with a short side of VIEW.
    """
    scale = min(1.0, VIEW / min(height, width) if scale is None else scale)
    return tuple(max(min(side, SMALLEST), round(side * scale)) for side in (height, width))


@torch.no_grad()
def cartoonize(
    generator: Generator, photo: np.ndarray, strength: float = 1.0, scale: float | None = None, memory: int = 600,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """The cartoon of a photo, uint8 (H, W, 3) RGB -> the same.

    Args:
        strength: 0 gives the photo back, 1 what the generator was trained to give; between them both are mixed,
            after the guided filter (radius `generator.filter_radius` px of the view, eps `generator.filter_eps`).
        scale: of what the network looks at, see view_size.
        memory: in MB, about what tiles may take beside the photo, its cartoon and the program; 100 at least.
        progress: is told the part of the whole that each tile is.
    """
    height, width = photo.shape[:2]
    rows, columns = view_size(height, width, scale)
    view = photo
    if (rows, columns) != (height, width):
        view = np.asarray(Image.fromarray(photo).resize((columns, rows), Image.Resampling.LANCZOS, reducing_gap=3.0))
    core = max(64, int(math.sqrt(memory * 1e6 / TILE_BYTES)) - 2 * MARGIN)
    core -= core % Generator.MULTIPLE
    cartoon = np.empty_like(photo)
    for top, bottom in _spans(rows, core):
        for left, right in _spans(columns, core):
            _tile(generator, photo, view, cartoon, strength, (top, bottom, left, right))
            if progress:
                progress((bottom - top) * (right - left) / (rows * columns))
    return cartoon


def _spans(length: int, core: int) -> Iterator[tuple[int, int]]:
    """Cut a side into spans of about one length, `core` at most, that begin at multiples of the network's."""
    count = -(-length // core)
    step = -(-length // count)
    step += -step % Generator.MULTIPLE
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _tile(generator, photo: np.ndarray, view: np.ndarray, cartoon: np.ndarray, strength: float, span: tuple) -> None:
    """Fill in the part of the cartoon that lies under one tile of the view."""
    top, bottom, left, right = span
    y, x = max(0, top - MARGIN), max(0, left - MARGIN)  # multiples of 4, as all of them
    seen = view[y : bottom + MARGIN, x : right + MARGIN]
    guide = to_tensor(np.array(seen[None]))
    source = generator.unfiltered(guide)
    slope, intercept = guided_coefficients(guide, source, generator.filter_radius, generator.filter_eps)
    maps = torch.cat([1 + strength * (slope - 1), strength * intercept], dim=1)[0].numpy()  # (6, h, w)

    ratio = photo.shape[0] / view.shape[0], photo.shape[1] / view.shape[1]
    begin, end = round(left * ratio[1]), round(right * ratio[1])
    first, last = round(top * ratio[0]), round(bottom * ratio[0])
    height = max(1, STRIP // (end - begin))
    for row in range(first, last, height):
        stop = min(row + height, last)
        if ratio == (1.0, 1.0):
            part = maps[:, row - y : stop - y, left - x : right - x]
        else:
            box = (begin / ratio[1] - x, row / ratio[0] - y, end / ratio[1] - x, stop / ratio[0] - y)
            size, bilinear = (end - begin, stop - row), Image.Resampling.BILINEAR
            part = np.stack([np.asarray(Image.fromarray(m).resize(size, bilinear, box=box)) for m in maps])
        pixels = photo[row:stop, begin:end].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        output = torch.from_numpy(part[:3] * pixels + part[3:])
        cartoon[row:stop, begin:end] = to_uint8(output[None])[0]


def faces_only(generator: Generator, photo: np.ndarray, strength: float = 1.0, memory: int = 600) -> np.ndarray | None:
    """Cartoonize each face, at the scale of the training, and blend it into the photo; None when there is no face."""
    found = [face for face in detect_faces(photo) if face.probability > 0.9]
    cartoon, (height, width) = photo.copy(), photo.shape[:2]
    for face in found:
        x, y = face.box.reshape(2, 2).mean(axis=0)
        side = max((face.box[2] - face.box[0]) / FACE_WIDTH, float(SMALLEST))  # of the square that the training saw
        left, top = (max(0, round(c - side * 0.75)) for c in (x, y))
        right, bottom = min(width, round(x + side * 0.75)), min(height, round(y + side * 0.75))
        if min(right - left, bottom - top) < SMALLEST:
            continue
        drawn = cartoonize(generator, photo[top:bottom, left:right], strength, 128 / side, memory)
        across = (np.arange(left, right, dtype=np.float32) - np.float32(x)) / np.float32(side)
        for row in range(top, bottom):
            edge = np.clip((0.75 - np.hypot(across, np.float32((row - y) / side))) / 0.25, 0, 1)
            share = (edge**2 * (3 - 2 * edge))[:, None]  # 1 on the face, falling to 0 around the head
            below = cartoon[row, left:right]
            cartoon[row, left:right] = np.rint(below + share * (drawn[row - top] - below.astype(np.float32)))
    return cartoon if found else None
