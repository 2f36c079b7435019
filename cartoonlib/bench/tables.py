"""The tables of notebook 06, in markdown."""

from ..report.tables import number, table
from . import drawing
from .comparisons import TORCH


def median_and_range(values: dict[str, float]) -> str:
    """A spread as `median (min to max)`."""
    low, middle, high = (number(values[key]) for key in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _speed(row: dict) -> tuple[str, str]:
    return median_and_range(row["seconds"]), median_and_range(row["images_per_second"])


def step_table(steps: dict[str, dict]) -> str:
    """Of what steps.compared returns."""
    lines = [
        [f"{name}: {s['about']}", *_speed(s), median_and_range(s["ratio"]), number(s["peak_mb"])]
        for name, s in steps.items()
    ]
    return table(["step", "seconds", "images a second", "times the original's", "peak memory, MB"], lines)


def growth_table(rows: list[dict]) -> str:
    """Of what scaling.growth returns."""
    lines = []
    for row in rows:
        found = (row["failed"], "", "") if "failed" in row else (*_speed(row), number(row["peak_mb"]))
        lines.append([f"{row['axis']} {row[row['axis']]}", *found])
    return table(["", "seconds", "images a second", "peak memory, MB"], lines)


def floor_table(floors: dict[str, dict]) -> str:
    """Step -> what scaling.floor returns."""
    lines = []
    for name, f in floors.items():
        operations = number(f["flop"] / 1e9), number(f["flop_per_second"] / 1e9)
        lines.append([name, *operations, number(f["seconds"]), median_and_range(f["distance"])])
    return table(["step", "GFLOP", "GFLOP/s, best", "floor, seconds", "distance"], lines)


def superpixel_tables(speed: dict[str, dict], quality: dict[str, dict], photos: int) -> str:
    """Of what comparisons.superpixel_speed and superpixel_quality return, the latter over so many photos."""
    lines = [
        [name, median_and_range(s["images_per_second"]), median_and_range(s["ratio_to_scikit_image"])]
        for name, s in speed.items()
    ]
    fast = table(["method", "images a second", "times scikit-image's SLIC"], lines)
    measures = {
        "segments": "segments", "boundary_recall": "boundary recall ↑",
        "undersegmentation_error": "undersegmentation error ↓", "explained_variance": "explained variance ↑",
    }  # fmt: skip
    lines = [
        [name, *(f"{number(row[m]['mean'])} ({row[m]['to_scikit_image'] - 1:+.1%})" for m in measures)]
        for name, row in quality.items()
    ]
    good = table([f"mean over {photos} faces (against scikit-image's SLIC)", *measures.values()], lines)
    return f"{fast}\n\n{good}"


def precision_table(rows: list[dict]) -> str:
    """Of what comparisons.precision_metrics returns."""
    columns = ("fp32", "bf16", "bf16 - fp32")
    lines = []
    for row in rows:
        cells = [[number(row[column][key]) for key in ("value", "low", "high")] for column in columns]
        lines.append([f"{row['metric']}, seed {row['seed']}", *(f"{v} [{low}, {high}]" for v, low, high in cells)])
    return table([f"n = {rows[0]['n']}, 95 % bootstrap intervals over photos", *columns], lines)


def drawing_tables(drawn: list[dict], goals: list[dict], flicker: dict[str, dict], variants: list[dict]) -> str:
    """Of what drawing.measure, goals, flicker (by style) and variants return."""
    still = [
        [style, number(f["film"]), number(f["cartoon"]), number(f["cartoon"] / f["film"])]
        for style, f in flicker.items()
    ]
    tables = (
        table(["photo", *drawing.WAYS], drawing.lines(drawn)),
        table(["goal", "found", "met"], drawing.goal_lines(goals), texts=3),
        table(["style", "film", "cartoon", "times"], still),
        table(["ONNX model", "MB", "seconds", "mean difference, of 255", "largest"], drawing.variant_lines(variants)),
    )
    return "\n\n".join(tables)


def summary(step: dict[str, dict], floors: dict[str, dict], parts: dict[str, dict], speed: dict[str, dict]) -> str:
    """The findings on a step in three sentences, a line each."""
    biggest = [name for name in parts if name not in ("step", "other")][:3]
    share = parts["superpixels"]["median"] / parts["step"]["median"]
    seconds = {name: median_and_range(row["seconds"]) for name, row in step.items()}
    lines = (
        f"One step takes {seconds['ours']} s, {median_and_range(floors['ours']['distance'])} times this machine's "
        f"floor for its operations; the original's {seconds['original']} s.",
        f"Most of it goes into {', '.join(biggest)}; superpixels take {share:.1%}.",
        f"Superpixels in torch are {median_and_range(speed[TORCH]['ratio_to_scikit_image'])} times as fast as "
        "scikit-image with one worker.",
    )
    return "\n".join(lines)
