"""Images as arrays: the one place of uint8 <-> [-1, 1].

Inside the library images are float32 (B, 3, H, W), RGB in [-1, 1]; in stores and files they are uint8 (..., H, W, 3).
"""

import numpy as np
import torch
from torch import Tensor


def to_tensor(images: np.ndarray | Tensor) -> Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1]."""
    return torch.as_tensor(images).movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """float (..., 3, H, W) in [-1, 1], clipped, to uint8 (..., H, W, 3); the inverse of to_tensor."""
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


def center_crop(images: np.ndarray, size: int) -> np.ndarray:
    """The central size x size of stored images (..., S, S, 3), a view."""
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]
