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
from ..looks import DARKEST
from ..profile import Look
from ..representations import box_mean, guided_filter
from ..superpixels import smooth
from .folders import whole_folder
from .lines import coherent_lines
from .prepare import ImageSet

VERSION = 2  # raise it when the same photos would give other arrays
CHUNK = 32  # photos at a time
FINE = 0.6  # px: width of coherent lines on eyes and mouth


def structures(faces: ImageSet, look: Look, progress: Callable[[str], None] = print) -> np.ndarray:
    """The structure of every photo of a prepared set, uint8 (N, S, S, 4 or 6), mapped from the disk.

    As `structure` has it. Prepared once for each set and what it depends on of the look.
    """
    settings = [look.flatten, look.width, look.flow] if look.flow else [look.flatten]
    key = hashlib.sha256(json.dumps([VERSION, faces.hash, *settings]).encode()).hexdigest()[:10]
    folder = files.PROCESSED / f"structures-{faces.images.shape[1]}-{key}"
    if not folder.is_dir():
        progress(f"{faces.title}: flat regions of {len(faces.images)} photos")
    return np.load(whole_folder(folder, partial(_fill, faces, look)) / "images.npy", mmap_mode="r")


def _fill(faces: ImageSet, look: Look, folder: Path) -> None:
    count, side, device = *faces.images.shape[:2], pick_device()
    shape = (count, side, side, 6 if look.flow else 4)
    array = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in tqdm(range(0, count, CHUNK), desc="flat regions", leave=False, disable=None):
        some = slice(start, start + CHUNK)
        photos = to_tensor(np.array(faces.images[some])).to(device)  # a copy: torch wants bytes that may be written
        array[some] = to_uint8(structure(photos, torch.from_numpy(faces.points[some]).to(device), look))
    array.flush()


def structure(photos: Tensor, points: Tensor, look: Look) -> Tensor:
    """What a look is drawn from: (B, 3, S, S) in [-1, 1], points (B, 5, 2) in units of the side -> (B, 4 or 6, S, S).

    In [-1, 1]: three channels hold the photo in flat regions, its eyes and mouth in full; the fourth is 1 on these and
    falls softly to -1. Two more, of a look with a `flow`, hold its coherent lines, finer on eyes and mouth, and where
    the face is, whose regions are smaller: nose and cheeks keep their form.
    """
    side = photos.shape[-1]
    features = features_mask(points, side)
    if not look.flow:
        return torch.cat([flat(photos, features, look.flatten), features * 2 - 1], dim=1)
    face = face_mask(points, side)
    regions = flat(photos, features, look.flatten * (1 - 0.5 * face))
    lines = coherent_lines(photos, look.width, look.flow)
    lines = lines * (1.3 - 0.8 * face)  # folds drawn as dark as contours age a face
    lines = lines - 0.5 * smooth(lines.clamp(max=0.05), 2 * look.flow)  # many side by side are a texture
    fine = coherent_lines(photos, FINE, look.flow / 2)
    lines = (1 - features) * lines + features * 1.3 * fine
    masks = torch.cat([features, (lines / DARKEST).clamp(0, 1), face], dim=1)
    return torch.cat([regions, masks * 2 - 1], dim=1)


def features_mask(points: Tensor, side: int) -> Tensor:
    """1 on both eyes and the mouth, falling softly to 0: points (B, 5, 2) in units of the side -> (B, 1, S, S)."""
    left, right, _nose, *corners = points.float().unbind(dim=1)
    between, lips, mouth = (right - left).norm(dim=1), (corners[1] - corners[0]).norm(dim=1), sum(corners) / 2
    eyes = [_ellipse(eye, 0.38 * between, 0.24 * between, side) for eye in (left, right)]
    return torch.stack([*eyes, _ellipse(mouth, 0.55 * lips + 0.08 * between, 0.33 * between, side)]).amax(dim=0)


def face_mask(points: Tensor, side: int) -> Tensor:
    """1 on the face, falling softly to 0 at its contour: shapes as of features_mask."""
    left, right, _nose, *corners = points.float().unbind(dim=1)
    eyes, mouth = (left + right) / 2, sum(corners) / 2
    height = 1.45 * (mouth - eyes).norm(dim=1)
    width = torch.maximum(1.05 * (right - left).norm(dim=1), 0.6 * height)
    return _ellipse(eyes + 0.35 * (mouth - eyes), width, height, side)


def _ellipse(centre: Tensor, half_width: Tensor, half_height: Tensor, side: int) -> Tensor:
    """1 inside an ellipse, 0 outside, soft between: (B, 2), (B,), (B,) in units of the side -> (B, 1, S, S)."""
    grid = (torch.arange(side, device=centre.device) + 0.5) / side
    x = (grid - centre[:, :1]) / half_width[:, None]
    y = (grid - centre[:, 1:]) / half_height[:, None]
    return torch.exp(-0.7 * (x[:, None, :] ** 2 + y[:, :, None] ** 2) ** 2)[:, None]


@torch.no_grad()
def flat(photos: Tensor, features: Tensor, price: float | Tensor) -> Tensor:
    """Photos as flat regions, their eyes and mouths in full and a little sharper.

    (B, 3, S, S) in [-1, 1], features (B, 1, S, S) in [0, 1] -> (B, 3, S, S). Steps are counted in square roots of the
    light: else mouths and noses of dark faces, whose steps are small, are smoothed away.
    """
    fine = guided_filter(photos, photos, 1, 5e-4)
    fine = fine + 0.5 * (fine - box_mean(fine, 2))
    regions = smooth_l0((photos / 2 + 0.5).sqrt(), price) ** 2 * 2 - 1
    return features * fine + (1 - features) * regions


def smooth_l0(images: Tensor, price: float | Tensor) -> Tensor:
    """As few steps between pixels as possible (Xu, Lu, Xu & Jia 2011, "Image Smoothing via L0 Gradient Minimization").

    Regions become flat, and unlike a segmentation's their borders are where the photo's are, so that a network can
    learn them: L1 to Felzenszwalb's superpixels teaches a blurred photo, for where those cut cannot be foreseen.
    (B, C, H, W) in [0, 1] -> the same. price: of a step, in squared units of the images, for all pixels or for each
    (B, 1, H, W). Borders wrap.
    """
    height, width = images.shape[2:]
    turns = [torch.arange(length, device=images.device) / length for length in (height, width)]
    waves = [2 - 2 * torch.cos(2 * math.pi * turn) for turn in turns]
    laplacian = waves[0][:, None] + waves[1][: width // 2 + 1]
    result, spectrum, beta = images, torch.fft.rfft2(images), 2 * float(torch.as_tensor(price).min())
    while beta < 1e5:
        steps = torch.stack([result.roll(-1, dim) - result for dim in (2, 3)])
        steps = torch.where(steps.square().sum(dim=(0, 2), keepdim=True)[0] < price / beta, 0.0, steps)
        back = steps[0].roll(1, 2) - steps[0] + steps[1].roll(1, 3) - steps[1]
        result = torch.fft.irfft2((spectrum + beta * torch.fft.rfft2(back)) / (1 + beta * laplacian), s=(height, width))
        beta *= 2
    return result.clamp(0, 1)
