"""References of the superpixels, one image after the other in scikit-image and NumPy, and measures of quality."""

import math

import numpy as np
from scipy import ndimage
from skimage import segmentation

from ..superpixels import COMPACTNESS, ITERATIONS, SIGMA


def segment_slic(image: np.ndarray, segments: int) -> np.ndarray:
    """Scikit-image's SLIC, the reference of `slic`: (H, W, 3) in [0, 1] -> labels (H, W), from 0."""
    return segmentation.slic(
        image, n_segments=segments, compactness=COMPACTNESS, sigma=SIGMA, max_num_iter=ITERATIONS, start_label=0
    )


def fill_segments(image: np.ndarray, labels: np.ndarray, adaptive: bool = True, brighten: float = 1.0) -> np.ndarray:
    """The reference of `fill`, same arguments: (H, W, 3) in [0, 1] and labels (H, W), from 0 -> (H, W, 3) in [0, 1]."""
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


def boundary_recall(labels: np.ndarray, reference: np.ndarray, tolerance: int) -> float:
    """Share of the boundary pixels of `reference` with one of `labels` within a square of 2 tolerance + 1 pixels.

    (H, W) each; a boundary pixel has one of its 4 neighbours in another segment. The larger the better, at equal
    numbers of segments (Martin, Fowlkes & Malik 2004; Stutz, Hermans & Leibe 2018). NaN without boundaries.
    """
    found, wanted = (segmentation.find_boundaries(x, connectivity=1, mode="thick") for x in (labels, reference))
    near = ndimage.maximum_filter(found, size=2 * tolerance + 1)
    return float(near[wanted].mean()) if wanted.any() else math.nan


def undersegmentation_error(labels: np.ndarray, reference: np.ndarray) -> float:
    """Share of the pixels by which segments leak over the regions of `reference`; (H, W) each, the smaller the better.

    Each segment counts, for each region it meets, with the smaller of the parts inside and outside of it (Neubert &
    Protzel 2012; Stutz, Hermans & Leibe 2018).
    """
    shared = np.zeros((reference.max() + 1, labels.max() + 1), int)
    np.add.at(shared, (reference.ravel(), labels.ravel()), 1)
    return float(np.minimum(shared, shared.sum(axis=0) - shared).sum() / labels.size)


def explained_variance(image: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of the colours that the means of the segments keep, 0 to 1.

    Of an image (H, W, 3) in [0, 1] and labels (H, W). The larger the better (Moore et al. 2008; Stutz, Hermans & Leibe
    2018). NaN for an image of one colour.
    """
    means = fill_segments(image, labels, adaptive=False)
    total = np.square(image - image.mean(axis=(0, 1))).sum()
    return float(np.square(means - image.mean(axis=(0, 1))).sum() / total) if total else math.nan
