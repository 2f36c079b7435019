"""Numbers that compare generated cartoons with photos and with real cartoons, each with a bootstrap interval.

Distances between sets use the features of a named network and are never called FID: that word means Inception's.
Intervals are 95 % percentile bootstraps over images, 500 draws, seeded. The draws are shifted so that their mean is the
value, for a sample with repetitions has fewer different images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from timeit import timeit

import numpy as np
import torch
from torch import Tensor, nn

from .. import losses
from ..dataset.prepare import ImageSet
from ..files import InputError
from ..images import to_tensor, to_uint8
from ..runs.store import Run
from . import indices
from .detector import DETECTOR, PERSONS, FaceApiPersons

DRAWS = 500
BATCH = 32
SKIN = ("skin_dark", "skin_middle", "skin_light")  # change of the face's L, by thirds of the photos
STRANGERS = 1  # percent of the pairs of photos that lie nearer together than a picture may lie to its own photo


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int
    # The bootstrap's values (DRAWS,); all estimates of the same n resample the same images.
    draws: np.ndarray = field(repr=False, compare=False)

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference from another estimate on the same images, with its own interval.

        Images that are hard for one variant are hard for the other, so this interval is much narrower than theirs.
        """
        return _interval(self.value - other.value, self.draws - other.draws, self.n)

    def over(self, other: "Estimate") -> "Estimate":
        """This distance (x 1000) in units of another one on the same images, with an interval of the ratio.

        It is the ratio's first order, for a draw of the other distance may come near zero.
        """
        unit = max(other.value, 1.0)
        ratio = self.value / unit
        return _interval(ratio, (self.draws - ratio * other.draws) / unit, self.n)


def _interval(value: float, draws: np.ndarray, n: int) -> Estimate:
    finite = draws[np.isfinite(draws)]  # one image n times, which happens with few, has no kernel distance
    if not finite.size:
        raise InputError(f"{n} held-out image is too few for a distance: raise `test_fraction`.")
    low, high = np.percentile(finite - finite.mean() + value, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), n, draws)


