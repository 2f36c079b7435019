"""A photo of any size in, a cartoon of the same size out.

The generator draws twice, as one draws: a sketch, and then its own sketch again at twice the size. It learned faces of
some 80 px, and only there it is bold; enlarged, that drawing is soft. Drawn again its shapes stay, its regions become
flat and its contours crisp. The sketch is enlarged as slope * photo + intercept, what the generator's guided
filter makes of a photo, so that fine hair is not lost. Both are computed tile by tile, each with all the pixels around
it that the network and the filters can see, so that tiles meet without a seam.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image

from ..images import to_tensor, to_uint8
from ..landmarks import FACE_WIDTH
from ..media.faces import Face, detect_faces
from ..media.pictures import SMALLEST
from ..networks import Generator
from ..representations import guided_coefficients, guided_filter, luma

MARGIN = 76  # px around a tile: the network and its filter see 63 px far, and the filter of colours 12
FACE = 100  # px: the width of the largest face in what the network looks at, unless `--scale` says otherwise
VIEW = 512  # px: its short side where no face is found
FINE = 1400  # px: short side of the second drawing at most, where the photo itself has less
LEAST, AS_IT_IS = 64, 150  # px: its short side at least; that of photos up to this one is not made smaller
CERTAIN = 0.9  # probability that a face is one
TILE_BYTES = 900  # that a pixel of a tile takes in the network, at the peak
INK = 0.15  # of 2: a change of brightness by so much is a line
STRIP = 500_000  # px of a photo whose cartoon is put together at once


def usual_scale(pictures: Iterable[np.ndarray]) -> float:
    """The scale that makes the largest face of a photo FACE px wide, or as near to it as a smaller view can come.

    On larger faces the network's lines are thin and mild, on smaller ones the enlarged maps are soft. Of several
    pictures of one size the first with a face decides, so that a film has one scale. Where no face is found, or
    facenet-pytorch is not installed, the short side becomes VIEW px.
    """
    short = LEAST
    for picture in pictures:
        short = min(picture.shape[:2])
        if short <= AS_IT_IS:
            return 1.0
        width = _face_width(picture)
        if width:
            return min(1.0, max(FACE / width, LEAST / short))
    return min(1.0, VIEW / short)


def _face_width(photo: np.ndarray) -> float:
    """Width in px of the largest face, 0 without one; found in half the size, where one that matters has FACE / 2."""
    longest = max(photo.shape[:2])
    small = Image.fromarray(photo)
    small.thumbnail((min(512, longest // 2),) * 2, Image.Resampling.BILINEAR)
    try:
        found = certain_faces(np.asarray(small))
    except ImportError:  # it is not among the packages that drawing needs
        return 0.0
    return max((face.box[2] - face.box[0] for face in found), default=0.0) * longest / max(small.size)


def view_sizes(height: int, width: int, scale: float) -> list[tuple[int, int]]:
    """Heights and widths of the sketch and of the second drawing, or of the sketch alone.

    `scale` times the photo's, never more than the photo's; then twice that, as far as the photo or FINE px go. A second
    drawing that is hardly larger, or of a photo of AS_IT_IS px or less, would take more from the face than it adds.
    """
    short, first = min(height, width), min(1.0, scale)
    second = min(2 * first, max(1.0, FINE / short))
    shares = [first, second] if second > 1.4 * first and short > AS_IT_IS else [first]
    return [tuple(max(min(side, SMALLEST), round(side * share)) for side in (height, width)) for share in shares]


@torch.no_grad()
def cartoonize(
    generator: Generator, photo: np.ndarray, strength: float = 1.0, scale: float | None = None, memory: int = 600,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """The cartoon of a photo, uint8 (H, W, 3) RGB -> the same.

    Args:
        strength: 0 gives the photo back, 1 the cartoon; between them both are mixed.
        scale: of what the network looks at first, see view_sizes; usual_scale when it is not given.
        memory: in MB, about what tiles may take beside the photo, its cartoon and the program; 100 at least.
        progress: is told the part of the whole that each tile is.
    """
    first, *second = view_sizes(*photo.shape[:2], usual_scale([photo]) if scale is None else scale)
    guide = _resized(photo, *second) if second else photo
    sketch = np.empty_like(guide)
    passes = [(partial(_sketch, guide=guide), _resized(photo, first), sketch)]
    if second:
        passes.append((_redraw, sketch, np.empty_like(sketch)))
    core = max(64, int(math.sqrt(memory * 1e6 / TILE_BYTES)) - 2 * MARGIN)
    core -= core % Generator.MULTIPLE
    pixels = sum(math.prod(view.shape[:2]) for _, view, _ in passes)
    for draw, view, drawing in passes:
        for top, bottom in _spans(view.shape[0], core):
            for left, right in _spans(view.shape[1], core):
                draw(generator, view, drawing, (top, bottom, left, right))
                if progress:
                    progress((bottom - top) * (right - left) / pixels)
    return _mixed(photo, drawing, strength)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """To a height and width, by Lanczos; the picture itself where it has them."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0))


