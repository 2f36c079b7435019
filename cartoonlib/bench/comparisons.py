"""Superpixels against scikit-image's, and bf16 against float32: measured here for notebook 06."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from skimage.segmentation import quickshift

from .. import representations, superpixels
from ..images import to_tensor
from ..profile import Profile
from ..report import metrics
from ..report.book import Report
from ..runs import store, training
from . import segmentation
from .measuring import now, spread, timed, warm_up
from .original import weights_at_hand

TORCH, SCIKIT, FELZENSZWALB = "SLIC in torch", "SLIC of scikit-image", "Felzenszwalb and merging"


def superpixel_speed(p: Profile, photos: np.ndarray, device: torch.device) -> dict[str, dict]:
    """Images a second, coloured segments and all, and how many times as many as scikit-image's SLIC with one worker.

    photos: uint8 (N, S, S, 3), one batch for torch, one after the other for scikit-image.
    """
    images, structure = to_tensor(photos).to(device), representations.structure
    calls = {
        TORCH: partial(structure, images, p.segments, p.adaptive, p.brighten),
        SCIKIT: partial(_fill_one_by_one, photos / 255, segmentation.segment_slic, p),
        FELZENSZWALB: partial(_fill_one_by_one, photos / 255, segmentation.segment_felzenszwalb, p),
    }
    times = timed(calls, p.bench_repeats, partial(now, device), warm_up(device))
    return {
        name: {
            "images_per_second": spread(len(photos) / value for value in values),
            "ratio_to_scikit_image": spread(b / a for a, b in zip(values, times[SCIKIT])),
        }
        for name, values in times.items()
    }


def _fill_one_by_one(images: np.ndarray, segment: Callable, p: Profile) -> list[np.ndarray]:
    return [segmentation.fill_segments(image, segment(image, p.segments), p.adaptive, p.brighten) for image in images]


def segmentations(p: Profile, photos: np.ndarray) -> dict[str, np.ndarray]:
    """Labels (N, S, S) by each method, with as many segments in an image as scikit-image's SLIC makes of it.

    Scikit-image's numbers jump with what it is asked for; SLIC in torch takes the grid nearest to any number.
    """
    images, arrays = to_tensor(photos), photos / 255
    labels = [segmentation.segment_slic(a, p.segments) for a in arrays]
    counts = [len(np.unique(one)) for one in labels]
    full = [superpixels.slic(image[None], n)[0] for image, n in zip(images, counts)]
    return {
        TORCH: torch.stack(full).numpy(),
        SCIKIT: np.stack(labels),
        FELZENSZWALB: np.stack([segmentation.segment_felzenszwalb(a, n) for a, n in zip(arrays, counts)]),
    }


def superpixel_quality(photos: np.ndarray, found: dict[str, np.ndarray]) -> dict[str, dict]:
    """Segments and three measures of quality by method, over the photos: spreads, and the mean against scikit-image's.

    The faces have no segmentation by hand. The reference of the boundaries is quickshift's regions, 20 to 40 to a face:
    a mode search (Vedaldi & Soatto 2008), related to none of the methods.
    """
    arrays = photos / 255
    reference = [quickshift(a, kernel_size=3, max_dist=20, ratio=1.0, rng=0) for a in arrays]
    values = {
        method: {
            "segments": [len(np.unique(one)) for one in labels],
            "boundary_recall": [segmentation.boundary_recall(a, b, 1) for a, b in zip(labels, reference)],
            "undersegmentation_error": [segmentation.undersegmentation_error(a, b) for a, b in zip(labels, reference)],
            "explained_variance": [segmentation.explained_variance(a, b) for a, b in zip(arrays, labels)],
        }
        for method, labels in found.items()
    }
    return {
        method: {
            name: spread(row) | {"mean": np.mean(row), "to_scikit_image": np.mean(row) / np.mean(values[SCIKIT][name])}
            for name, row in rows.items()
        }
        for method, rows in values.items()
    }


PRECISIONS = ("fp32", "bf16")
MOST_STEPS = 1000  # of these runs: enough to see whether the curves part
COMPARED = ("kid_cartoon", "landmark_error", "content_distance")


def precision_runs(report: Report, faces, cartoons, progress: Callable) -> dict[tuple[str, int], store.Run]:
    """(precision, seed) -> a run in each precision, from as many seeds as the profile has repeats, three at most.

    Half as long as the profile's pretraining, its structure start and its rows of the ablation table.
    """
    p, runs = report.profile.of(cartoons.name), {}
    changes = {
        "train_steps": min(p.ablation_steps // 2, MOST_STEPS),
        "pretrain_steps": min(p.pretrain_steps // 2, MOST_STEPS),
        "start_steps": min(p.start_steps // 2, MOST_STEPS),
        "perceptual": p.perceptual if weights_at_hand(p.perceptual) else "efficientnet_lite0",
    }
    changes["log_every"] = max(1, changes["train_steps"] // 20)
    for seed in range(p.seed, p.seed + min(p.bench_repeats, 3)):
        for precision in PRECISIONS:
            variant = p.replace(precision=precision, seed=seed, **changes)
            title = f"{precision}, seed {seed}"
            runs[precision, seed] = training.train(
                variant, report.runs, faces, cartoons, cartoons.name, title, progress
            )
    return runs


def precision_metrics(report: Report, runs: dict, faces, cartoons) -> list[dict]:
    """What the runs made of the held-out photos: by metric and seed both values and their difference."""
    evaluator = Report(report.profile.replace(perceptual="efficientnet_lite0")).evaluator(faces, cartoons)
    photos, device = evaluator.photos, report.device
    found = {
        key: evaluator.measure(metrics.generate(run.generator(device), photos, device)) for key, run in runs.items()
    }
    rows = []
    for metric in COMPARED:
        for seed in sorted({seed for _, seed in runs}):
            both = {precision: found[precision, seed][metric] for precision in PRECISIONS}
            both["bf16 - fp32"] = both["bf16"].minus(both["fp32"])
            cells = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in both.items()}
            rows.append({"metric": metric, "seed": seed, "n": len(photos), **cells})
    return rows


def precision_effect(rows: list[dict]) -> dict[str, dict]:
    """By metric: the mean difference between the precisions over seeds, and by how much fp32 differs between seeds."""
    effect = {}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        own = [row for row in rows if row["metric"] == metric]
        differences = [row["bf16 - fp32"]["value"] for row in own]
        values = [row["fp32"]["value"] for row in own]
        effect[metric] = {"difference": spread(differences), "between_seeds": max(values) - min(values)}
    return effect