def _estimate(statistic: Callable[[np.ndarray], float], n: int) -> Estimate:
    """Evaluate `statistic(counts)`, where counts[i] says how often image i is in the sample: once, then resampled."""
    rng = np.random.default_rng(0)
    draws = [statistic(rng.multinomial(n, np.full(n, 1 / n)).astype(float)) for _ in range(DRAWS)]
    return _interval(statistic(np.ones(n)), np.array(draws), n)


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean of one number per image."""
    values = np.asarray(values, float)
    return _estimate(lambda counts: float(counts @ values / counts.sum()), len(values))


def estimate(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Estimate:
    """Another statistic than the mean, of one number or row of numbers per image: np.median, for instance."""
    return _estimate(lambda counts: float(statistic(np.repeat(values, counts.astype(int), axis=0))), len(values))


def _off_diagonal_mean(kernel: np.ndarray, counts: np.ndarray) -> float:
    """Mean of kernel over pairs of different images, weighted by how often each is in the sample; NaN without pairs."""
    pairs = counts.sum() ** 2 - counts @ counts
    return (counts @ kernel @ counts - counts**2 @ np.diag(kernel)) / pairs if pairs else np.nan


def kid(x: np.ndarray, y: np.ndarray, paired: bool = False) -> Estimate:
    """Kernel distance: unbiased MMD^2 with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, eq. 4), times 1000.

    The interval resamples the images of x; pairs of an image with itself never count, so that resampling adds no bias.

    x, y: features (n, d) and (m, d), n and m at least 2.
    paired: y[i] belongs to x[i] (the photo of an output): both are resampled together and such pairs do not count.
    """
    xx, xy, yy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    within_y, across = _off_diagonal_mean(yy, np.ones(len(y))), xy.mean(axis=1)

    def statistic(counts: np.ndarray) -> float:
        if paired:
            rest = _off_diagonal_mean(yy, counts) - 2 * _off_diagonal_mean(xy, counts)
        else:
            rest = within_y - 2 * counts @ across / counts.sum()
        return 1000 * (_off_diagonal_mean(xx, counts) + rest)

    return _estimate(statistic, len(x))


def flatness(images: np.ndarray, threshold: float = 4.0) -> np.ndarray:
    """Share of flat pixels of each image: luma differs by less than `threshold` (of 255) from all eight neighbours.

    (N, H, W, 3) uint8 -> (N,). Cartoons are flat inside their contours, photos hardly anywhere.
    """
    luma = torch.from_numpy(images.astype(np.float32) @ np.array(losses.RGB_TO_YUV[0], np.float32))[:, None]
    high = torch.nn.functional.max_pool2d(luma, 3, stride=1)
    low = -torch.nn.functional.max_pool2d(-luma, 3, stride=1)
    inner = luma[..., 1:-1, 1:-1]
    return (torch.maximum(high - inner, inner - low) < threshold).float().mean(dim=(1, 2, 3)).numpy()


def landmark_errors(points: np.ndarray, reference: np.ndarray, eyes: tuple[int, int] = (36, 45)) -> np.ndarray:
    """Mean distance of landmarks from the reference's, in units of its inter-ocular distance.

    (N, K, 2) each -> (N,).  eyes: the outer eye corners among the K points, by default those of 68.
    """
    width = np.linalg.norm(reference[:, eyes[0]] - reference[:, eyes[1]], axis=-1)
    return np.linalg.norm(points - reference, axis=-1).mean(axis=1) / width


@torch.no_grad()
def _map(function: Callable[[Tensor], Tensor], images: np.ndarray, device: torch.device | str) -> Tensor:
    """Apply a function of (B, 3, H, W) tensors in [-1, 1] to (N, H, W, 3) uint8 images, batch by batch."""
    return torch.cat([function(part.to(device)).float().cpu() for part in to_tensor(images).split(BATCH)])


def landmarks_of(detector: nn.Module, images: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Landmarks of aligned faces, (N, S, S, 3) uint8 -> (N, K, 2) in units of the side."""
    return _map(detector, images, device).numpy()


