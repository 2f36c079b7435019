"""Tables and numbers in markdown."""

import json

import numpy as np

from .. import files
from ..files import InputError, write_atomic


def last_line(ratio: dict[str, float], device: str) -> str:
    return f"ratio_to_original_step {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) on {device}"


ROW = ("style", "variant", "steps", "seed", "n", "metric", "features", "value", "low", "high")
METRICS = {  # the arrow marks those of which less is better
    "kid_cartoon": "KID × 1000 to cartoons ↓", "frechet_cartoon": "Fréchet distance to cartoons ↓",
    "kid_photo": "KID × 1000 to photos", "frechet_photo": "Fréchet distance to photos",
    "flatness": "share of flat pixels", "content_distance": "content distance ↓",
    "landmark_error": "landmark error / eye distance ↓", "milliseconds": "ms an image ↓",
    "hand_made_error": "distance to hand-made points / eye distance ↓",
}  # fmt: skip


def measured(rows: list[dict], metric: str) -> tuple[dict[tuple, dict], str]:
    """(style, variant, steps, seed) -> row of one metric; and its title with the networks that made its features."""
    if missing := [key for key in ROW if any(key not in row for row in rows)]:
        raise InputError(f"Some measurements lack {', '.join(missing)}: measure them again.")
    found = {tuple(row[key] for key in ROW[:4]): row for row in rows if row["metric"] == metric}
    if not found:
        known = ", ".join(sorted({row["metric"] for row in rows}))
        raise InputError(f"No `{metric}` was measured: choose one of {known or 'what you measure first'}.")
    features = ", ".join(dict.fromkeys(row["features"] for row in found.values() if row["features"] not in ("", "-")))
    return found, METRICS.get(metric, metric) + f" ({features})" * bool(features)


def number(value: float) -> str:
    """Three digits, without an exponent; what rounding leaves of a zero is one."""
    return np.format_float_positional(round(value, 9), 3, unique=False, fractional=False, trim="-")


def signed(row: dict) -> str:
    """A difference with its interval, and whether that holds zero."""
    value, low, high = (("+" if row[key] >= 0 else "") + number(row[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" + ("" if row["low"] > 0 or row["high"] < 0 else " (not resolved)")


def table(titles: list[str], lines: list[list], texts: int = 1) -> str:
    """A markdown table; the first `texts` columns are text, the others are numbers."""
    rows = [titles, ["---"] * texts + ["---:"] * (len(titles) - texts), *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


def table_markdown(rows: list[dict], metrics: list[str]) -> str:
    """A markdown table: a line a variant, and in each metric's column value [low, high]."""
    found, titles = zip(*(measured(rows, metric) for metric in metrics))
    keys = list(dict.fromkeys(key for column in found for key in column))
    shown = [i for i in range(4) if i == 1 or len({key[i] for key in keys}) > 1]  # what all lines share is left out

    def cell(row: dict | None) -> str:
        return "{} [{}, {}]".format(*(number(row[k]) for k in ROW[-3:])) if row else ""

    lines = [[key[i] for i in shown] + [cell(column.get(key)) for column in found] for key in keys]
    return table([ROW[i] for i in shown] + list(titles), lines, len(shown))


def seeds_markdown(seeds: list[dict]) -> str:
    """A markdown table of runs that differ in their seed: a line a variant and metric, with mean and deviation."""
    lines = []
    for row in seeds:
        features = f" ({row['features']})" * (row["features"] != "-")
        values = ", ".join(number(value) for value in row["values"])
        spread = f"{number(row['mean'])} ± {number(row['deviation'])}"
        lines.append([row["variant"], METRICS.get(row["metric"], row["metric"]) + features, values, spread])
    return table(["variant", "metric", "seed 0, 1, 2", "mean ± deviation"], lines, 2)


README_METRICS = ["kid_cartoon", "frechet_cartoon", "landmark_error", "content_distance", "flatness"]
README_MARKERS = ("<!-- results of {} -->", "<!-- end of results of {} -->")  # a profile


def readme_tables(rows: list[dict], findings: dict) -> str:
    """Markdown tables: styles beside photos and cartoons, goals, and, folded, the ablation table and its differences."""
    styles = [row for row in rows if row["group"] in ("photo", "style", "cartoons", "london")]
    others = [row for row in rows if row not in styles]
    measured = [metric for metric in (*README_METRICS, "hand_made_error", "milliseconds") if _has(styles, metric)]
    goals, tables = findings["goals"], [table_markdown(styles, measured)]
    tables.append(table(list(goals[0]), [list(goal.values()) for goal in goals], 4))
    if findings["seeds"]:
        tables.append(_folded("Three seeds of the headline rows", seeds_markdown(findings["seeds"])))
    if others:
        what = f"{len({row['variant'] for row in others})} variants: {others[0]['style']}, {others[0]['steps']} steps each"
        origin = "{device}, {precision}, commit {commit}, {date}".format(**findings["ablations"])
        tables.append(_folded(f"{what} ({origin})", table_markdown(others, README_METRICS)))
    found = {(d["variant"], d["reference"], d["metric"]): signed(d) for d in findings["differences"]}
    compared = list(dict.fromkeys(metric for *_, metric in found))
    pairs = dict.fromkeys((variant, reference) for variant, reference, _ in found)
    lines = [[*pair, *(found[*pair, metric] for metric in compared)] for pair in pairs]
    if lines:
        titles = ["variant", "compared with", *(METRICS.get(metric, metric) for metric in compared)]
        tables.append(_folded("Differences, with paired intervals", table(titles, lines, 2)))
    return "\n\n".join(tables)


def _has(rows: list[dict], metric: str) -> bool:
    return any(row["metric"] == metric for row in rows)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def update_readme(profile: str = "quick") -> None:
    """Write the results table between the README's markers, from the metrics.json of a profile."""
    content = {}
    for name in ("findings", "metrics"):
        source = files.RESULTS / profile / f"{name}.json"
        if not source.exists():
            raise InputError(f"{source} is missing: make reproduce PROFILE={profile} makes it.")
        content |= json.loads(source.read_text())  # one notebook writes both
    rows, about = content["metrics"], content["environment"]
    table = readme_tables(rows, content["findings"])
    note = f"n = {rows[0]['n']} held-out photos, {about['device']}, {about['precision']}, commit {about['commit']}"
    path = files.ROOT / "README.md"
    first, last = (marker.format(profile) for marker in README_MARKERS)
    before, found, rest = path.read_text().partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise InputError(f"README.md has no place for results of {profile}: put {first} and {last} where they belong.")
    write_atomic(path, f"{before}{first}\n{table}\n\n{note}, {about['date']}.\n{last}{after}")
