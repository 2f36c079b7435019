"""A photo of any size in, a cartoon of the same size out.

The generator ends in a guided filter, so a cartoon is slope * photo + intercept, pixel by pixel. Everything here rests
on that: strength draws the two to 1 and 0; a network that looks at a smaller copy has them enlarged and applied to the
photo itself; and they are computed tile by tile, each with all the pixels around it that the network can see, so that
tiles meet without a seam. Of a filter with a radius of 0 the slope is 0 and the intercept a drawing, which becomes
crisp as it is enlarged.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from ..images import to_tensor, to_uint8
from ..landmarks import FACE_WIDTH
from ..media.faces import Face, detect_faces
from ..media.pictures import SMALLEST
from ..networks import Generator
from ..representations import guided_coefficients
from .adjust import AROUND, REACH, crisp, finer, outlined, part_of, recoloured, resized

MARGIN = 64  # px around a tile: the network and its filter see 63 px far
FACE = 100  # px: the width of the largest face in what the network looks at, unless `--scale` says otherwise
VIEW = 512  # px: its short side where no face is found
LEAST, AS_IT_IS = 64, 150  # px: its short side at least; that of photos up to this one is not made smaller
CERTAIN = 0.9  # probability that a face is one
TILE_BYTES = 900  # that a pixel of a tile takes in the network, at the peak
BLOCK = 400  # px of the photo, or of the finer grid of `crisp`: the side of what is put together at once, in caches


def usual_scale(pictures: Iterable[np.ndarray]) -> tuple[float, list[Face]]:
    """The scale that makes the largest face of a photo FACE px wide, or as near to it as a smaller view can come.

    On larger faces the network's lines are thin and mild, on smaller ones eyes and mouths blur. Of several
    pictures of one size the first with a face decides, so that a film has one scale. Where no face is found, or
    facenet-pytorch is not installed, the short side becomes VIEW px. The faces come back too.
    """
    short = LEAST
    for picture in pictures:
        short = min(picture.shape[:2])
        if short <= AS_IT_IS:
            return 1.0, []
        if found := _quick_faces(picture):
            return min(1.0, max(FACE / max(map(width_of, found)), LEAST / short)), found
    return min(1.0, VIEW / short), []


def _quick_faces(photo: np.ndarray) -> list[Face]:
    """As certain_faces, but found in half the size, where one that matters has FACE / 2 px."""
    longest = max(photo.shape[:2])
    small = Image.fromarray(photo)
    small.thumbnail((min(512, longest // 2),) * 2, Image.Resampling.BILINEAR)
    try:
        found = certain_faces(np.asarray(small))
    except ImportError:  # it is not among the packages that drawing needs
        return []
    ratio = longest / max(small.size)
    return [Face(face.points * ratio, face.box * ratio, face.probability) for face in found]


def view_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width of what the network looks at: `scale` times the photo's, never more than the photo's."""
    return tuple(max(min(side, SMALLEST), round(side * min(1.0, scale))) for side in (height, width))


