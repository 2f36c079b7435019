"""Superpixels: an image cut into small segments of similar colour, each filled with one colour (White-box 3.2).

SLIC, the default of White-box's code, and the filling run on a batch, on the device of the images, and on a CPU they
are faster than scikit-image. The paper's graph cut is compared in bench/segmentation.py.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

COMPACTNESS = 10.0  # how many units of CIELAB weigh as much as one step of the grid
SIGMA = 1.0  # of the Gaussian smoothing beforehand, in pixels
ITERATIONS = 5  # assignments of the pixels to the centres; of as many, scikit-image makes the first by place alone
# Linear sRGB to CIE XYZ, and the white point D65 (2 degree observer); the numbers are scikit-image's and kornia's.
RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB in [0, 1] to CIELAB (L 0 to 100, a and b about -100 to 100), (B, 3, H, W) -> (B, 3, H, W).

    The matrix is written out in scalars: kornia's function copies it to the device at every call, which makes the host
    wait, and which a CUDA graph cannot record.
    """
    red, green, blue = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92).unbind(dim=1)
    rows = [[weight / white for weight in row] for row, white in zip(RGB_TO_XYZ, WHITE)]
    xyz = torch.stack([r * red + g * green + b * blue for r, g, b in rows], dim=1)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing with mirrored borders, cut off at 4 sigma (pixels): (B, C, H, W) -> float32 (B, C, H, W).

    Two matrix products: convolutions may round to TF32 on a GPU, and shifted images are hundreds of small kernels.
    """
    rows, columns = (_gaussian_matrix(length, sigma, images.device) for length in images.shape[2:])
    with torch.autocast(images.device.type, enabled=False):
        return rows @ images.float() @ columns.T


@lru_cache
def _gaussian_matrix(length: int, sigma: float, device: torch.device) -> Tensor:
    """(length, length) weights that smooth an axis: of the pixels, of their mirror images and of these again."""
    position = torch.arange(length, device=device, dtype=torch.float64)
    ways = position - position[:, None], position + position[:, None] + 1
    distances = torch.stack([way + turn * 2 * length for way in ways for turn in (-1, 0, 1)])
    weights = (torch.exp(-0.5 * (distances / sigma) ** 2) * (distances.abs() <= round(4 * sigma))).sum(dim=0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def slic_grid(height: int, width: int, segments: int) -> tuple[int, int]:
    """Rows and columns of the grid: cells about square, and as many as the grid allows without exceeding `segments`."""
    rows = min(max(1, round(math.sqrt(segments * height / width))), height, segments)
    return rows, min(segments // rows, width)


class _Axis(NamedTuple):
    """An axis of an image, cut into cells of s = ceil(length / cells) pixels or one less. All are integers or bool."""

    pixels: Tensor  # (cells, s): the pixels of each cell; the last one of a smaller cell is no pixel of its own
    valid: Tensor  # (cells, s): false for these
    cell: Tensor  # (length): the cell of each pixel
    entry: Tensor  # (length): the place of each pixel in `pixels`, flattened


def _cut(length: int, cells: int, device: torch.device) -> _Axis:
    size = -(-length // cells)

    def start(cell: Tensor) -> Tensor:
        return (cell * length + cells - 1) // cells  # the first pixel p with p * cells // length == cell

    index, pixel = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    pixels, cell = start(index) + torch.arange(size, device=device), pixel * cells // length
    return _Axis(pixels.clamp(max=length - 1), pixels < start(index + 1), cell, cell * size + pixel - start(cell))


def _cell_by_cell(x: Tensor, vertical: _Axis, horizontal: _Axis) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> (B, K, C, s * s), smaller cells filled up; and what of it is valid, (1, K, 1, s * s), 0 or 1."""
    batch, channels = x.shape[:2]
    x = x.index_select(2, vertical.pixels.flatten()).index_select(3, horizontal.pixels.flatten())
    x = x.reshape(batch, channels, *vertical.pixels.shape, *horizontal.pixels.shape).permute(0, 2, 4, 1, 3, 5)
    valid = vertical.valid[:, None, :, None] & horizontal.valid[None, :, None, :]
    cells = valid.shape[0] * valid.shape[1]
    return x.reshape(batch, cells, channels, -1), valid.view(1, cells, 1, -1).float()


