"""The cartoon representations of White-box Cartoonization (Wang & Yu, CVPR 2020, section 3).

Surface: a guided filter keeps the composition and drops the texture (3.1). Structure: superpixels filled with one
colour each (3.2). Texture: one random grey version, so that colour and luminance cannot be used (3.3).
All take and give float images (B, C, H, W) in [-1, 1].
"""

import heapq

import numpy as np
import torch
import torch.nn.functional as F
from skimage import segmentation
from torch import Tensor

# --- surface -----------------------------------------------------------------------------------------------------


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a (2 radius + 1)-wide window, cut off at the border: float (B, C, H, W) -> (B, C, H, W).

    Columns, then rows, as depthwise convolutions in channels_last: on a CPU several times faster than average pooling.
    On a GPU convolutions may round to TF32, which variances in float32 do not survive, so pooling does it there.
    """
    if x.is_cuda:
        return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    x = x.contiguous(memory_format=torch.channels_last)
    ones = x.new_ones(x.shape[1], 1, 2 * radius + 1, 1)
    sums = F.conv2d(x, ones, padding=(radius, 0), groups=x.shape[1])
    sums = F.conv2d(sums, ones.transpose(2, 3), padding=(0, radius), groups=x.shape[1])
    rows, columns = (_window_sizes(length, radius, x.device) for length in x.shape[-2:])
    return sums / (rows[:, None] * columns)


def _window_sizes(length: int, radius: int, device: torch.device) -> Tensor:
    """How many pixels the window around each pixel of an axis holds: 2 radius + 1, and fewer at the ends."""
    position = torch.arange(length, device=device)
    return position.clamp(max=radius) + (length - 1 - position).clamp(max=radius) + 1


def guided_filter(guide: Tensor, source: Tensor, radius: int, eps: float) -> Tensor:
    """Guided image filter, channel by channel (He, Sun & Tang, TPAMI 2013, eq. 5, 6 and 8; White-box 3.1).

    Smooths `source` and keeps the edges of `guide`; both (B, C, H, W). `eps` is in squared units of the guide: the
    larger, the stronger the edges that are smoothed away. Computed in float32, because the variances are differences
    of nearly equal numbers.
    """
    with torch.autocast(guide.device.type, enabled=False):
        guide, source = guide.float(), source.float()
        mean_guide, mean_source = box_mean(guide, radius), box_mean(source, radius)
        variance = box_mean(guide * guide, radius) - mean_guide**2
        covariance = box_mean(guide * source, radius) - mean_guide * mean_source
        slope = covariance / (variance + eps)
        intercept = mean_source - slope * mean_guide
        return box_mean(slope, radius) * guide + box_mean(intercept, radius)


def surface(images: Tensor, radius: int = 5, eps: float = 0.2) -> Tensor:
    """Surface representation: the image filtered with itself as guide (White-box 3.1).

    The radius is in pixels of a 128 px image, and is scaled to the size at hand, so that it means the same part of
    a face at every resolution.
    """
    return guided_filter(images, images, max(1, round(radius * images.shape[-1] / 128)), eps)


# --- texture -----------------------------------------------------------------------------------------------------

# Ranges of the random weights of R, G and B, around the luma weights (.299, .587, .114) of ITU-R BT.601.
COLOR_SHIFT_RANGES = ((0.199, 0.399), (0.487, 0.687), (0.014, 0.214))


def color_shift_weights(generator: torch.Generator, shape: tuple[int, ...] = (1, 1)) -> Tensor:
    """Random weights of a grey version, (1, 3, *shape), adding up to 1.

    One draw for a whole batch and for both domains (shape (1, 1)) is what White-box does. The seed draws them anew
    for every pixel (shape (H, W)), which hands white noise to the discriminator.
    """
    low, high = torch.tensor(COLOR_SHIFT_RANGES).T.reshape(2, 1, 3, 1, 1)
    weights = low + (high - low) * torch.rand((1, 3, *shape), generator=generator)
    return weights / weights.sum(dim=1, keepdim=True)


def texture(images: Tensor, weights: Tensor) -> Tensor:
    """Texture representation: random colour shift (White-box eq. 4, without its mix with plain luma, as in its code).

    (B, 3, H, W) and weights (1, 3, 1, 1) or (1, 3, H, W) -> (B, 1, H, W).
    """
    return (images * weights.to(images.device)).sum(dim=1, keepdim=True)


# --- structure ---------------------------------------------------------------------------------------------------


def segment_slic(image: np.ndarray, segments: int) -> np.ndarray:
    """SLIC superpixels (Achanta et al. 2012) of an (H, W, 3) image in [0, 1] -> labels (H, W), from 0."""
    return segmentation.slic(image, n_segments=segments, compactness=10, sigma=1, max_num_iter=5, start_label=0)


def segment_felzenszwalb(image: np.ndarray, segments: int) -> np.ndarray:
    """The paper's segmentation: Felzenszwalb's graph cut, then neighbours of similar colour merged, most similar first.

    The paper merges by selective search; here hierarchical merging by the distance of the mean colours plays its part,
    until `segments` regions are left (skimage.graph's merging stops at a distance, not at a number). (H, W, 3) in
    [0, 1] -> labels (H, W), from 0.
    """
    labels = segmentation.felzenszwalb(image, scale=1, sigma=0.8, min_size=10)
    channels = [np.ones(labels.shape), *np.moveaxis(image, 2, 0)]
    sums = list(np.stack([np.bincount(labels.ravel(), c.ravel()) for c in channels], axis=1))  # count, R, G, B
    parent = list(range(len(sums)))
    neighbors = {region: set() for region in parent}  # of the regions that are left
    heap = []

    def propose(a: int, b: int) -> None:
        distance = np.linalg.norm(sums[a][1:] / sums[a][0] - sums[b][1:] / sums[b][0])
        heapq.heappush(heap, (float(distance), a, b))

    vertical, horizontal = np.stack([labels[1:], labels[:-1]]), np.stack([labels[:, 1:], labels[:, :-1]])
    pairs = np.concatenate([vertical.reshape(2, -1), horizontal.reshape(2, -1)], axis=1)
    for a, b in np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1).T.tolist():
        neighbors[a].add(b), neighbors[b].add(a)
        propose(a, b)
    while len(neighbors) > segments:
        _, a, b = heapq.heappop(heap)
        if a not in neighbors or b not in neighbors:
            continue  # one of them is part of a larger region by now
        merged = len(parent)
        parent[a] = parent[b] = merged
        parent.append(merged)
        sums.append(sums[a] + sums[b])
        neighbors[merged] = (neighbors.pop(a) | neighbors.pop(b)) - {a, b}
        for region in neighbors[merged]:
            neighbors[region] = neighbors[region] - {a, b} | {merged}
            propose(merged, region)
    for region in reversed(range(len(parent))):  # a region is made after its parts
        parent[region] = parent[parent[region]]
    return np.unique(np.array(parent)[labels], return_inverse=True)[1].reshape(labels.shape)


SEGMENTATIONS = {"slic": segment_slic, "felzenszwalb": segment_felzenszwalb}


def fill_segments(image: np.ndarray, labels: np.ndarray, adaptive: bool = True, brighten: float = 1.0) -> np.ndarray:
    """Give every segment one colour: (H, W, 3) in [0, 1] and labels (H, W) -> (H, W, 3) in [0, 1].

    Args:
        adaptive: mean where a segment's deviation is below 20, median where it is above 40 (on a 0-255 scale), half
            and half between (White-box eq. 2); else the mean everywhere. The deviation is the root mean square of
            those of R, G and B (White-box takes one over all values, so that a flat red would count as varied). On
            [-1, 1] images those thresholds would never fire, which happens in White-box's code.
        brighten: exponent mu of eq. 2; 1.2 in the paper, applied as colour ** (1 / mu) so that it brightens in [0, 1].
            The default leaves brightness alone, because a target that is always brighter bleaches skin.
    """
    labels = labels.ravel()
    pixels = image.reshape(-1, 3)
    count = np.maximum(np.bincount(labels), 1)
    colors = np.stack([np.bincount(labels, pixels[:, c]) for c in range(3)], axis=1) / count[:, None]
    if adaptive:
        squares = np.stack([np.bincount(labels, pixels[:, c] ** 2) for c in range(3)], axis=1) / count[:, None]
        deviation = np.sqrt(np.maximum(squares - colors**2, 0).mean(axis=1)) * 255  # one number per segment
        share = np.select([deviation < 20, deviation > 40], [0.0, 1.0], 0.5)[:, None]  # of the median
        if share.any():
            first = np.concatenate([[0], np.cumsum(np.bincount(labels))[:-1]])
            low, high = first + (count - 1) // 2, first + count // 2
            medians, segments = np.empty_like(colors), np.arange(len(count))
            for c in range(3):
                ordered = np.sort(2.0 * labels + pixels[:, c])  # segment by segment, each sorted: values are at most 1
                medians[:, c] = (ordered[low] + ordered[np.minimum(high, len(ordered) - 1)]) / 2 - 2.0 * segments
            colors = (1 - share) * colors + share * medians
    colors = np.clip(colors, 0, 1) ** (1 / brighten)
    return colors[labels].reshape(image.shape)


def structure(
    images: Tensor, method: str = "slic", segments: int = 200, adaptive: bool = True, brighten: float = 1.0
) -> Tensor:
    """Structure representation: superpixels of one colour each (White-box 3.2). No gradient flows through it.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        method: a key of SEGMENTATIONS. `slic` is the seed's default, `felzenszwalb` the paper's.
    """
    arrays = (images.detach().float().permute(0, 2, 3, 1).cpu().numpy() * 0.5 + 0.5).clip(0, 1)
    arrays = np.nan_to_num(arrays)  # SLIC raises on NaN, before the losses show it and training stops with a sentence
    segment = SEGMENTATIONS[method]
    filled = [fill_segments(image, segment(image, segments), adaptive, brighten) for image in arrays]
    result = torch.from_numpy(np.stack(filled).astype(np.float32)).permute(0, 3, 1, 2)
    return result.to(images.device) * 2 - 1
