"""The tables of notebook 07, in markdown."""

from ..report import tables
from ..report.tables import number
from .comparisons import TORCH
from .drawing import WAYS

TITLES = {  # of the columns; others are called as their keys
    "about": "network, precision", "images_per_second": "images a second", "ratio": "times the original's",
    "peak_mb": "peak memory, MB", "gflop": "GFLOP", "gflop_per_second": "GFLOP/s, best", "distance": "times the floor",
    "ratio_to_scikit_image": "times scikit-image's SLIC", "boundary_recall": "boundary recall ↑",
    "undersegmentation_error": "undersegmentation error ↓", "explained_variance": "explained variance ↑",
    "mb": "MB", "mean_difference": "mean difference, of 255", "largest_difference": "largest",
}  # fmt: skip
UNITS = {"seconds": " s", "gb": " GB", "ratio": ""}


def median_and_range(values: dict[str, float]) -> str:
    """A spread as `median (min to max)`."""
    low, middle, high = (number(values[key]) for key in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def table(first: str, rows: dict[str, dict], *keys: str) -> str:
    """A line for each row, its name in the first column, then texts, numbers or spreads of some keys."""
    lines = [[name, *(_text(row.get(key, "")) for key in keys)] for name, row in rows.items()]
    return tables.table([first, *(TITLES.get(key, key) for key in keys)], lines)


def _text(value: str | float | dict) -> str:
    if isinstance(value, dict):
        return median_and_range(value)
    return value if isinstance(value, str) else number(value)


def growth_table(rows: list[dict]) -> str:
    """Of what scaling.growth returns."""
    named = {f"{row['axis']} {row[row['axis']]}": {"seconds": row.get("failed")} | row for row in rows}
    return table("", named, "seconds", "images_per_second", "peak_mb")


def floor_table(floors: dict[str, dict]) -> str:
    """Step -> what scaling.floor returns."""
    giga = {name: {f"g{key}": f[key] / 1e9 for key in ("flop", "flop_per_second")} | f for name, f in floors.items()}
    return table("step", giga, "gflop", "gflop_per_second", "seconds", "distance")


def quality_table(quality: dict[str, dict]) -> str:
    """Of what comparisons.superpixel_quality returns: means, and how far they are from those of scikit-image's SLIC."""
    rows = {
        method: {key: f"{number(v['mean'])} ({v['to_scikit_image'] - 1:+.1%})" for key, v in measures.items()}
        for method, measures in quality.items()
    }
    return table("mean (against scikit-image's SLIC)", rows, *next(iter(rows.values())))


def photo_table(rows: list[dict]) -> str:
    """Of what drawing.measure returns: a line a size, with seconds and peak memory of every way."""
    lines: dict[str, dict] = {}
    for row in rows:
        size = f"{row['width']} x {row['height']}, {number(row['height'] * row['width'] / 1e6)} MP"
        found = row.get("failed") or f"{number(row['seconds']['median'])} s, {number(row['peak_mb'] / 1000)} GB"
        lines.setdefault(size, dict.fromkeys(WAYS, "not tried"))[row["way"]] = found
    return table("photo", lines, *WAYS)


def goal_table(goals: list[dict]) -> str:
    """Of what drawing.goals returns: each goal with its limits, what was found, whether it is met."""
    lines = {}
    for row in goals:
        asked = "at most" if "ratio" in row["limits"] else "under"
        limits = " and ".join(f"{asked} {number(limit)}{UNITS[key]}" for key, limit in row["limits"].items())
        found = ", ".join(f"{number(value)}{UNITS[key]}" for key, value in row.get("found", {}).items())
        lines[f"{row['goal']}: {limits}"] = {"found": row.get("failed", found), "met": "yes" if row["met"] else "no"}
    return table("goal", lines, "found", "met")


def summary(step: dict[str, dict], floors: dict[str, dict], parts: dict[str, dict], speed: dict[str, dict]) -> str:
    """The findings on a step in three sentences, a line each."""
    biggest = [name for name in parts if name not in ("step", "other")][:3]
    share = parts["superpixels"]["median"] / parts["step"]["median"]
    ours, originals = (median_and_range(step[name]["seconds"]) for name in ("ours", "original"))
    distance, times = floors["ours"]["distance"], speed[TORCH]["ratio_to_scikit_image"]
    return (
        f"One step takes {ours} s, {median_and_range(distance)} times this machine's floor for its operations; "
        f"the original's {originals} s.\n"
        f"Most of it goes into {', '.join(biggest)}; superpixels take {share:.1%}.\n"
        f"Superpixels in torch are {median_and_range(times)} times as fast as scikit-image with one worker."
    )
