"""A cartoon changed without training anything: crisp when it is enlarged, other contours, the photo's colours."""

import math
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..representations import guided_coefficients, luma

REACH = 12  # px: how far `outlined` looks around a pixel, 6 for a closing and 4 for the filter, as a multiple of 4
WIDEST = 7  # px: side of the squares that a line does not fill
# How many times as deep as the photo a cartoon may draw a line before the rest is ink, and how often that ink counts,
# for contours below and above 1: eyes should not pale, and what is no contour should not become one.
WEAKER, STRONGER = (1.2, 1), (1.5, 2)
FAINT, CLEAR = 0.03, 0.1  # depth in luma, of 2: of shades that do not count, and of lines that count in full
BRIGHTER = 1.4  # times the photo's chroma is the most that is taken over
AROUND = 6  # px of maps that are needed around what is enlarged, the most by `crisp`
TURNS, FINEST = 2, 4  # how often `crisp` moves values, and on how many times a drawing's pixels at most
CONTRAST = 0.3  # of 2, from which on a contour is moved in full; shades of skin and ripples of the network are fainter


def crisp(part: np.ndarray, size: tuple[int, int], box: tuple[float, ...], times: int) -> np.ndarray:
    """A part of a drawing, enlarged, with contours as a pen leaves them instead of ramps.

    A pixel moves towards the darkest or the brightest within a px of the drawing, whichever is nearer (Kramer &
    Bruckner 1975, "Iterations of a non-linear transformation for enhancement of digital images"). Theirs take its
    value, which makes stairs; here it moves along a smooth curve, on a finer grid, so that contours stay anti-aliased.

    part: float32 (3, H, W) in [-1, 1]. size: the width and height that come back. box: of what, see part_of. times: how
    much finer than the drawing the grid is, see finer.
    """
    large = resized(part, (times * part.shape[2], times * part.shape[1]))
    moved = large.copy()
    for plane in moved:  # one after the other, for the processor's cache
        for _ in range(TURNS):
            low, high = (_extreme(choose, plane, times) for choose in (np.minimum, np.maximum))
            contrast = high - low
            share = (plane - low) / np.maximum(contrast, 1e-3)
            plane += np.minimum(contrast / CONTRAST, 1) * contrast * share * (1 - share) * (2 * share - 1)
    # Their changes alone go through the grid and back, which would pale thin lines where little is enlarged.
    return resized(part, size, box) + resized(moved - large, size, tuple(times * edge for edge in box))


def part_of(maps: np.ndarray, box: tuple[float, ...]) -> tuple[np.ndarray, tuple[float, ...]]:
    """What is needed of maps (C, H, W) for a box in them, left, top, right and bottom in px; and the box in it."""
    x, y = (max(0, int(edge) - AROUND) for edge in box[:2])
    part = maps[:, y : math.ceil(box[3]) + AROUND, x : math.ceil(box[2]) + AROUND]
    return part, tuple(edge - start for edge, start in zip(box, (x, y, x, y), strict=True))


def finer(ratio: float) -> int:
    """How many times finer than a drawing that is enlarged `ratio` times the grid is on which `crisp` works."""
    return min(FINEST, max(2, math.ceil(ratio)))


def resized(maps: np.ndarray, size: tuple[int, int], box: tuple[float, ...] | None = None) -> np.ndarray:
    """Float32 (C, H, W) in other sizes, width and height: bicubic, for contours are crisper than by bilinear."""
    images = (Image.fromarray(np.ascontiguousarray(plane)) for plane in maps)
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box)) for image in images])


def _extreme(choose: Callable, plane: np.ndarray, reach: int) -> np.ndarray:
    """The smallest or largest in the square of 2 reach + 1 px around each pixel, cut off at the borders: (H, W)."""
    for _ in range(2):  # down, then across
        plane, seen = np.pad(plane, [(reach, reach), (0, 0)], "edge"), 1
        while seen <= 2 * reach:  # px that each value stands for: twice as many after a step, until the square is full
            step = min(seen, 2 * reach + 1 - seen)
            plane, seen = choose(plane[:-step], plane[step:]), seen + step
        plane = plane.T
    return plane


def outlined(guide, slope, intercept, outline: float, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a guided filter, (B, 3, H, W) each, for weaker or stronger contours.

    A line is what a morphological closing fills up (black top-hat, Serra 1982), and ink is by how much the cartoon's
    lines are deeper than the photo's, so that eyes, nostrils and freckles are none. The guided filter is linear in what
    it smooths: the ink's own coefficients are added to the cartoon's, and are as sharp as these on a larger photo.

    guide: the photo that the network saw, in [-1, 1]; slope, intercept, radius, eps: see guided_coefficients; outline:
    0 takes all ink away, 1 leaves it, 2 adds twice as much.
    """
    cartoon = (slope * guide + intercept).clamp(-1, 1)
    light, own, (allowed, times) = luma(cartoon), luma(guide), WEAKER if outline < 1 else STRONGER
    depth = _closing(light) - light
    ink = depth - allowed * (_closing(own) - own)
    clear = ((ink - FAINT) / (CLEAR - FAINT)).clamp(0, 1)
    share = ink * clear**2 * (3 - 2 * clear) / depth.clamp(min=FAINT)  # of the line's depth; 0 where there is no ink
    added = guided_coefficients(guide, share * (_closing(cartoon) - cartoon), radius, eps)
    return slope + times * (1 - outline) * added[0], intercept + times * (1 - outline) * added[1]


def _closing(images: Tensor) -> Tensor:
    """Dark lines filled up from both sides: the minimum of the maximum in squares, (B, C, H, W) -> the same."""
    highest = F.max_pool2d(F.pad(images, (WIDEST - 1,) * 4, mode="replicate"), WIDEST, stride=1)
    return -F.max_pool2d(-highest, WIDEST, stride=1)


def recoloured(cartoon: Tensor, photo: Tensor, share: float) -> Tensor:
    """What the network drew, (B, 3, H, W), with its own luma and that share of the chroma of the photo, in [-1, 1].

    Before the guided filter, which takes the photo's noise out of the chroma as well, and whose coefficients then hold
    it. Luma and chroma are sums of RGB, so that luma stays; in Lab, colours that RGB lacks would have to be cut. Chroma
    rises and falls with the light, as under another lamp, so that ink stays black and skin does not pale; BRIGHTER
    times at most, for in the dark it is noise, and as far as RGB reaches.
    """
    grey, light = luma(cartoon.clamp(-1, 1)), luma(photo)
    chroma = photo - light
    lamp = (grey + 1) / (light + 1).clamp(min=1e-3)
    reach = (1 - grey) / chroma.amax(dim=1, keepdim=True).clamp(min=1e-3)
    return cartoon + share * (grey + lamp.clamp(max=BRIGHTER).minimum(reach) * chroma - cartoon)
