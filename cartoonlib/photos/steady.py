"""A film's cartoon without flicker: what the film shows again is averaged with its cartoon of the frame before.

A network answers noise and motion with other lines. So each cartoon is mixed with the last one, moved along the film's
motion, but only where that explains the film: what is new, behind a moving edge or after a cut, stays as it is drawn.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import to_tensor, to_uint8
from ..representations import box_mean

PAST = 0.7  # the share of the frames before, where nothing but motion and noise changes
SAME, OTHER = 0.03, 0.1  # differences of the film, of 2, up to which it is the same, and from which it is another thing
SIDE, COARSEST = 240, 32  # px: about the short sides of the copies in which motion is looked for
WINDOW, STEPS = 7, 2  # radius in px of what moves alike; corrections at each size


class Steady:
    """Takes the frames of a film in their order and their cartoons, uint8 (H, W, 3) RGB, and gives steady cartoons."""

    def __init__(self):
        self.small, self.cartoon, self.frames = None, None, 0

    @torch.no_grad()
    def __call__(self, frame: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        cartoon, before, old = to_tensor(drawn[None]), self.cartoon, self.small
        factor, self.frames = max(1, round(min(frame.shape[:2]) / SIDE)), self.frames + 1
        self.cartoon, self.small = cartoon, F.avg_pool2d(to_tensor(frame[None]), factor)
        if before is not None and before.shape == cartoon.shape:
            flow = optical_flow(self.small.mean(1, keepdim=True), old.mean(1, keepdim=True))
            change = box_mean(self.small - moved(old, flow), 1).abs().amax(1, keepdim=True)  # noise averages out
            change = F.max_pool2d(change, 5, stride=1, padding=2)  # beside what has changed is its contour
            share = PAST * ((OTHER - change) / (OTHER - SAME)).clamp(0, 1)
            if share.mean() > PAST / 2:  # otherwise it is another scene
                maps = F.interpolate(torch.cat([factor * flow, share], dim=1), cartoon.shape[2:], mode="bilinear")
                cartoon.lerp_(moved(before, maps[:, :2], "bicubic"), maps[:, 2:])
        return to_uint8(cartoon)[0]


def optical_flow(new: Tensor, old: Tensor) -> Tensor:
    """Where each pixel of a grey image was in another, in px right and down: (B, 1, H, W) in [-1, 1] -> (B, 2, H, W).

    Lucas & Kanade, "An iterative image registration technique" (IJCAI 1981), from a coarse copy to the finest.
    """
    flow = new.new_zeros(len(new), 2, *new.shape[2:])
    if min(new.shape[2:]) >= COARSEST:
        coarse = optical_flow(F.avg_pool2d(new, 2), F.avg_pool2d(old, 2))
        flow = 2 * F.interpolate(coarse, new.shape[2:], mode="bilinear")
    slopes = torch.cat(torch.gradient(new, dim=(3, 2)), dim=1)
    squares, cross = box_mean(slopes**2, WINDOW) + 4e-4, box_mean(slopes.prod(1, keepdim=True), WINDOW)
    for _ in range(STEPS):  # the least squares of slopes * step = change
        right = box_mean(slopes * (new - moved(old, flow)), WINDOW)
        step = squares.flip(1) * right - cross * right.flip(1)
        flow = flow + (step / (squares.prod(1, keepdim=True) - cross**2)).clamp(-2, 2)
    return box_mean(flow, WINDOW)  # little is known of it where a picture is even


def moved(images: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Images (B, C, H, W), each pixel taken from `flow` (B, 2, H, W), px right and down, away from it."""
    height, width = images.shape[2:]
    x, y = torch.arange(width) + flow[:, 0], torch.arange(height)[:, None] + flow[:, 1]
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    return F.grid_sample(images, grid, mode, padding_mode="border", align_corners=True)
