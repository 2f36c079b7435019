"""Judges of single faults: strokes, mesh, skin and blacks by CIELAB, and the look by early stages of a network.

Each compares outputs with their photos, and gives numbers for each picture. Pictures are aligned faces in CIELAB,
(N, 3, S, S) float32 with L from 0 to 100, S at least 32; boxes scale with S, periods are in pixels.
"""

import numpy as np
import torch
from torch import Tensor

from ..features import EfficientNetLite0
from ..superpixels import rgb_to_lab
from .detector import PERSON_STAGES, FaceApiPersons

# Top, bottom, left, right, of 128. The look is judged inside, where a white ground counts for nothing.
FOREHEAD, FACE, INSIDE = (26, 46, 44, 84), (58, 102, 38, 90), (24, 112, 24, 104)
STAGES = (0, 2, 4)  # blocks of EfficientNet-Lite0 that end its first three stages, at 1/2, 1/4 and 1/8 of the size
LEAST = 0.3  # added to bends of L before they are divided, about what rounding leaves: a flat forehead has no strokes
BLOCK, PERIODS, SMOOTH = 16, (2, 4, 8), 2.0  # px; px of a mesh; deviation of L below which a block of a photo is flat
BLACK = 12.0  # L of a photo's blacks


def lab(images: np.ndarray) -> Tensor:
    """(N, S, S, 3) uint8 -> CIELAB (N, 3, S, S)."""
    return torch.cat([rgb_to_lab(part / 255) for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(32)])


def box(pictures: Tensor | np.ndarray, edges: tuple[int, ...]) -> Tensor | np.ndarray:
    """What lies within edges, top, bottom, left and right in 128ths of the side, of (..., S, S)."""
    top, bottom, left, right = (round(edge * pictures.shape[-1] / 128) for edge in edges)
    return pictures[..., top:bottom, left:right]


def stroke(output: Tensor, photo: Tensor) -> np.ndarray:
    """Upright strokes on the forehead: bends of L across over those down, as multiples of the photo's; (N,), 1 is even.

    Bends are second differences: thin lines have them, shading and broad locks of hair have steps alone.
    """

    def upright(pictures: Tensor) -> Tensor:
        light = box(pictures[:, 0], FOREHEAD)
        across, down = (light.diff(n=2, dim=axis).abs().mean((1, 2)) + LEAST for axis in (2, 1))
        return across / down

    return (upright(output) / upright(photo)).numpy()


def mesh(output: Tensor, photo: Tensor) -> np.ndarray:
    """Energy of L at the periods of a mesh, where the photo is flat: (N, 2), of the output and of its photo.

    Summed over blocks of 16 px and along rows, columns and diagonal, as networks leave it that enlarge maps by 2.
    """
    blocks = [p[:, 0].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).flatten(1, 2) for p in (output, photo)]
    flat = blocks[1].std(dim=(2, 3)) < SMOOTH
    energies = []
    for block in blocks:
        power = torch.fft.fft2(block - block.mean((2, 3), keepdim=True)).abs().square()
        found = sum(power[..., k, 0] + power[..., 0, k] + power[..., k, k] for k in (BLOCK // p for p in PERIODS))
        energies.append((found * flat).sum(dim=1))
    return torch.stack(energies, dim=1).double().numpy()


def skin(output: Tensor, photo: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Change of the face box's mean colour in L, a and b, (N, 3); and the thirds of the photos by its L, darkest first.

    The thirds are three arrays of rows; they overlap when there are fewer than three photos.
    """
    before, after = (box(pictures, FACE).mean((2, 3)).numpy() for pictures in (photo, output))
    order, n = before[:, 0].argsort(kind="stable"), len(before)
    return after - before, [order[i * n // 3 : max((i + 1) * n // 3, i * n // 3 + 1)] for i in range(3)]


def blacks(output: Tensor, photo: Tensor) -> np.ndarray:
    """Mean change of L where the photo is black, of photos with blacks: (M,). Of all, at their darkest, if none has."""
    black = photo[:, 0] < BLACK
    if not black.any():
        black = photo[:, 0] <= photo[:, 0].amin((1, 2), keepdim=True)
    change = ((output - photo)[:, 0] * black).sum((1, 2)) / black.sum((1, 2)).clamp(min=1)
    return change[black.any(dim=2).any(dim=1)].numpy()


def style_vectors(network: EfficientNetLite0, images: Tensor) -> Tensor:
    """Means and deviations of the channels of early stages: (B, 3, H, W) in [-1, 1] -> (B, 160).

    What a picture is drawn with, and little of what it shows: AdaIN's statistics of style (Huang & Belongie 2017).
    """
    maps = [network._blocks(network.normalised(box(images, INSIDE)), last=-1)]  # of the stem, then of each block
    for block in network.layers._blocks[: STAGES[-1] + 1]:
        maps.append(block(maps[-1]))
    return _look([maps[1 + stage] for stage in STAGES])


def face_style_vectors(network: FaceApiPersons, images: Tensor) -> Tensor:
    """The same by dlib's recogniser, which no loss uses and no ImageNet has taught.

    Aligned faces (B, 3, H, W) in [-1, 1] -> (B, 448): its later maps tell persons apart, and are left out."""
    maps = network.maps(images)
    return _look([maps[stage] for stage in PERSON_STAGES])


def _look(stages: list[Tensor]) -> Tensor:
    """Maps (B, C, h, w), C of each its own -> (B, twice the sum of C), each stage's numbers with a mean square of 1."""
    numbers = [torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1) for x in stages]
    return torch.cat([each / each.square().mean(dim=1, keepdim=True).sqrt() for each in numbers], dim=1)