@torch.no_grad()
def slic(images: Tensor, segments: int) -> Tensor:
    """SLIC superpixels (Achanta et al., TPAMI 2012) of a batch: (B, 3, H, W) in [-1, 1] -> int64 labels (B, H, W).

    k-means in colour and place, from a regular grid of K cells, K the product of `slic_grid`; labels are in 0 .. K - 1.
    Each pixel chooses among the 3 x 3 cells around the one it lies in, as in gSLIC (Ren, Prisacariu & Reid 2015), so
    that all is dense. A segment may have several parts, which scikit-image would join to their neighbours.

    Shapes do not depend on the data, nothing waits for the device, and no sum has an order that varies: a CUDA graph
    can record it, and it is deterministic. Computed in float32. NaN counts as black.
    """
    batch, _, height, width = images.shape
    rows, columns = slic_grid(height, width, segments)
    cells, device = rows * columns, images.device
    vertical, horizontal = _cut(height, rows, device), _cut(width, columns, device)
    step = math.sqrt(height * width / cells)
    with torch.autocast(device.type, enabled=False):
        rgb = (images.float() * 0.5 + 0.5).clamp(0, 1).nan_to_num()
        darkest, brightest = rgb.amin(dim=(1, 2, 3), keepdim=True), rgb.amax(dim=(1, 2, 3), keepdim=True)
        rgb = (rgb - darkest) / (brightest - darkest).clamp(min=1e-6)  # scikit-image does so: compact at any contrast
        lab = smooth(rgb_to_lab(rgb), SIGMA) / COMPACTNESS
        y = (torch.arange(height, device=device) / step)[:, None].expand(batch, 1, height, width)
        x = (torch.arange(width, device=device) / step).expand(batch, 1, height, width)
        features, valid = _cell_by_cell(torch.cat([lab, y, x], dim=1), vertical, horizontal)
        # Relative to the mean of their cell, so that distances are no small differences of large squares.
        origin = (features * valid).sum(dim=3, keepdim=True) / valid.sum(dim=3, keepdim=True)
        features = torch.cat([(features - origin) * valid, valid.expand(batch, -1, -1, -1)], dim=2).flatten(0, 1)
        origin = origin.squeeze(3).transpose(1, 2)  # (B, 5, K)
        outside = 1 / F.unfold(origin.new_ones(1, 1, rows, columns), 3, padding=1).transpose(1, 2) - 1  # inf: no cell

        def distances(centers: Tensor) -> Tensor:
            """Squared distances to the 9 centres around, less the pixels' own squares: (B K, 9, s * s)."""
            near = F.unfold(centers.view(batch, 5, rows, columns), 3, padding=1).view(batch, 5, 9, cells)
            near = (near - origin[:, :, None]).permute(0, 3, 2, 1)
            squares = near.square().sum(dim=3) + outside
            return torch.baddbmm(squares.reshape(-1, 9, 1), near.flatten(0, 1), features[:, :5], alpha=-2)

        centers = origin
        for _ in range(ITERATIONS - 1):
            distance = distances(centers)
            nearest = distance.eq_(distance.amin(dim=1, keepdim=True))  # 1 or 0; at equal distance, part of both
            sums = torch.bmm(nearest, features.transpose(1, 2)).view(batch, cells, 9, 6).permute(0, 3, 2, 1)
            sums = torch.cat([sums[:, :5] + sums[:, 5:] * origin[:, :, None], sums[:, 5:]], dim=1)
            sums = F.fold(sums.reshape(batch, -1, cells), (rows, columns), 3, padding=1).view(batch, 6, cells)
            count = sums[:, 5:]
            centers = torch.where(count > 0, sums[:, :5] / count.clamp(min=1), centers)
        nearest = distances(centers).min(dim=1).indices  # 0 to 8, row by row; much faster on a CPU than argmin
    nearest = nearest.view(batch, rows, columns, *vertical.pixels.shape[1:], -1).transpose(2, 3)
    nearest = nearest.reshape(batch, vertical.pixels.numel(), horizontal.pixels.numel())
    nearest = nearest.index_select(1, vertical.entry).index_select(2, horizontal.entry)
    return (vertical.cell[:, None] + nearest // 3 - 1) * columns + horizontal.cell + nearest % 3 - 1


LEVELS = 2**16 - 1  # colours as integers: exact for images of 8 bits, since 2^16 - 1 = 257 * 255, else 8e-6 off


@torch.no_grad()
def fill(images: Tensor, labels: Tensor, count: int, adaptive: bool = True, brighten: float = 1.0) -> Tensor:
    """Give every segment one colour: (B, 3, H, W) in [-1, 1], int64 labels (B, H, W) -> float32 (B, 3, H, W).

    Integers sorted once, by channel, label and value, give medians, and sums that are exact in any order:
    deterministic, and without a shape or a wait that depends on the data. NaN counts as black.

    Args:
        count: labels are in 0 .. count - 1; any of them may be missing.
        adaptive: mean where a segment's deviation is below 20, median where it is above 40 (on a 0-255 scale), half
            and half between (White-box eq. 2); else the mean everywhere. The deviation is the root mean square of
            those of R, G and B (White-box takes one over all values, so that a flat red would count as varied).
        brighten: exponent mu of eq. 2; 1.2 in the paper, applied as colour ** (1 / mu) so that it brightens in [0, 1].
            The default leaves brightness alone, because a target that is always brighter bleaches skin.
    """
    batch, channels, height, width = images.shape
    groups = batch * channels * count
    dtype = torch.int32 if groups << 16 < 2**31 else torch.int64  # half the bits are sorted in half the time
    values = ((images.float() * 0.5 + 0.5).clamp(0, 1).nan_to_num() * LEVELS).round().to(dtype).flatten(2)
    labels = labels.reshape(batch, 1, height * width)
    group = torch.arange(batch * channels, dtype=dtype, device=images.device).view(batch, channels, 1) * count + labels
    keys = (group.to(dtype) << 16 | values).flatten().sort().values
    bounds = torch.searchsorted(keys, torch.arange(groups + 1, dtype=dtype, device=images.device) << 16)
    first, size = bounds[:-1], bounds.diff().clamp(min=1)
    values = (keys & LEVELS).long()

    def mean(x: Tensor) -> Tensor:
        """Means of sorted integers over each segment: (B * 3 * H * W) -> float64 (B, 3, count)."""
        sums = F.pad(x.cumsum(0), (1, 0)).index_select(0, bounds).diff()
        return (sums.double() / size).view(batch, channels, count)

    colors = mean(values) / LEVELS
    if adaptive:
        variance = mean(values**2) / LEVELS**2 - colors**2
        deviation = variance.clamp(min=0).mean(dim=1, keepdim=True).sqrt() * 255  # one number per segment
        share = ((deviation >= 20).double() + (deviation > 40).double()) / 2  # of the median
        middle = torch.stack([first + (size - 1) // 2, first + size // 2]).clamp(max=len(values) - 1)
        medians = values[middle].sum(dim=0).view(batch, channels, count) / (2 * LEVELS)
        colors = (1 - share) * colors + share * medians
    colors = colors.float() ** (1 / brighten) * 2 - 1
    return colors.gather(2, labels.expand(-1, channels, -1)).view(images.shape)
