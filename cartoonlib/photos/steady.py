"""A film's cartoon without flicker: what the film shows again is averaged with its cartoon of the frame before.

The drawing of one frame knows nothing of the last one, and a network answers noise and motion with other lines. So each
cartoon is mixed with the one before, which is moved along the film's own motion, but only where that motion explains
the film: where something else appears, as behind a moving edge or after a cut, the drawing stays as it is. Works on what
is drawn, so the generator may end in a guided filter or not.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import to_tensor, to_uint8
from ..representations import box_mean

PAST = 0.7  # the share of the frames before, where nothing but motion and noise changes
SAME, OTHER = 0.03, 0.1  # differences of the film, of 2, up to which it is the same, and from which it is another thing
SIDE = 240  # px: about the short side of the copies in which motion is looked for
COARSEST = 32  # px: the short side from which a copy is halved no more
WINDOW, STEPS = 7, 2  # radius in px of what moves alike; corrections at each size


class Steady:
    """Draws the frames of a film in their order: uint8 (H, W, 3) RGB -> the same; `draw` draws one by itself."""

    def __init__(self, draw: Callable[[np.ndarray], np.ndarray]):
        self.draw, self.small, self.cartoon = draw, None, None

    @torch.no_grad()
    def __call__(self, frame: np.ndarray) -> np.ndarray:
        cartoon = to_tensor(self.draw(frame)[None])
        factor = max(1, round(min(frame.shape[:2]) / SIDE))
        small = F.avg_pool2d(to_tensor(frame[None]), factor)
        if self.cartoon is not None and self.cartoon.shape == cartoon.shape:
            flow, share = _remembered(small, self.small)
            if share.mean() > PAST / 2:  # otherwise it is another scene
                maps = F.interpolate(torch.cat([factor * flow, share], dim=1), cartoon.shape[2:], mode="bilinear")
                cartoon += maps[:, 2:] * (moved(self.cartoon, maps[:, :2], "bicubic") - cartoon)
        self.small, self.cartoon = small, cartoon
        return to_uint8(cartoon)[0]


def _remembered(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (1, 2, H, W), and the share of the old frame (1, 1, H, W), 0 to PAST, of two frames (1, 3, H, W)."""
    flow = optical_flow(new.mean(1, keepdim=True), old.mean(1, keepdim=True))
    difference = box_mean(new - moved(old, flow), 1).abs().amax(1, keepdim=True)  # noise averages out
    difference = F.max_pool2d(difference, 5, stride=1, padding=2)  # beside what has changed is its contour
    return flow, PAST * ((OTHER - difference) / (OTHER - SAME)).clamp(0, 1)


def optical_flow(new: Tensor, old: Tensor) -> Tensor:
    """Where each pixel of a grey image was in another, in px right and down: two (B, 1, H, W) -> (B, 2, H, W).

    Lucas & Kanade, "An iterative image registration technique" (IJCAI 1981), from a coarse copy to the finest.
    """
    copies = [(new, old)]
    while min(copies[-1][0].shape[2:]) >= COARSEST:
        copies.append(tuple(F.avg_pool2d(image, 2) for image in copies[-1]))
    flow = new.new_zeros(len(new), 2, 1, 1)
    for new, old in reversed(copies):
        flow = 2 * F.interpolate(flow, new.shape[2:], mode="bilinear")
        down, right = torch.gradient(new, dim=(2, 3))
        products = torch.cat([right * right, down * down, right * down], dim=1)
        rr, dd, rd = (box_mean(products, WINDOW) + new.new_tensor([4e-4, 4e-4, 0])[:, None, None]).split(1, dim=1)
        for _ in range(STEPS):
            change = new - moved(old, flow)
            r, d = box_mean(torch.cat([right * change, down * change], dim=1), WINDOW).split(1, dim=1)
            step = torch.cat([dd * r - rd * d, rr * d - rd * r], dim=1) / (rr * dd - rd * rd)
            flow = flow + step.clamp(-2, 2)
        flow = box_mean(flow, WINDOW)  # nothing is known of where a picture is even
    return flow


def moved(images: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Images (B, C, H, W), each pixel taken from `flow` (B, 2, H, W), px right and down, away from it."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height)[:, None] + flow[:, 1], torch.arange(width) + flow[:, 0]
    grid = torch.stack([columns * (2 / (width - 1)) - 1, rows * (2 / (height - 1)) - 1], dim=-1)
    return F.grid_sample(images, grid, mode, padding_mode="border", align_corners=True)
