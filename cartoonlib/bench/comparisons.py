"""Superpixels against scikit-image's, bf16 against float32, and the tables and figures of notebook 06."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from skimage.segmentation import mark_boundaries, quickshift

from .. import features, representations, superpixels
from ..images import center_crop, to_tensor
from ..profile import Profile
from ..report import figures, metrics
from ..report.book import Report
from ..report.detector import FaceApiLandmarks
from ..report.paper import COLORS, INK, MUTED, RULE, WIDTH, styled
from ..report.tables import number
from ..runs import store, training
from . import segmentation, timing
from .original import weights_at_hand

TORCH, SCIKIT, FELZENSZWALB = "SLIC in torch", "SLIC of scikit-image", "Felzenszwalb and merging"
HALF = "SLIC in torch at half the resolution"


def superpixel_speed(p: Profile, photos: np.ndarray, device: torch.device) -> dict[str, dict]:
    """Images a second, coloured segments and all, and how many times as many as scikit-image's SLIC with one worker.

    photos: uint8 (N, S, S, 3), one batch for torch, one after the other for scikit-image.
    """
    images, arrays = to_tensor(photos).to(device), photos / 255

    def one_by_one(segment: Callable) -> Callable:
        return lambda: [segmentation.fill_segments(a, segment(a, p.segments), p.adaptive, p.brighten) for a in arrays]

    calls = {
        TORCH: lambda: representations.structure(images, "slic", p.segments, p.adaptive, p.brighten),
        SCIKIT: one_by_one(segmentation.segment_slic),
        FELZENSZWALB: one_by_one(superpixels.segment_felzenszwalb),
    }
    times = timing.timed(calls, p.bench_repeats, timing.make_clock(device), timing.warm_up(device))
    return {
        name: {
            "images_per_second": timing.spread(len(photos) / value for value in values),
            "ratio_to_scikit_image": timing.spread(b / a for a, b in zip(values, times[SCIKIT])),
        }
        for name, values in times.items()
    }


def segmentations(p: Profile, photos: np.ndarray) -> dict[str, np.ndarray]:
    """Labels (N, S, S) by each method, with as many segments in an image as scikit-image's SLIC makes of it.

    Scikit-image's numbers jump with what it is asked for; SLIC in torch takes the grid nearest to any number.
    """
    images, arrays = to_tensor(photos), photos / 255
    labels = [segmentation.segment_slic(a, p.segments) for a in arrays]
    counts = [len(np.unique(one)) for one in labels]
    full = [superpixels.slic(image[None], n)[0] for image, n in zip(images, counts)]
    half = [superpixels.slic(F.avg_pool2d(image[None], 2), n)[0] for image, n in zip(images, counts)]
    return {
        TORCH: torch.stack(full).numpy(),
        SCIKIT: np.stack(labels),
        FELZENSZWALB: np.stack([superpixels.segment_felzenszwalb(a, n) for a, n in zip(arrays, counts)]),
        HALF: torch.stack(half).numpy().repeat(2, axis=1).repeat(2, axis=2),
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
            name: timing.spread(row) | {"mean": np.mean(row), "to_scikit_image": np.mean(row) / np.mean(values[SCIKIT][name])}
            for name, row in rows.items()
        }
        for method, rows in values.items()
    }  # fmt: skip


def segment_sheet(p: Profile, photos: np.ndarray, found: dict[str, np.ndarray]) -> plt.Figure:
    """Boundaries and colours of three methods on a few photos."""
    columns = {}
    for title, method in (("SLIC in torch", TORCH), ("SLIC of scikit-image", SCIKIT), ("Felzenszwalb", FELZENSZWALB)):
        pairs = [(photo / 255, labels) for photo, labels in zip(photos, found[method])]
        large = [
            [x.repeat(4, axis=0).repeat(4, axis=1) for x in pair] for pair in pairs
        ]  # for lines thinner than pixels
        marked = [mark_boundaries(*pair, color=(1, 1, 0.2), mode="inner") for pair in large]
        filled = [segmentation.fill_segments(*pair, p.adaptive, p.brighten) for pair in pairs]
        columns[f"{title}: segments"] = (np.stack(marked) * 255).round().astype(np.uint8)
        columns[f"{title}: colours"] = (np.stack(filled) * 255).round().astype(np.uint8)
    return figures.comparison(photos, columns)


PRECISIONS = ("fp32", "bf16")
MOST_STEPS = 1000  # of these runs: enough to see whether the curves part
COMPARED = ("kid_cartoon", "landmark_error", "content_distance")


def precision_runs(report: Report, faces, cartoons, progress: Callable) -> dict[tuple[str, int], store.Run]:
    """(precision, seed) -> a run in each precision, from as many seeds as the profile has repeats, three at most.

    Half as long as the profile's pretraining and its rows of the ablation table.
    """
    p, runs = report.profile.of(cartoons.name), {}
    changes = {
        "train_steps": min(p.ablation_steps // 2, MOST_STEPS),
        "pretrain_steps": min(p.pretrain_steps // 2, MOST_STEPS),
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
    """What the runs made of the held-out photos: by metric and seed both values and their difference, with intervals."""
    p, device = report.profile, report.device
    photos, drawings = (center_crop(images.part("test"), p.size) for images in (faces, cartoons))
    embedder = features.EfficientNetLite0().to(device)
    detector = FaceApiLandmarks().to(device)
    evaluator = metrics.Evaluator(photos, drawings, embedder, embedder, detector, device)
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
        effect[metric] = {"difference": timing.spread(differences), "between_seeds": max(values) - min(values)}
    return effect


def show(values: dict[str, float]) -> str:
    """A spread as `median (min to max)`."""
    low, middle, high = (number(values[key]) for key in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


PART_COLORS = {"superpixels": "structure", "perceptual": "content", "landmarks": "landmark", "generator": "generator"}


@styled
def parts_figure(steps: dict[str, dict[str, dict]]) -> plt.Figure:
    """A panel a step: its parts as bars with the least and largest measurements, and their shares."""
    count = max(len(parts) - 1 for parts in steps.values())
    figure, panels = _panels(0.25 * count + 0.8, 1, len(steps))
    for ax, (title, parts) in zip(panels[0], steps.items()):
        names = sorted((name for name in parts if name != "step"), key=lambda name: name == "other")
        for y, name in enumerate(names):
            low, middle, high = (parts[name][key] * 1000 for key in ("min", "median", "max"))
            key = next((value for start, value in PART_COLORS.items() if name.startswith(start)), None)
            ax.barh(y, middle, color=COLORS.get(key, RULE), height=0.7)
            ax.plot([low, high], [y, y], color=INK, lw=1)
            style = {"textcoords": "offset points", "va": "center", "fontsize": 8}
            ax.annotate(f"{middle / parts['step']['median'] / 10:.0f} %", (high, y), (4, 0), **style)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(count - 0.5, -0.5)
        ax.set_xlim(0, 1.15 * max(parts[name]["max"] for name in names) * 1000)
        ax.set(title=title, xlabel="ms a step")
        ax.grid(axis="y", visible=False)
    return figure


@styled
def growth_figure(rows: list[dict], fit: dict) -> plt.Figure:
    """Step time above and peak memory below, along each axis, and the memory by the line fitted to all points."""
    titles = {"size": "side, px (batch 4)", "batch": "batch", "segments": "segments"}
    figure, panels = _panels(4.4, 2, 3, sharex="col", sharey="row")
    for (above, below), (axis, title) in zip(panels.T, titles.items()):
        own = [row for row in rows if row["axis"] == axis and "peak_mb" in row]
        x = [row[axis] for row in own]
        low, middle, high = ([row["seconds"][key] for row in own] for key in ("min", "median", "max"))
        above.plot(x, middle, "o-", color=COLORS["content"], ms=4)
        above.vlines(x, low, high, color=COLORS["content"], lw=4, alpha=0.35)
        above.set(xscale="log", yscale="log")
        below.plot(x, [row["peak_mb"] / 1000 for row in own], "o", color=COLORS["generator"], ms=4)
        line = [fit["mb_at_none"] + fit["mb_per_megapixel"] * row["batch"] * row["size"] ** 2 / 1e6 for row in own]
        below.plot(x, np.array(line) / 1000, "--", color=MUTED, lw=1, label="linear in batch × pixels")
        below.set_xticks(x, x)
        below.minorticks_off()
        below.set_xlabel(title)
    panels[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    panels[0, 0].yaxis.set_minor_locator(NullLocator())
    times = [row["seconds"][key] for row in rows if "seconds" in row for key in ("min", "max")]
    panels[0, 0].set_ylim(min(times) / 1.6, max(times) * 1.6)
    panels[0, 0].set_ylabel("seconds a step")
    panels[1, 0].set_ylabel("peak memory, GB")
    panels[1, 0].set_ylim(0, max(row.get("peak_mb", 0) for row in rows) / 920)
    panels[1, 0].legend(loc="lower right")
    return figure


@styled
def precision_curves(logs: dict[tuple[str, int], list[dict]], keys: list[str]) -> plt.Figure:
    """A panel a loss, a line a run: float32 full, bf16 dashed."""
    figure, panels = _panels(2.3, 1, len(keys))
    looks = {"fp32": {"color": COLORS["content"]}, "bf16": {"color": COLORS["color"], "ls": "--"}}
    for ax, key in zip(panels[0], keys):
        for (precision, _), rows in logs.items():
            ax.plot([row["step"] for row in rows], [row[key] for row in rows], lw=1.2, **looks[precision])
        ax.set_title(key.replace("d_", "D: "))
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supxlabel("step", fontsize=9)
    figure.legend([Line2D([], [], **look) for look in looks.values()], looks, loc="outside upper right", ncols=2)
    return figure


def _panels(height: float, down: int, across: int, **shared) -> tuple[plt.Figure, np.ndarray]:
    figure = plt.figure(figsize=(WIDTH, height), layout="constrained")
    plt.close(figure)
    return figure, figure.subplots(down, across, squeeze=False, **shared)
