"""References of the superpixels, one image after the other in scikit-image and NumPy, and measures of quality."""

import heapq

import numpy as np
from scipy import ndimage
from skimage import segmentation
from skimage.metrics import contingency_table

from ..superpixels import COMPACTNESS, ITERATIONS, SIGMA


def segment_slic(image: np.ndarray, segments: int) -> np.ndarray:
    """Scikit-image's SLIC, the reference of `slic`: (H, W, 3) in [0, 1] -> labels (H, W), from 0."""
    return segmentation.slic(image, segments, COMPACTNESS, ITERATIONS, SIGMA, start_label=0)


def segment_felzenszwalb(image: np.ndarray, segments: int) -> np.ndarray:
    """The paper's segmentation: Felzenszwalb's graph cut, then neighbours of similar colour merged, most similar first.

    The paper merges by selective search; here hierarchical merging by the distance of the mean colours plays its part,
    until `segments` regions are left (skimage.graph's merging stops at a distance, not at a number). (H, W, 3) in
    [0, 1] -> labels (H, W), from 0.
    """
    labels = segmentation.felzenszwalb(image, scale=1, sigma=0.8, min_size=10)
    channels = [np.ones(labels.shape), *np.moveaxis(image, 2, 0)]
    sums = list(np.stack([np.bincount(labels.ravel(), c.ravel()) for c in channels], axis=1))  # count, R, G, B
    region_of = np.arange(len(sums))  # of each part that the cut found
    neighbors = {region: set() for region in range(len(sums))}  # of the regions that are left
    heap = []

    def propose(a: int, b: int) -> None:
        heapq.heappush(heap, (float(np.linalg.norm(sums[a][1:] / sums[a][0] - sums[b][1:] / sums[b][0])), a, b))

    vertical, horizontal = np.stack([labels[1:], labels[:-1]]), np.stack([labels[:, 1:], labels[:, :-1]])
    pairs = np.concatenate([vertical.reshape(2, -1), horizontal.reshape(2, -1)], axis=1)
    for a, b in np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1).T.tolist():
        neighbors[a].add(b), neighbors[b].add(a)
        propose(a, b)
    while len(neighbors) > segments:
        _, a, b = heapq.heappop(heap)
        if a not in neighbors or b not in neighbors:
            continue  # one of them is part of a larger region by now
        merged = len(sums)
        region_of[(region_of == a) | (region_of == b)] = merged
        sums.append(sums[a] + sums[b])
        neighbors[merged] = (neighbors.pop(a) | neighbors.pop(b)) - {a, b}
        for region in neighbors[merged]:
            neighbors[region] = neighbors[region] - {a, b} | {merged}
            propose(merged, region)
    return np.unique(region_of[labels], return_inverse=True)[1].reshape(labels.shape)


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
        first = np.concatenate([[0], np.cumsum(np.bincount(labels))[:-1]])
        begin = 2.0 * np.arange(len(count))[:, None]  # of a segment's values, which are at most 1, once all are sorted
        ordered = np.sort(2.0 * labels[:, None] + pixels, axis=0)
        medians = (ordered[first + (count - 1) // 2] + ordered[first + count // 2]) / 2 - begin
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
    return float(near[wanted].mean()) if wanted.any() else np.nan


def undersegmentation_error(labels: np.ndarray, reference: np.ndarray) -> float:
    """Share of the pixels by which segments leak over the regions of `reference`; (H, W) each, the smaller the better.

    Each segment counts, for each region it meets, with the smaller of the parts inside and outside of it (Neubert &
    Protzel 2012; Stutz, Hermans & Leibe 2018).
    """
    shared = contingency_table(reference, labels).toarray()
    return float(np.minimum(shared, shared.sum(axis=0) - shared).sum() / labels.size)


def explained_variance(image: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of the colours that the means of the segments keep, 0 to 1.

    Of an image (H, W, 3) in [0, 1] and labels (H, W). The larger the better (Moore et al. 2008; Stutz, Hermans & Leibe
    2018). NaN for an image of one colour.
    """
    means = fill_segments(image, labels, adaptive=False)
    total = np.square(image - image.mean(axis=(0, 1))).sum()
    return float(np.square(means - image.mean(axis=(0, 1))).sum() / total) if total else np.nan
