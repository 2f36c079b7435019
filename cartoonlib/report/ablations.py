"""The ablation table in a notebook: what its rows change, training them, measuring them and comparing them.

Groups are those of runs.ablations.ablation_rows: group -> title -> profile. Titles are unique over all groups.
"""

from collections.abc import Callable, Iterable

import matplotlib.pyplot as plt
import numpy as np

from ..profile import Profile
from ..runs import guards, parallel
from ..runs.store import Run
from . import book, figures, findings, metrics

Groups = dict[str, dict[str, Profile]]
NO_ROWS = {"runs": {}, "metrics": [], "differences": []}  # what ablations.json would say of an empty table
ORIGIN = ("device", "precision", "commit", "date")


def rows_of(groups: Groups) -> list[tuple[str, str, Profile]]:
    """(group, title, profile) of all rows, in the order of the table."""
    return [(group, title, row) for group, rows in groups.items() for title, row in rows.items()]


def changes(row: Profile, full: Profile) -> str:
    """The settings in which a row differs from the full method, with its values: `texture 16, skips False`."""
    ours, its = full.flat(), row.flat()
    changed = ((key, value) for key, value in its.items() if value != ours[key])
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in changed)


def weights(full: Profile, names: Iterable[str]) -> str:
    """Some weights of the full method, a line a loss."""
    return "\n".join(f"{name} {getattr(full.weights, name):g}" for name in names)


def changed_rows(groups: Groups) -> list[tuple[str, str, str]]:
    """(group, title, what it changes) of all rows."""
    full = groups["full"]["full method"]
    return [(group, title, changes(row, full) or "-") for group, title, row in rows_of(groups)]


def train(report: book.Report, groups: Groups, style: str, progress: Callable) -> tuple[dict[str, Run], dict[str, str]]:
    """Train the missing rows: title -> run, and title -> reason of those that collapsed, which is a result too."""
    rows, runs, stopped = rows_of(groups), {}, {}
    for number, (_, title, row) in enumerate(rows, start=1):
        start = f"row {number}/{len(rows)}, "
        try:
            runs[title] = parallel.train(row, report.sets, style, title, lambda line: progress(start + line))
        except guards.TrainingStopped as reason:
            stopped[title] = str(reason)
    return runs, stopped


def comparison(photos: np.ndarray, outputs: dict, titles: Iterable[str], notes: dict | None = None) -> plt.Figure:
    """The photos beside outputs (title -> uint8 (N, S, S, 3)), with notes by title; none of collapsed rows."""
    return figures.comparison(photos, {title: outputs[title] for title in titles if title in outputs}, notes)


def measure(
    evaluator: metrics.Evaluator, runs: dict[str, Run], groups: Groups, style: str, progress: Callable
) -> tuple[findings.Estimates, list[dict]]:
    """Estimates of the untouched photo and of every run, on the evaluator's photos; and those of the runs as rows."""
    estimates, rows = {"untouched photo": evaluator.measure(evaluator.photos)}, []
    for group, title, row in rows_of(groups):
        if title in runs:
            progress(f"measuring row {len(estimates)}/{len(runs)}: {title}")
            outputs = metrics.generate(runs[title].generator(evaluator.device), evaluator.photos, evaluator.device)
            estimates[title] = evaluator.measure(outputs)
            rows += metrics.rows(estimates[title], evaluator.networks, runs[title], style, title, group, row.seed)
    return estimates, rows


def pairs(variants: Iterable[str]) -> list[tuple[str, str]]:
    """(variant, reference): all against the full method, then the repaired original against its own code."""
    variants = list(variants)
    against_ours = [(variant, "full method") for variant in variants if variant != "full method"]
    return against_ours + [(variant, "original") for variant in variants if variant.startswith("original + ")]


def read(report: book.Report) -> tuple[dict, dict[str, str]]:
    """The content of ablations.json and where it was made (ORIGIN); both are empty when notebook 5 has not run."""
    if not (report.folder / "ablations.json").exists():
        return NO_ROWS, {}
    origin = report.read_numbers("ablations", "environment")
    return report.read_numbers("ablations"), {key: origin[key] for key in ORIGIN}
