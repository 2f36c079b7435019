"""Superpixels against scikit-image's, and bf16 against float32: measured here for notebook 07."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from skimage.segmentation import quickshift

from .. import representations, superpixels
from ..images import to_tensor
from ..profile import Profile
from . import original, segmentation
from .measuring import now, paired, spread, warm_up

TORCH, SCIKIT, FELZENSZWALB = "SLIC in torch", "SLIC of scikit-image", "Felzenszwalb and merging"


def superpixel_speed(p: Profile, photos: np.ndarray, device: torch.device) -> dict[str, dict]:
    """Images a second, coloured segments and all, and how many times as many as scikit-image's SLIC with one worker.

    photos: uint8 (N, S, S, 3), one batch for torch, one after the other for scikit-image.
    """
    images, structure = to_tensor(photos).to(device), representations.structure
    calls = {
        TORCH: partial(structure, images, p.segments, p.adaptive, p.brighten),
        FELZENSZWALB: partial(_fill_one_by_one, photos / 255, segmentation.segment_felzenszwalb, p),
        SCIKIT: partial(_fill_one_by_one, photos / 255, segmentation.segment_slic, p),  # last: what ratios refer to
    }
    rows = paired(calls, len(photos), p.bench_repeats, partial(now, device), warm_up(device))
    kept = {"images_per_second": "images_per_second", "ratio": "ratio_to_scikit_image"}
    return {name: {title: row[key] for key, title in kept.items()} for name, row in rows.items()}


def _fill_one_by_one(images: np.ndarray, segment: Callable, p: Profile) -> list[np.ndarray]:
    return [segmentation.fill_segments(image, segment(image, p.segments), p.adaptive, p.brighten) for image in images]


def segmentations(p: Profile, photos: np.ndarray) -> dict[str, np.ndarray]:
    """Labels (N, S, S) by each method, with as many segments in an image as scikit-image's SLIC makes of it.

    Scikit-image's numbers jump with what it is asked for; SLIC in torch takes the grid nearest to any number.
    """
    images, arrays = to_tensor(photos), photos / 255
    labels = [segmentation.segment_slic(a, p.segments) for a in arrays]
    counts = [len(np.unique(one)) for one in labels]
    return {
        TORCH: torch.cat([superpixels.slic(image[None], n) for image, n in zip(images, counts)]).numpy(),
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


def precision_rows(p: Profile) -> dict[str, dict[str, Profile]]:
    """Precision -> title -> profile, as groups of the ablation table; from as many seeds as repeats, three at most.

    Half as long as the profile's pretraining, its structure start and its rows of that table.
    """
    lengths = {"train_steps": p.ablation_steps, "pretrain_steps": p.pretrain_steps, "start_steps": p.start_steps}
    changes = {name: min(steps // 2, MOST_STEPS) for name, steps in lengths.items()}
    changes["perceptual"] = p.perceptual if original.weights_at_hand(p.perceptual) else "efficientnet_lite0"
    changes["log_every"] = max(1, changes["train_steps"] // 20)
    seeds = range(p.seed, p.seed + min(p.bench_repeats, 3))
    return {
        name: {f"{name}, seed {seed}": p.replace(precision=name, seed=seed, **changes) for seed in seeds}
        for name in PRECISIONS
    }


def precision_effect(rows: list[dict]) -> dict[str, dict]:
    """By metric: differences between the precisions over seeds, and by how much fp32 differs between seeds.

    rows: what report.ablations.measure returns of these groups.
    """
    effect = {}
    for metric in COMPARED:
        own = [[row["value"] for row in rows if (row["group"], row["metric"]) == (p, metric)] for p in PRECISIONS]
        differences = spread(half - full for full, half in zip(*own))
        effect[metric] = {"difference": differences, "between_seeds": max(own[0]) - min(own[0])}
    return effect
