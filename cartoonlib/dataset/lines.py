"""Coherent lines of a photo, as a pen would draw them (Kang, Lee & Chui 2007, "Coherent Line Drawing").

A difference of Gaussians across the flow of a picture says how dark a line is there. Its mean along the flow joins
what belongs to one contour and lets specks go. The flow is that of the smoothed structure tensor (Kyprianidis &
Doellner 2008, "Image Abstraction by Structure Adaptive Filtering"), which needs no iterations.
"""

import math

import torch
import torch.nn.functional as F
from kornia.filters import spatial_gradient
from torch import Tensor

from ..representations import guided_filter, luma
from ..superpixels import smooth


@torch.no_grad()
def coherent_lines(images: Tensor, width: float, length: float) -> Tensor:
    """How much darker than the brightness around it a line is: (B, 3, H, W) in [-1, 1] -> (B, 1, H, W), about 0 to 1.

    width: deviation of the narrow Gaussian across the flow, length: of that along it, both in px.
    """
    across, along = flow(images, length / 1.5)
    grey = luma(guided_filter(images, images, 2, 4e-3)) / 2 + 0.5
    narrow, wide = (_mean_along(grey, across, deviation) for deviation in (width, 1.6 * width))
    dark = (wide - narrow) / (smooth(grey, 3 * width) + 0.2)
    return (2 * _mean_along(dark, along, length, follow=True)).clamp(min=0)  # twice, for a mean is less than its peak


def flow(images: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Directions in which a picture changes most, and least: (B, 3, H, W) -> two (B, 2, H, W), x and y of length 1.

    The eigenvectors of the structure tensor, over all colours, smoothed by a Gaussian of this deviation in px.
    """
    x, y = spatial_gradient(images).unbind(dim=2)
    xx, yy, xy = (smooth(product.sum(dim=1, keepdim=True), deviation) for product in (x * x, y * y, x * y))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    across = torch.cat([angle.cos(), angle.sin()], dim=1)
    return across, torch.stack([-across[:, 1], across[:, 0]], dim=1)


def _mean_along(values: Tensor, direction: Tensor, deviation: float, follow: bool = False) -> Tensor:
    """Gaussian mean along straight lines, or along those that `follow` the direction as it turns: (B, 1, H, W)."""
    total, weights = values.clone(), 1.0
    for way in (direction, -direction):
        offset = torch.zeros_like(direction)
        for distance in range(1, math.ceil(2 * deviation) + 1):
            offset = offset + way
            weight = math.exp(-((distance / deviation) ** 2) / 2)
            total, weights = total + weight * _moved(values, offset), weights + weight
            if follow:  # a direction and its opposite are the same, so mixing two would be wrong: the nearest
                turned = _moved(direction, offset, "nearest")
                way = turned * torch.where((turned * way).sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    return total / weights


def _moved(values: Tensor, offset: Tensor, mode: str = "bilinear") -> Tensor:
    """What lies `offset`, (B, 2, H, W) in px, from every pixel, mirrored at the borders."""
    height, width = values.shape[2:]
    x = torch.arange(width, device=values.device) + offset[:, 0]
    y = torch.arange(height, device=values.device)[:, None] + offset[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(values, grid, mode, "reflection", align_corners=False)