def generate(generator: nn.Module, photos: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Cartoons of photos: (N, H, W, 3) uint8 -> (N, H, W, 3) uint8."""
    return to_uint8(_map(generator, photos, device))


def milliseconds(generator: nn.Module, photos: np.ndarray, device: torch.device | str = "cpu") -> Estimate:
    """Time of one photo after another, in float32 and without reading or writing files: (N, H, W, 3) uint8 -> ms."""
    generate(generator, photos[:3], device)  # warm
    calls = (partial(generate, generator, photo[None], device) for photo in photos)  # end on the host: wait for a GPU
    return mean_estimate([1000 * timeit(call, number=1) for call in calls])


def from_photos(cartoons: ImageSet, faces: ImageSet, embed: Callable[[Tensor], Tensor]) -> Estimate:
    """KID x 1000 of a style from the photos, by 200 images of each set at most; embed: as for the Evaluator."""
    sets = cartoons.images, faces.images
    some = (images[np.linspace(0, len(images) - 1, min(200, len(images))).astype(int)] for images in sets)
    return kid(*(_map(embed, images, "cpu").double().numpy() for images in some))


def faults(outputs: Tensor, photos: Tensor) -> dict[str, Estimate]:
    """Single faults of outputs beside their photos, as indices.py judges them; both (N, 3, S, S) in CIELAB."""
    change, thirds = indices.skin(outputs, photos)
    return {
        "stroke": estimate(indices.stroke(outputs, photos), np.median),
        # Sums, for a photo may be flat without any energy; 1 is far below the noise of rounding.
        "mesh": estimate(indices.mesh(outputs, photos), lambda rows: np.sqrt(np.divide(*(rows.sum(axis=0) + 1)))),
        **{name: mean_estimate(change[third, 0]) for name, third in zip(SKIN, thirds)},
        "skin_worst": estimate(np.linalg.norm(change, axis=1), lambda changes: np.quantile(changes, 0.9)),
        "blacks": mean_estimate(indices.blacks(outputs, photos)),
    }


class Evaluator:
    """Measures sets of cartoons against the same held-out photos and cartoons; what repeats is computed once.

    photos, cartoons: held-out images (N, S, S, 3) and (M, S, S, 3) uint8.  embedder: network of the distances between
    sets, `features.EfficientNetLite0()`.  perceptual: of the content distance.  detector: `DETECTOR`.
    """

    def __init__(self, photos, cartoons, embedder, perceptual, detector, device="cpu"):
        self.photos, self.cartoons, self.device = photos, cartoons, device
        distances = dict.fromkeys(("style_distance", "kid_cartoon", "kid_photo"), embedder.name)
        others = {"landmark_error": DETECTOR, "content_distance": perceptual.name}
        self.networks = distances | others | dict.fromkeys(("face_style_distance", "likeness"), PERSONS)  # of metrics
        persons = FaceApiPersons().to(device)
        looks = partial(indices.style_vectors, embedder), partial(indices.face_style_vectors, persons)
        self._sets = lambda images: [_map(f, images, device).double().numpy() for f in (embedder.embed, *looks)]
        self._pairs = lambda images: [_map(f, images, device) for f in (perceptual, detector, persons)]
        self._of_photos, self._of_cartoons = (*self._sets(photos), *self._pairs(photos)), self._sets(cartoons)
        self._photo_looks = [kid(*both) for both in zip(self._of_photos[1:3], self._of_cartoons[1:])]
        self._strangers = np.percentile(torch.pdist(self._of_photos[-1]).numpy(), STRANGERS)
        self._light = indices.lab(photos)

    def measure(self, outputs: np.ndarray) -> dict[str, Estimate]:
        """Metrics of generated cartoons, (N, S, S, 3) uint8 in the order of the photos."""
        (vectors, *looks), (maps, points, persons) = self._sets(outputs), self._pairs(outputs)
        photo_vectors, _, _, photo_maps, photo_points, photo_persons = self._of_photos
        cartoon_vectors, *cartoon_looks = self._of_cartoons
        styles = [kid(a, b).over(unit) for a, b, unit in zip(looks, cartoon_looks, self._photo_looks)]
        distance = (maps - photo_maps).abs().mean(dim=(1, 2, 3)) / photo_maps.abs().mean(dim=(1, 2, 3))
        return {
            "style_distance": styles[0],
            "face_style_distance": styles[1],
            "kid_cartoon": kid(vectors, cartoon_vectors),
            "kid_photo": kid(vectors, photo_vectors, paired=True),
            "landmark_error": mean_estimate(landmark_errors(points.numpy(), photo_points.numpy())),
            "likeness": mean_estimate((persons - photo_persons).norm(dim=1).numpy() < self._strangers),
            "content_distance": mean_estimate(distance.numpy()),
            "flatness": mean_estimate(flatness(outputs)),
            **faults(indices.lab(outputs), self._light),
        }


def rows(
    estimates: dict[str, Estimate], networks: dict[str, str], run: Run | None, style: str, variant: str, group: str,
    seed: int,
) -> list[dict]:  # fmt: skip
    """Estimates of one set of pictures, by metric, as rows of metrics.json: a row a metric, each saying all of itself.

    networks: metric -> the one of its features, "-" for others.  run: what drew the pictures, None for photos.
    """
    steps, code = (run.summary["steps"], run.summary["code"]) if run else (0, "-")
    return [
        {"style": style, "variant": variant, "group": group, "steps": steps, "seed": seed, "n": e.n, "metric": metric,
         "features": networks.get(metric, "-"), "value": e.value, "low": e.low, "high": e.high, "code": code}
        for metric, e in estimates.items()
    ]  # fmt: skip
