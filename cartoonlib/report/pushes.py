"""What a loss says of pictures, where it pushes them, and what becomes of them when they follow it alone.

A loss is here a function (output, photo, target) -> scalar; all are (N, 3, S, S) in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from ..images import to_uint8
from .figures import comparison
from .tables import number


class Push(NamedTuple):
    values: list[float]  # of a loss on N pictures, one at a time
    gradient: Tensor  # with respect to the pictures, (N, 3, S, S)


def push(loss: Callable, output: Tensor, photo: Tensor, target: Tensor) -> Push:
    """The value of a loss on each of the outputs, and its gradient with respect to the output."""
    values, gradients = [], []
    for one, *others in zip(output.split(1), photo.split(1), target.split(1), strict=True):
        value = loss(one.requires_grad_(), *others)
        gradients += torch.autograd.grad(value, one)
        values.append(value.item())
    return Push(values, torch.cat(gradients))


def heat_map(gradient: Tensor) -> np.ndarray:
    """Where descent makes a picture lighter (orange) and darker (violet): (N, 3, S, S) -> uint8 (N, S, S, 3).

    Full colour is the 99th percentile of each picture's push, so that maps compare places and not losses.
    """
    lighter = -gradient.sum(dim=1)
    full = lighter.abs().flatten(1).quantile(0.99, dim=1).clamp(min=1e-12)
    return plt.get_cmap("PuOr_r")((lighter / full[:, None, None] / 2 + 0.5).clamp(0, 1).numpy(), bytes=True)[..., :3]


def push_figure(photos: np.ndarray, seen: dict[str, np.ndarray], pushes: dict[str, Push]) -> plt.Figure:
    """Photos, what the losses see (title -> pictures), and where each loss pushes, with its values above."""
    titled = {f"{name} pushes".replace("_", " "): found for name, found in pushes.items()}
    maps = {title: heat_map(found.gradient) for title, found in titled.items()}
    return comparison(photos, seen | maps, {title: " and ".join(map(number, f.values)) for title, f in titled.items()})


def descend(
    loss: Callable, output: Tensor, photo: Tensor, target: Tensor, steps: int = 40, rate: float = 0.02
) -> tuple[list[np.ndarray], list[float]]:
    """Move the pixels of `output` by Adam so that a loss falls, and nothing else is asked.

    Returns the pictures, uint8, and the loss, at the start and after each step.
    """
    pixels, pictures, values = output.clone().requires_grad_(), [], []
    optimizer = torch.optim.Adam([pixels], rate)
    for _ in range(steps + 1):
        value = loss(pixels, photo, target)
        pictures.append(to_uint8(pixels))
        values.append(value.item())
        (pixels.grad,) = torch.autograd.grad(value, pixels)
        optimizer.step()
    return pictures, values
