"""The photos in flat regions, from which the structure start's targets are drawn: made once, kept with the photos."""

import hashlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import files
from ..device import pick_device
from ..images import to_tensor, to_uint8
from ..representations import box_mean, guided_filter
from .folders import whole_folder
from .prepare import ImageSet

VERSION = 1  # raise it when the same photos would give other arrays
CHUNK = 32  # photos at a time


def structures(faces: ImageSet, flatten: float, progress: Callable[[str], None] = print) -> np.ndarray:
    """The structure of every photo of a prepared set, uint8 (N, S, S, 4), mapped from the disk.

    Three channels hold the photo in flat regions, its eyes and mouth in full; the fourth is 255 on these and falls
    softly to 0. flatten: the price of a step between pixels, see smooth_l0. Prepared once for each set and price.
    """
    key = hashlib.sha256(json.dumps([VERSION, faces.hash, flatten]).encode()).hexdigest()[:10]
    folder = files.PROCESSED / f"structures-{faces.images.shape[1]}-{key}"
    if not folder.is_dir():
        progress(f"{faces.title}: flat regions of {len(faces.images)} photos")
    return np.load(whole_folder(folder, partial(_fill, faces, flatten)) / "images.npy", mmap_mode="r")


def _fill(faces: ImageSet, flatten: float, folder: Path) -> None:
    count, side, device = *faces.images.shape[:2], pick_device()
    shape = (count, side, side, 4)
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in tqdm(range(0, count, CHUNK), desc="flat regions", leave=False, disable=None):
        some = slice(start, start + CHUNK)
        photos = to_tensor(np.array(faces.images[some])).to(device)  # a copy: torch wants bytes that may be written
        points = torch.from_numpy(faces.points[some]).to(device)
        features = features_mask(points, side)
        array[some] = to_uint8(torch.cat([flat(photos, features, flatten), features * 2 - 1], dim=1))
    array.flush()


def features_mask(points: Tensor, side: int) -> Tensor:
    """1 on both eyes and the mouth, falling softly to 0: points (B, 5, 2) in units of the side -> (B, 1, S, S)."""
    grid = (torch.arange(side, device=points.device) + 0.5) / side
    left, right, _nose, *corners = points.float().unbind(dim=1)
    between, lips, mouth = (right - left).norm(dim=1), (corners[1] - corners[0]).norm(dim=1), sum(corners) / 2
    mask = torch.zeros(len(points), side, side, device=points.device)
    eye, lip = (0.38 * between, 0.24 * between), (0.55 * lips + 0.08 * between, 0.33 * between)
    for (x, y), (width, height) in ((left.T, eye), (right.T, eye), (mouth.T, lip)):
        x, y = (grid - x[:, None]) / width[:, None], (grid - y[:, None]) / height[:, None]
        mask = torch.maximum(mask, torch.exp(-0.7 * (x[:, None, :] ** 2 + y[:, :, None] ** 2) ** 2))
    return mask[:, None]


@torch.no_grad()
def flat(photos: Tensor, features: Tensor, flatten: float) -> Tensor:
    """Photos as flat regions, their eyes and mouths in full and a little sharper.

    (B, 3, S, S) in [-1, 1], features (B, 1, S, S) in [0, 1] -> (B, 3, S, S). Steps are counted in square roots of the
    light: else mouths and noses of dark faces, whose steps are small, are smoothed away.
    """
    fine = guided_filter(photos, photos, 1, 5e-4)
    fine = fine + 0.5 * (fine - box_mean(fine, 2))
    regions = smooth_l0((photos / 2 + 0.5).sqrt(), flatten) ** 2 * 2 - 1
    return features * fine + (1 - features) * regions


def smooth_l0(images: Tensor, price: float) -> Tensor:
    """As few steps between pixels as possible (Xu, Lu, Xu & Jia 2011, "Image Smoothing via L0 Gradient Minimization").

    Regions become flat, and unlike a segmentation's their borders are where the photo's are, so that a network can
    learn them: L1 to Felzenszwalb's superpixels teaches a blurred photo, for where those cut cannot be foreseen.
    (B, C, H, W) in [0, 1] -> the same. price: of a step, in squared units of the images. Borders wrap.
    """
    height, width = images.shape[2:]
    turns = [torch.arange(length, device=images.device) / length for length in (height, width)]
    waves = [2 - 2 * torch.cos(2 * math.pi * turn) for turn in turns]
    laplacian = waves[0][:, None] + waves[1][: width // 2 + 1]
    result, spectrum, beta = images, torch.fft.rfft2(images), 2 * price
    while beta < 1e5:
        steps = torch.stack([result.roll(-1, dim) - result for dim in (2, 3)])
        steps = torch.where(steps.square().sum(dim=(0, 2), keepdim=True)[0] < price / beta, 0.0, steps)
        back = steps[0].roll(1, 2) - steps[0] + steps[1].roll(1, 3) - steps[1]
        result = torch.fft.irfft2((spectrum + beta * torch.fft.rfft2(back)) / (1 + beta * laplacian), s=(height, width))
        beta *= 2
    return result.clamp(0, 1)
