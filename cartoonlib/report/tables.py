"""Tables and numbers in markdown."""

from collections.abc import Iterable

import numpy as np

from ..files import InputError

ROW = ("style", "variant", "steps", "seed", "n", "metric", "features", "value", "low", "high")
METRICS = {  # the arrow marks those of which less or more is better; changes are best near 0
    "style_distance": "style distance / the photo's ↓", "kid_cartoon": "KID × 1000 to cartoons ↓",
    "face_style_distance": "style distance by dlib's face features / the photo's ↓",
    "kid_photo": "KID × 1000 to photos", "flatness": "share of flat pixels", "content_distance": "content distance ↓",
    "landmark_error": "landmark error / eye distance ↓", "likeness": "share of faces known again ↑",
    "stroke": "strokes on the forehead / the photo's ↓", "mesh": "mesh / the photo's ↓",
    "skin_dark": "dark skin, change of L", "skin_middle": "middle skin, change of L",
    "skin_light": "light skin, change of L", "skin_worst": "skin of the worst tenth, ΔE ↓",
    "blacks": "blacks, change of L", "milliseconds": "ms an image ↓",
    "hand_made_error": "distance to hand-made points / eye distance ↓",
}  # fmt: skip
STYLE = ["style_distance", "face_style_distance", "kid_cartoon"]  # by which pictures are like the cartoons
DISTANCES = [*STYLE, "kid_photo", "landmark_error", "likeness", "content_distance", "flatness"]
FAULTS = ["stroke", "mesh", "skin_dark", "skin_middle", "skin_light", "skin_worst", "blacks"]
PAGE_METRICS = [*STYLE, "landmark_error", "likeness", *FAULTS[:5], "flatness"]
GROUPS_OF_STYLES = ("photo", "style", "cartoons", "london")  # the other groups are rows of the ablation table


def number(value: float) -> str:
    """Three digits, without an exponent; what rounding leaves of a zero is one."""
    return np.format_float_positional(round(value, 9), 3, unique=False, fractional=False, trim="-")


def interval(row: dict) -> str:
    """A measurement with its interval: value [low, high]."""
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"


def signed(row: dict) -> str:
    """A difference with its interval, and whether that holds zero."""
    value, low, high = (("+" if row[key] >= 0 else "") + number(row[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" + ("" if row["low"] > 0 or row["high"] < 0 else " (not resolved)")


def spread(values: dict[str, float]) -> str:
    """Measurements of a machine as `median (least to largest)`."""
    low, middle, high = (number(values[key]) for key in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def last_line(ratio: dict[str, float], device: str) -> str:
    """What `make bench` ends with."""
    return f"ratio_to_original_step {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) on {device}"


def table(titles: list[str], lines: list[list], texts: int = 1) -> str:
    """A markdown table; the first `texts` columns are text, the others are numbers."""
    rows = [titles, ["---"] * texts + ["---:"] * (len(titles) - texts), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def measured(rows: list[dict], metric: str) -> tuple[dict[tuple, dict], str]:
    """(style, variant, steps, seed) -> row of one metric; and its title with the networks that made its features."""
    if missing := [key for key in ROW if any(key not in row for row in rows)]:
        raise InputError(f"Some measurements lack {', '.join(missing)}: measure them again.")
    found = {tuple(row[key] for key in ROW[:4]): row for row in rows if row["metric"] == metric}
    if not found:
        known = ", ".join(sorted({row["metric"] for row in rows}))
        raise InputError(f"No `{metric}` was measured: choose one of {known or 'what you measure first'}.")
    return found, title(metric, (row["features"] for row in found.values()))


def title(metric: str, features: Iterable[str]) -> str:
    """What a metric is called, with the networks that made its features."""
    named = ", ".join(name for name in dict.fromkeys(features) if name not in ("", "-"))
    return METRICS.get(metric, metric) + (f" ({named})" if named else "")


def table_markdown(rows: list[dict], metrics: list[str]) -> str:
    """Rows of metrics.json: a line a variant, and in each measured metric's column value [low, high]."""
    metrics = [m for m in metrics if any(row["metric"] == m for row in rows)] or metrics  # some need the London Set
    found, titles = zip(*(measured(rows, metric) for metric in metrics))
    keys = list(dict.fromkeys(key for column in found for key in column))
    shown = [i for i in range(4) if i == 1 or len({key[i] for key in keys}) > 1]  # what all lines share is left out
    lines = [[key[i] for i in shown] + [interval(m[key]) if key in m else "" for m in found] for key in keys]
    return table([ROW[i] for i in shown] + list(titles), lines, len(shown))
