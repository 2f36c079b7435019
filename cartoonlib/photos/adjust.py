"""Contours and colours of a cartoon, changed without training anything: `--outline` and `--keep-colors`."""

import torch.nn.functional as F
from torch import Tensor

from ..representations import guided_coefficients, luma

REACH = 12  # px: how far `outlined` looks around a pixel, 6 for a closing and 4 for the filter, as a multiple of 4
WIDEST = 7  # px: side of the squares that a line does not fill
# How many times as deep as the photo a cartoon may draw a line before the rest is ink, and how often that ink counts,
# for contours below and above 1: eyes should not pale, and what is no contour should not become one.
WEAKER, STRONGER = (1.2, 1), (1.5, 2)
FAINT, CLEAR = 0.03, 0.1  # depth in luma, of 2: of shades that do not count, and of lines that count in full
BRIGHTER = 1.4  # times the photo's chroma is the most that is taken over


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
