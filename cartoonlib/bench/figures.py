"""The figures of notebook 07."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from ..report.paper import COLORS, INK, MUTED, RULE, WIDTH, panel_grid, styled

PART_COLORS = {  # of the parts whose names start so
    "superpixels": "structure", "target": "anchor", "perceptual": "content", "landmarks": "landmark",
    "generator": "generator",
}  # fmt: skip


@styled
def parts_figure(steps: dict[str, dict[str, dict]]) -> plt.Figure:
    """A panel a step: its parts as bars with the least and largest measurements, and their shares."""
    count = max(len(parts) - 1 for parts in steps.values())
    figure, panels = panel_grid(WIDTH, 0.25 * count + 0.8, 1, len(steps))
    for ax, (title, parts) in zip(panels, steps.items()):
        names = sorted((name for name in parts if name != "step"), key=lambda name: name == "other")
        for y, name in enumerate(names):
            low, middle, high = (parts[name][key] * 1000 for key in ("min", "median", "max"))
            key = next((value for start, value in PART_COLORS.items() if name.startswith(start)), None)
            ax.barh(y, middle, color=COLORS.get(key, RULE), height=0.7)
            ax.plot([low, high], [y, y], color=INK, lw=1)
            style = {"textcoords": "offset points", "va": "center", "fontsize": 8}
            ax.annotate(f"{middle / parts['step']['median'] / 10:.0f} %", (high, y), (4, 0), **style)
        ax.set_yticks(range(len(names)), names)
        longest = max(parts[name]["max"] for name in names)
        ax.set(title=title, xlabel="ms a step", xlim=(0, 1150 * longest), ylim=(count - 0.5, -0.5))
        ax.grid(axis="y", visible=False)
    return figure


@styled
def growth_figure(rows: list[dict], fit: dict) -> plt.Figure:
    """Step time above and peak memory below, along each axis, and the memory by the line fitted to all points."""
    titles = {"size": "side, px (batch 4)", "batch": "batch", "segments": "segments"}
    figure, panels = panel_grid(WIDTH, 4.4, 2, 3, sharex="col", sharey="row")
    for above, below, (axis, title) in zip(panels[:3], panels[3:], titles.items()):
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
    times = [row["seconds"][key] for row in rows if "seconds" in row for key in ("min", "max")]
    panels[0].set(ylabel="seconds a step", ylim=(min(times) / 1.6, max(times) * 1.6))
    panels[0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())
    panels[3].set(ylabel="peak memory, GB", ylim=(0, max(row.get("peak_mb", 0) for row in rows) / 920))
    panels[3].legend(loc="lower right")
    return figure
