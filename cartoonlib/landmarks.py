"""Facial landmarks: differentiable landmark networks on aligned faces.

Coordinates are (x, y) with the origin at the image's upper left corner, so that the centre of the first pixel is at
(0.5, 0.5) pixels. Five points: left eye, right eye, nose tip, left mouth corner, right mouth corner ("left" as seen in
the image). 68 points: the order of iBUG 300-W.

The networks take aligned faces only, so each looks at one fixed square instead of running a detector, which is not
differentiable and finds no face in some cartoons.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from .files import InputError, load_weights

FACE_WIDTH = 0.53  # mean width of MTCNN's box of an aligned face, in units of the image side
# The same network as a state dict (face-alignment 1.5) and as a TorchScript archive (before); names end in their hash.
FAN_FILES = {"2DFAN4-11f355bf06.pth.tar": "11f355bf06", "2DFAN4-cd938726ad.zip": "cd938726ad"}
FAN_URL = f"https://www.adrianbulat.com/downloads/python-fan/{next(iter(FAN_FILES))}"


@dataclass(frozen=True)
class Square:
    """A square of the aligned frame: its centre (x, y) and its side, in units of the image side."""

    x: float
    y: float
    side: float

    def crop(self, images: Tensor, size: int) -> Tensor:
        """(B, C, H, W) -> float32 (B, C, size, size): this square, antialiased bilinear; outside, the border continues.

        Two matrix products, unlike torch's own resizing, are deterministic on CUDA and take fractional squares.
        """
        rows = _interpolation_matrix(images.shape[2], self.y - self.side / 2, self.side, size, images.device)
        columns = _interpolation_matrix(images.shape[3], self.x - self.side / 2, self.side, size, images.device)
        return rows @ images.float() @ columns.T

    def to_frame(self, points: Tensor) -> Tensor:
        """Points (..., 2) from units of this square to units of the image side."""
        x, y = (points * self.side).unbind(dim=-1)
        return torch.stack((x + (self.x - self.side / 2), y + (self.y - self.side / 2)), dim=-1)


@lru_cache
def _interpolation_matrix(length: int, start: float, extent: float, size: int, device: torch.device) -> Tensor:
    """(size, length) weights that resample [start, start + extent] of an axis (both in units of its length).

    Copied to the device once, for a copy in every training step would wait for it.
    """
    step = extent * length / size
    centres = start * length + step * (torch.arange(size) + 0.5) - 0.5
    distances = (torch.arange(length) - centres.clamp(0, length - 1)[:, None]).abs()
    weights = (1 - distances / max(step, 1.0)).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(device)


# Close to the least distance to the hand-made points of the Face Research Lab London Set (102 faces), as a mean over
# aligned faces, their centre crops 8/9 wide, and random crops of that size.
ONET_SQUARE = Square(0.5, 0.56, 0.70)
# What face-alignment crops around a detected box (raised by 0.12 of its height, side 200 / 195 of width + height),
# for MTCNN's mean box of an aligned face: 0.53 wide, 0.72 high, centred at y = 0.546.
FAN_SQUARE = Square(0.5, 0.46, 1.28)


class _Frozen(nn.Module):
    """A network that stays in evaluation mode also when a module that holds it is trained."""

    def train(self, mode: bool = True):
        return super().train(False)


class ONetLandmarks(_Frozen):
    """Five points by MTCNN's O-Net (Zhang et al. 2016), whose weights come with facenet-pytorch."""

    def __init__(self):
        super().__init__()
        from facenet_pytorch.models.mtcnn import ONet

        self.onet = ONet()
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) in [-1, 1] -> points (B, 5, 2) in units of the image side."""
        crops = ONET_SQUARE.crop(images, 48) * (127.5 / 128)  # O-Net was trained on (value - 127.5) / 128
        points = self.onet(crops)[1]
        return ONET_SQUARE.to_frame(torch.stack((points[:, :5], points[:, 5:]), dim=2))


class FANLandmarks(_Frozen):
    """68 points by the Face Alignment Network (Bulat and Tzimiropoulos 2017, four hourglasses, face-alignment's code).

    Its weights come with no package: without them InputError says where to get them.
    """

    def __init__(self):
        super().__init__()
        from face_alignment.models import FAN

        weights = load_weights(FAN_FILES, FAN_URL, "FAN", "landmarks: onet")
        self.fan = FAN(4)
        self.fan.load_state_dict(weights)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) in [-1, 1] -> points (B, 68, 2) in units of the image side."""
        heatmaps = self.fan((FAN_SQUARE.crop(images, 256) + 1) / 2)[-1]
        return FAN_SQUARE.to_frame(soft_argmax(heatmaps))


def soft_argmax(heatmaps: Tensor, radius: int = 3) -> Tensor:
    """Differentiable position of each map's peak: (B, K, h, w) -> (B, K, 2) as (x, y) in units of the map's sides.

    The centre of mass of the positive values within `radius` pixels of the maximum. FAN's maps are Gaussians of one
    pixel's deviation: over the whole map, a softmax would be drawn to the middle or fall onto the pixel grid.
    """
    height, width = heatmaps.shape[2:]
    peak = heatmaps.flatten(2).argmax(dim=2, keepdim=True)
    y, x = torch.arange(height, device=peak.device), torch.arange(width, device=peak.device)
    near_y, near_x = (y - peak // width).abs() <= radius, (x - peak % width).abs() <= radius
    weights = (heatmaps.clamp(min=0) + 1e-8) * near_y[..., :, None] * near_x[..., None, :]
    weights = weights / weights.sum(dim=(2, 3), keepdim=True)
    mean_x = (weights.sum(dim=2) * (x + 0.5)).sum(dim=2) / width
    mean_y = (weights.sum(dim=3) * (y + 0.5)).sum(dim=2) / height
    return torch.stack((mean_x, mean_y), dim=2)


def landmark_network(name: str) -> nn.Module:
    """The frozen landmark network of this name: "onet" (5 points) or "fan" (68 points)."""
    networks = {"onet": ONetLandmarks, "fan": FANLandmarks}
    if name not in networks:
        raise InputError(f"There is no landmark network '{name}': choose one of {', '.join(networks)}.")
    return networks[name]()