@torch.no_grad()
def cartoonize(
    generator: Generator, photo: np.ndarray, strength: float = 1.0, scale: float | None = None,
    keep_colors: float = 0.0, outline: float = 1.0, memory: int = 600, progress: Callable[[float], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """The cartoon of a photo, uint8 (H, W, 3) RGB -> the same.

    Args:
        strength: 0 gives the photo back, 1 what the generator was trained to give; between them both are mixed,
            after the guided filter (radius `generator.filter_radius` px of the view, eps `generator.filter_eps`).
        scale: of what the network looks at, see view_size; usual_scale when it is not given.
        keep_colors: the share of the photo's colours, see adjust.recoloured.
        outline: how strong contours are, 0 to 2, see adjust.outlined; 1 as the style draws them.
        memory: in MB, about what tiles may take beside the photo, its cartoon and the program; 100 at least.
        progress: is told the part of the whole that each tile is.
    """
    height, width = photo.shape[:2]
    rows, columns = view_size(height, width, usual_scale([photo])[0] if scale is None else scale)
    view = photo
    if (rows, columns) != (height, width):
        view = np.asarray(Image.fromarray(photo).resize((columns, rows), Image.Resampling.LANCZOS, reducing_gap=3.0))
    changes, margin = (strength, keep_colors, outline), MARGIN + (REACH if outline != 1 else 0)
    margin += 0 if generator.filter_radius else AROUND + -AROUND % Generator.MULTIPLE
    core = max(64, int(math.sqrt(memory * 1e6 / TILE_BYTES)) - 2 * margin)
    core -= core % Generator.MULTIPLE
    cartoon = np.empty_like(photo)
    for top, bottom in _spans(rows, core):
        for left, right in _spans(columns, core):
            _tile(generator, photo, view, cartoon, changes, margin, (top, bottom, left, right))
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


def _tile(generator, photo: np.ndarray, view, cartoon, changes: tuple, margin: int, span: tuple) -> None:
    """Fill in the part of the cartoon that lies under one tile of the view; `margin` px of the view around it help."""
    (top, bottom, left, right), (strength, keep_colors, outline) = span, changes
    y, x = max(0, top - margin), max(0, left - margin)  # multiples of 4, as all of them
    guide = to_tensor(np.array(view[None, y : bottom + margin, x : right + margin]))
    source, smoothing = generator.unfiltered(guide), (generator.filter_radius, generator.filter_eps)
    if keep_colors:
        source = recoloured(source, guide, keep_colors)
    slope, intercept = guided_coefficients(guide, source, *smoothing)
    if outline != 1:
        slope, intercept = outlined(guide, slope, intercept, outline, *smoothing)
    maps = torch.cat([slope, intercept], dim=1)[0].numpy()  # (6, h, w)

    ratio = photo.shape[0] / view.shape[0], photo.shape[1] / view.shape[1]
    begin, end = round(left * ratio[1]), round(right * ratio[1])
    first, last = round(top * ratio[0]), round(bottom * ratio[0])
    times = finer(max(ratio))
    side = max(1, int(BLOCK * min(1, min(ratio) / times)))

    def fill(corner: tuple[int, int]) -> None:
        row, column = corner
        stop, edge = min(row + side, last), min(column + side, end)
        box = (column / ratio[1] - x, row / ratio[0] - y, edge / ratio[1] - x, stop / ratio[0] - y)
        part, box = part_of(maps, box)
        pixels = photo[row:stop, column:edge].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        if generator.filter_radius or ratio == (1.0, 1.0):
            part = resized(part, (edge - column, stop - row), box)
            drawn = part[:3] * pixels + part[3:]
        else:
            drawn = crisp(part[3:], (edge - column, stop - row), box, times)
        output = torch.from_numpy(pixels + np.float32(strength) * (drawn - pixels))
        cartoon[row:stop, column:edge] = to_uint8(output[None])[0]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, itertools.product(range(first, last, side), range(begin, end, side))))


def certain_faces(photo: np.ndarray) -> list[Face]:
    """The faces that are found in a photo, without uncertain ones."""
    return [face for face in detect_faces(photo) if face.probability > CERTAIN]


def width_of(face: Face) -> float:
    """In px of the picture in which it was found."""
    return face.box[2] - face.box[0]


def blend_faces(generator, photo: np.ndarray, below: np.ndarray, faces: list[Face], **settings) -> np.ndarray:
    """`below`, the photo or its cartoon, with faces drawn over it, each FACE px wide; settings: of cartoonize."""
    cartoon, (height, width) = below.copy(), photo.shape[:2]
    for face in faces:
        x, y = face.box.reshape(2, 2).mean(axis=0)
        side = max(width_of(face) / FACE_WIDTH, float(SMALLEST))  # of the square that the training saw
        left, top = (max(0, round(c - side * 0.75)) for c in (x, y))
        right, bottom = min(width, round(x + side * 0.75)), min(height, round(y + side * 0.75))
        if min(right - left, bottom - top) < SMALLEST:
            continue
        drawn = cartoonize(generator, photo[top:bottom, left:right], scale=FACE / width_of(face), **settings)
        across = (np.arange(left, right, dtype=np.float32) - np.float32(x)) / np.float32(side)
        for row in range(top, bottom):
            edge = np.clip((0.75 - np.hypot(across, np.float32((row - y) / side))) / 0.25, 0, 1)
            share = (edge**2 * (3 - 2 * edge))[:, None]  # 1 on the face, falling to 0 around the head
            line = cartoon[row, left:right]
            cartoon[row, left:right] = np.rint(line + share * (drawn[row - top] - line.astype(np.float32)))
    return cartoon
