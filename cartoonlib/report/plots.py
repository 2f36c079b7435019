"""Figures made of numbers: loss curves, metrics with intervals, one metric against another.

Every function returns a matplotlib Figure and raises an InputError when it is given nothing to draw. Rows of a log are
dicts of `step` and losses (runs.store.Run.log), rows of measurements those of metrics.json (metrics.rows).
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import Bbox

from ..files import InputError
from .paper import MUTED, RULE, WIDTH, color_of, panel_grid, styled
from .tables import measured


@styled
def loss_curves(logs: dict[str, list[dict]], keys: list[str]) -> plt.Figure:
    """A panel for each loss in `keys`, a line for each run (title -> log); pale: as logged, full: moving average."""
    if not any(key in row for rows in logs.values() for row in rows for key in keys):
        raise InputError(f"The logs have none of the losses {', '.join(keys)}: train first, or name others.")
    across, down = min(4, len(keys)), -(-len(keys) // 4)
    figure, panels = panel_grid(max(4, 2.5 * across), 1.75 * down + 0.5, down, across, sharex=True)
    for i, ax in enumerate(panels):
        lowest = i + across >= len(keys)
        ax.set_visible(i < len(keys))
        ax.tick_params(labelbottom=lowest)
        ax.set_xlabel("step" if lowest else "", fontsize=9)
    colors = [color_of(title) for title in logs]
    if len({*colors}) < len(logs):  # some titles share a colour: one for each run instead
        colors = [f"C{i}" for i in range(len(logs))]
    for ax, key in zip(panels, keys):
        for color, (title, rows) in zip([color_of(key)] if len(logs) == 1 else colors, logs.items()):
            steps, values = np.array([(row["step"], row[key]) for row in rows if key in row]).reshape(-1, 2).T
            window = max(1, len(values) // 25)
            ax.plot(steps, values, color=color, lw=0.8, alpha=0.3)
            mean = [values[max(0, i - window) : i + window + 1].mean() for i in range(len(values))]
            ax.plot(steps, mean, color=color, label=title, marker="" if len(steps) > 1 else ".")  # a line has two ends
        if key.startswith("d_"):
            ax.axhline(0.25, color=MUTED, lw=1, ls="--", zorder=1)
            place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            ax.text(1, 0.253, "cannot tell", fontsize=8, color=MUTED, **place)
        ax.set_title(key.replace("d_", "discriminator: ").replace("_", " "))
        ax.set_ylim(0, max(0.29, ax.get_ylim()[1]) if key.startswith("d_") else None)
    if len(logs) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(logs)))
    return figure


@styled
def metric_bars(rows: list[dict], metric: str, groups: dict | None = None) -> plt.Figure:
    """Dots with intervals: a line for each variant, a panel for each style; the photo's is a dashed line over all.

    groups: title -> variants; sets their order and leaves a gap after each group.
    """
    found, title = measured(rows, metric)
    reference, place, y = "untouched photo", {}, 0.0
    for group in [*(groups or {}).values(), dict.fromkeys(key[1] for key in found)]:
        members = [v for v in group if v not in place and v != reference and any(v == key[1] for key in found)]
        place |= {variant: y + i for i, variant in enumerate(members)}
        y += len(members) + (0.6 if members else 0)
    styles = dict.fromkeys(key[0] for key in found)
    figure, panels = panel_grid(min(WIDTH, 3.4 + 2.6 * len(styles)), 0.24 * y + 1.0, 1, len(styles), sharey=True)
    for ax, style in zip(panels, styles):
        for row in (row for key, row in found.items() if key[0] == style):
            color, low, high = color_of(row["variant"]), row["low"], row["high"]
            if row["variant"] == reference:
                ax.axvspan(low, high, color=RULE, alpha=0.3, lw=0)
                ax.axvline(row["value"], color=MUTED, lw=1.2, ls="--", label=reference)
            else:  # a percentile interval need not hold the value, which error bars would not draw
                ax.plot([low, high], [place[row["variant"]]] * 2, color=color, alpha=0.5, lw=2.4)
                ax.plot(row["value"], place[row["variant"]], "o", color=color, ms=6)
        ax.set_title(style)
        ax.grid(axis="y", visible=False)
    ax.set_yticks(list(place.values()), list(place))
    ax.set_ylim(y - 0.9, -0.7)
    counts = sorted({row["n"] for row in found.values()})
    figure.supxlabel(f"{title}, n = {'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}", fontsize=9)
    if handles := ax.get_legend_handles_labels()[0]:
        figure.legend(handles[:1], [reference], loc="outside upper right")
    return figure


# Where a label may stand: (distance in points from its dot, direction), the nearest first.
SPOTS = [(r, np.array([np.cos(a), np.sin(a)])) for r in range(3, 120, 4) for a in np.arange(16) * np.pi / 8]


def _label_points(ax: plt.Axes, points: list[tuple[dict, dict]]) -> None:
    """Label points (x row, y row), each at the near spot that covers the fewest labels, dots and intervals.

    adjustText was tried on the figures of `reference` and `quick`: it put labels on dots, on labels and over the frame.
    """
    ax.figure.draw_without_rendering()
    unit, move = ax.figure.dpi / 72, ax.transData.transform  # pixels in a point; data -> pixels
    dots = [move((h["value"], v["value"])) for h, v in points]
    taken = [Bbox.from_bounds(*(dot - 4 * unit), 8 * unit, 8 * unit) for dot in dots]
    intervals = [Bbox(move([(h["low"], v["value"]), (h["high"], v["value"])])).padded(unit) for h, v in points]
    intervals += [Bbox(move([(h["value"], v["low"]), (h["value"], v["high"])])).padded(unit) for h, v in points]
    style = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8, "in_layout": False}
    for dot, (h, v) in zip(dots, points):
        color = color_of(h["variant"])
        line = {"arrowstyle": "-", "color": color, "alpha": 0.6, "lw": 0.6, "shrinkA": 0, "shrinkB": 5}
        label = ax.annotate(h["variant"], (h["value"], v["value"]), (0, 0), color=color, arrowprops=line, **style)
        size = label.get_window_extent().size + 2 * unit
        boxes = [Bbox.from_bounds(*(dot + way * (size / 2 + r * unit) - size / 2), *size) for r, way in SPOTS]
        costs = []  # what a spot covers, in points of distance from the dot that one would go to avoid it
        for (r, _), box in zip(SPOTS, boxes):
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            covered = 6 * box.count_overlaps(intervals) + 300 * box.count_overlaps(taken)
            costs.append(r + covered + (0 if inside else 300))
        best = boxes[int(np.argmin(costs))]
        taken.append(best)
        label.set_position(((best.min + best.max) / 2 - dot) / unit)


@styled
def tradeoff(rows: list[dict], y: str = "kid_cartoon") -> plt.Figure:
    """Metric y against the landmark error: a labelled point with both intervals per variant, a panel per style."""
    (across, x_title), (up, y_title) = measured(rows, "landmark_error"), measured(rows, y)
    styles = dict.fromkeys(key[0] for key in across if key in up)
    columns, down = min(2, len(styles)), -(-len(styles) // 2)
    figure, panels = panel_grid(min(WIDTH, 7 * columns), 4.6 * down, down, columns)
    for ax, style in zip(panels, styles):
        points = [(across[key], up[key]) for key in across if key in up and key[0] == style]
        for h, v in points:
            color = color_of(h["variant"])
            ax.plot([h["low"], h["high"]], [v["value"]] * 2, color=color, alpha=0.35, lw=1)
            ax.plot([h["value"]] * 2, [v["low"], v["high"]], color=color, alpha=0.35, lw=1)
            ax.plot(h["value"], v["value"], "o", color=color, ms=6)
        ax.set(title=style, xlabel=x_title, ylabel=y_title)
        ax.margins(0.12)
        _label_points(ax, points)
    return figure