def _spans(length: int, core: int) -> Iterator[tuple[int, int]]:
    """Cut a side into spans of about one length, `core` at most, that begin at multiples of the network's."""
    count = -(-length // core)
    step = -(-length // count)
    step += -step % Generator.MULTIPLE
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _coefficients(generator: Generator, view: np.ndarray, span: tuple) -> tuple[torch.Tensor, ...]:
    """What the network sees of a tile of the view, with the pixels around it, and slope and intercept of its cartoon."""
    top, bottom, left, right = span
    y, x = max(0, top - MARGIN), max(0, left - MARGIN)  # multiples of 4, as all of them
    seen = to_tensor(np.array(view[None, y : bottom + MARGIN, x : right + MARGIN]))
    source = generator.unfiltered(seen)
    return seen, *guided_coefficients(seen, source, generator.filter_radius, generator.filter_eps)


def _sketch(generator, view: np.ndarray, sketch: np.ndarray, span: tuple, guide: np.ndarray) -> None:
    """Fill in the part of the sketch that lies under one tile of the view; guide: the photo in the sketch's size."""
    top, bottom, left, right = span
    y, x = max(0, top - MARGIN), max(0, left - MARGIN)
    maps = torch.cat(_coefficients(generator, view, span)[1:], dim=1)[0].numpy()  # (6, h, w)
    ratio = guide.shape[0] / view.shape[0], guide.shape[1] / view.shape[1]
    begin, end = round(left * ratio[1]), round(right * ratio[1])
    first, last = round(top * ratio[0]), round(bottom * ratio[0])
    height = max(1, STRIP // (end - begin))
    for row in range(first, last, height):
        stop = min(row + height, last)
        box = (begin / ratio[1] - x, row / ratio[0] - y, end / ratio[1] - x, stop / ratio[0] - y)
        size, bicubic = (end - begin, stop - row), Image.Resampling.BICUBIC  # contours are crisper than bilinear
        part = np.stack([np.asarray(Image.fromarray(m).resize(size, bicubic, box=box)) for m in maps])
        pixels = guide[row:stop, begin:end].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        sketch[row:stop, begin:end] = to_uint8(torch.from_numpy(part[:3] * pixels + part[3:])[None])[0]


def _redraw(generator, sketch: np.ndarray, drawing: np.ndarray, span: tuple) -> None:
    """Fill in one tile of the drawing: what the generator makes of the sketch, in the colours of the sketch."""
    top, bottom, left, right = span
    seen, slope, intercept = _coefficients(generator, sketch, span)
    part = _in_colours_of(seen, slope * seen + intercept)
    y, x = min(top, MARGIN), min(left, MARGIN)  # where the tile itself begins
    drawing[top:bottom, left:right] = to_uint8(part)[0, y : y + bottom - top, x : x + right - left]


def _in_colours_of(sketch: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """What was drawn from a sketch in the sketch's colours, (1, 3, H, W) in [-1, 1], or colours would be vivid twice.

    What changed is averaged within the sketch's regions and taken back, but for ink, which is new there.
    """
    change = sketch - drawn
    paint = torch.exp(-((luma(change) / INK) ** 2)).expand_as(change)
    of_regions = partial(guided_filter, sketch, radius=6, eps=1e-3)
    return drawn + of_regions(paint * change) / of_regions(paint).clamp(min=0.15)


def _mixed(photo: np.ndarray, drawing: np.ndarray, strength: float) -> np.ndarray:
    """The drawing in the photo's size, mixed with it; strip by strip, for numbers with a point are large."""
    (height, width), rows, bicubic = photo.shape[:2], drawing.shape[0], Image.Resampling.BICUBIC
    wide, cartoon = Image.fromarray(drawing).resize((width, rows), bicubic), np.empty_like(photo)
    for top in range(0, height, step := max(1, STRIP // width)):
        below = photo[top : top + step]
        box = (0, top * rows / height, width, (top + len(below)) * rows / height)
        part = np.asarray(wide.resize((width, len(below)), bicubic, box=box), np.float32)
        cartoon[top : top + step] = np.rint(below + strength * (part - below))
    return cartoon


def certain_faces(photo: np.ndarray) -> list[Face]:
    """The faces that are found in a photo, without uncertain ones."""
    return [face for face in detect_faces(photo) if face.probability > CERTAIN]


def faces_only(generator: Generator, photo: np.ndarray, strength: float = 1.0, memory: int = 600) -> np.ndarray | None:
    """Cartoonize each face, FACE px wide, and blend it into the photo; None when there is no face."""
    found = certain_faces(photo)
    cartoon, (height, width) = photo.copy(), photo.shape[:2]
    for face in found:
        x, y = face.box.reshape(2, 2).mean(axis=0)
        face_width = face.box[2] - face.box[0]
        side = max(face_width / FACE_WIDTH, float(SMALLEST))  # of the square that the training saw
        left, top = (max(0, round(c - side * 0.75)) for c in (x, y))
        right, bottom = min(width, round(x + side * 0.75)), min(height, round(y + side * 0.75))
        if min(right - left, bottom - top) < SMALLEST:
            continue
        drawn = cartoonize(generator, photo[top:bottom, left:right], strength, FACE / face_width, memory)
        across = (np.arange(left, right, dtype=np.float32) - np.float32(x)) / np.float32(side)
        for row in range(top, bottom):
            edge = np.clip((0.75 - np.hypot(across, np.float32((row - y) / side))) / 0.25, 0, 1)
            share = (edge**2 * (3 - 2 * edge))[:, None]  # 1 on the face, falling to 0 around the head
            below = cartoon[row, left:right]
            cartoon[row, left:right] = np.rint(below + share * (drawn[row - top] - below.astype(np.float32)))
    return cartoon if found else None
