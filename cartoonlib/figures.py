"""Every figure of the report, drawn by code from real images, modules and numbers: one function per figure.

Images are (N, S, S, 3) or grey (N, S, S, 1) uint8 arrays, landmarks (N, K, 2) in units of the image's side, lengths on
paper inches. `rows` are measurements, one dict each with the keys ROW. A returned Figure is closed in pyplot, so that a
notebook shows it once. Bad input raises an InputError.
"""

import io
import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from matplotlib.transforms import Bbox

from .paths import InputError, write_atomic

WIDTH = 10.0  # 1500 px: readable when a page shows it at half of that
INK, MUTED, RULE = "#22272e", "#5d6570", "#c3c9d2"
COLORS = {  # of every loss and its branch, of the generator, and of the seed's variants
    "seed": "#8c6d4f", "surface": "#3a9d6b", "texture": "#2ea7b8", "structure": "#5b8fd6", "landmark": "#7d858c",
    "content": "#1f4078", "color": "#d9902f", "total_variation": "#8a6fb0", "generator": "#c0483f", "full": "#c0483f",
}  # fmt: skip
ROW = ("style", "variant", "steps", "seed", "n", "metric", "features", "value", "low", "high")
METRICS = {  # the arrow marks those of which less is better
    "kid_cartoon": "KID × 1000 to cartoons ↓", "frechet_cartoon": "Fréchet distance to cartoons ↓",
    "kid_photo": "KID × 1000 to photos", "frechet_photo": "Fréchet distance to photos",
    "flatness": "share of flat pixels", "content_distance": "content distance ↓",
    "landmark_error": "landmark error / eye distance ↓", "milliseconds": "ms an image ↓",
    "hand_made_error": "distance to hand-made points / eye distance ↓",
}  # fmt: skip
styled = plt.style.context(Path(__file__).with_name("cartoonlib.mplstyle"))


def save_figure(figure: plt.Figure, path: Path | str) -> None:
    """Write a PNG (150 dpi) atomically and without metadata, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomic(Path(path), buffer.getvalue())


def _panels(width: float, height: float, down: int, across: int, **shared) -> tuple[plt.Figure, np.ndarray]:
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure, figure.subplots(down, across, squeeze=False, **shared).ravel()


def _canvas(width: float, height: float) -> tuple[plt.Figure, plt.Axes]:
    """Paper for diagrams: one axes over the whole figure, in inches from the top left corner."""
    figure = plt.figure(figsize=(width, height))
    plt.close(figure)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return figure, ax


def _images(images: np.ndarray, name: str, count: int = 1) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"The images `{name}` must be a uint8 array (N, S, S, 3), not {images.dtype} {images.shape}.")
    if len(images) < count:
        raise InputError(f"This figure needs {count} or more images `{name}`: it was given {len(images)}.")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _color(name: str) -> str:
    """The colour of the first entry of COLORS that a name contains, else ink."""
    name = re.sub(r", seed \d+$", "", name).replace(" ", "_").replace("colour", "color")
    return next((color for key, color in COLORS.items() if key in name), INK)


def _text(ax: plt.Axes, x: float, y: float, text: str, size: float = 9, **style) -> None:
    """A text whose capitals are centred on (x, y), unless the style says otherwise."""
    y = y if "va" in style else y + 0.005 * size
    ax.text(x, y, text, fontsize=size, **{"ha": "center", "va": "baseline", "linespacing": 1.35} | style)


def _image(ax: plt.Axes, image: np.ndarray, x: float, y: float, side: float, points: np.ndarray | None = None) -> None:
    """An image with its top left corner at (x, y); with landmarks it is paled, so that they stand out."""
    extent = (x, x + side, y + side, y)
    ax.imshow(image, extent=extent, aspect="auto", alpha=1 if points is None else 0.55, zorder=2)
    ax.add_patch(plt.Rectangle((x, y), side, side, fc="none", ec=RULE, lw=0.5, zorder=3))
    if points is not None:
        size = 4 if len(points) < 6 else 1.6
        ax.plot(*(np.asarray(points) * side + (x, y)).T, "o", color=COLORS["content"], ms=size, mew=0, zorder=4)


def _box(ax: plt.Axes, x: float, y: float, text: str, color: str, width: float, size: float = 9, alpha=1.0) -> None:
    corner, shape = (x - width / 2, y - 0.18), "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch(corner, width, 0.36, shape, fc=color, ec="none", alpha=alpha))
    _text(ax, x, y, text, size, color="white" if alpha == 1 else INK)


def _arrow(ax: plt.Axes, *corners: tuple[float, float], color: str = MUTED, dash: str = "-") -> None:
    """An arrow along horizontal and vertical lines with rounded corners."""
    vertices, codes = [corners[0]], [Line.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:]):
        near = [np.add(corner, 0.12 * np.sign(np.subtract(other, corner))) for other in (before, after)]
        vertices += [near[0], corner, near[1]]
        codes += [Line.LINETO, Line.CURVE3, Line.CURVE3]
    line = Line([*vertices, corners[-1]], [*codes, Line.LINETO])
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "zorder": 1}
    ax.add_patch(FancyArrowPatch(path=line, color=color, lw=1.3, ls=dash, **style))


@styled
def dataset(faces: np.ndarray, cartoons: dict[str, np.ndarray]) -> plt.Figure:
    """Up to 16 faces on the left, up to four cartoons of every style on the right."""
    rows = {title: _images(images, title)[:4] for title, images in cartoons.items()}
    top, left, right, pitch = 0.5, 0.15, 4.65, 1.04
    small = min(pitch, 4 * pitch / max(1, len(rows)))
    figure, ax = _canvas(WIDTH, top + 4 * pitch + 0.1)
    _text(ax, left, 0.3, "Face images", 11, ha="left", weight="bold")
    _text(ax, right, 0.3, "Cartoon images", 11, ha="left", weight="bold")
    for i, face in enumerate(_images(faces, "faces")[:16]):
        _image(ax, face, left + i % 4 * pitch, top + i // 4 * pitch, pitch - 0.04)
    for y, (title, images) in zip(np.linspace(top, top + 4 * pitch - small, max(2, len(rows))), rows.items()):
        for i, image in enumerate(images):
            _image(ax, image, right + i * small, y, small - 0.04)
        _text(ax, right + 4 * small + 0.1, y + small / 2, textwrap.fill(title, 14), 10, ha="left", va="center")
    return figure


@styled
def representations(photos, structure, texture, surface, points) -> plt.Figure:
    """The four representations of two photos, before and after."""
    operations = ("superpixels, one colour each", "random colour shift", "guided filter", "landmark detection")
    after = {"structure": structure, "texture": texture, "surface": surface, "landmark": photos}
    figure, ax = _canvas(WIDTH, 3.9)
    for i, ((name, images), operation) in enumerate(zip(after.items(), operations)):
        center, color = 1.28 + 2.48 * i, COLORS[name]
        for j, x in enumerate((center - 1.14, center + 0.04)):
            _image(ax, _images(photos, "photos", 2)[j], x, 0.5, 1.1)
            _image(ax, _images(images, name, 2)[j], x, 2.65, 1.1, points[j] if name == "landmark" else None)
        _text(ax, center, 0.28, "Landmarks" if name == "landmark" else name.capitalize(), 11, weight="bold")
        _arrow(ax, (center, 1.65), (center, 1.93), color=color)
        _box(ax, center, 2.12, operation, color, 2.28)
        _arrow(ax, (center, 2.32), (center, 2.6), color=color)
    return figure


def _grid(columns: dict[str, np.ndarray], notes: dict[str, str], rule: bool = False) -> plt.Figure:
    """Columns of images; titles and notes above, a rule after the first column."""
    pitch = min(1.8, (WIDTH - 0.16) / len(columns))
    side, size = pitch - 0.07, 9 if pitch > 1 else 7.5
    titles = [textwrap.fill(title, int(side / size / 0.0098)) for title in columns]
    lines = [notes.get(title, "").split("\n") for title in columns]
    notes = ["\n".join(textwrap.fill(line, int(side / size / 0.0085)) for line in part) for part in lines]
    low, high = (max(text.count("\n") + bool(text.strip()) for text in texts) for texts in (notes, titles))
    top, low = 0.1 + 0.165 * high + 0.145 * low + 0.1 * bool(high), 0.145 * low
    figure, ax = _canvas(0.16 + pitch * len(columns), top + pitch * max(map(len, columns.values())) + 0.05)
    for i, images in enumerate(columns.values()):
        x = 0.08 + i * pitch + 0.07 * (rule and i > 0)
        _text(ax, x + side / 2, top - 0.14 - low, titles[i], size, weight="bold", va="baseline")
        _text(ax, x + side / 2, top - 0.08 - low, notes[i], size - 1, va="top", color=MUTED)
        for j, image in enumerate(images):
            _image(ax, image, x, top + j * pitch, side)
    if rule:
        ax.plot([0.08 + pitch] * 2, [0.12, ax.get_ylim()[0] - 0.1], color=RULE, lw=1)
    return figure


@styled
def comparison(photos: np.ndarray, columns: dict, column_notes: dict[str, str] | None = None) -> plt.Figure:
    """Faces in rows, the photo and its variants in columns; the notes (weights, say) stand under the titles."""
    columns = {title: _images(images, title) for title, images in {"photo": photos, **columns}.items()}
    if len({len(images) for images in columns.values()}) > 1:
        raise InputError("The columns hold different numbers of images: give the same faces in every column.")
    return _grid(columns, column_notes or {}, rule=True)


@styled
def gallery(rows: dict[str, np.ndarray]) -> plt.Figure:
    """The same faces side by side, a row for the photos and for every style, its title before it."""
    rows = {title: _images(images, title) for title, images in rows.items()}
    left = 1.05
    pitch = (WIDTH - left) / max(map(len, rows.values()))
    figure, ax = _canvas(WIDTH, pitch * len(rows) + 0.05)
    for j, (title, images) in enumerate(rows.items()):
        _text(ax, left - 0.1, (j + 0.5) * pitch, textwrap.fill(title, 12), ha="right", va="center", weight="bold")
        for i, image in enumerate(images):
            _image(ax, image, left + i * pitch, 0.03 + j * pitch, pitch - 0.05)
    return figure


@styled
def training_strip(samples: dict[int, np.ndarray]) -> plt.Figure:
    """The same faces over training time: step -> images."""
    if not samples:
        raise InputError("There are no samples to show: train for some steps first.")
    return _grid({f"step {step:,}": _images(images, f"step {step}") for step, images in sorted(samples.items())}, {})


@styled
def contact_sheet(images: np.ndarray, columns: int = 8) -> plt.Figure:
    """All images, row by row."""
    images, across = _images(images, "images"), min(columns, len(images))
    return _grid({" " * i: images[i::across] for i in range(across)}, {})


@styled
def loss_curves(logs: dict[str, list[dict]], keys: list[str]) -> plt.Figure:
    """A panel a loss, a line a run (title -> log rows with `step`); pale: as logged, full: moving average."""
    if not any(key in row for rows in logs.values() for row in rows for key in keys):
        raise InputError(f"The logs have none of the losses {', '.join(keys)}: train first, or name others.")
    figure, panels = _loss_panels(keys)
    colors = [_color(title) for title in logs]
    colors = colors if len({*colors}) == len(logs) else [f"C{i}" for i in range(len(logs))]
    for ax, key in zip(panels, keys):
        for color, (title, rows) in zip([_color(key)] if len(logs) == 1 else colors, logs.items()):
            steps, values = np.array([(row["step"], row[key]) for row in rows if key in row]).reshape(-1, 2).T
            window = max(1, len(values) // 25)
            ax.plot(steps, values, color=color, lw=0.8, alpha=0.3)
            mean = [values[max(0, i - window) : i + window + 1].mean() for i in range(len(values))]
            ax.plot(steps, mean, color=color, label=title)
        _finish_loss_panel(ax, key)
    if len(logs) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(logs)))
    return figure


@styled
def loss_bands(logs: list[list[dict]], keys: list[str]) -> plt.Figure:
    """A panel a loss: from the least to the largest value that runs, equal but for their seed, logged at each step."""
    shared = sorted(set.intersection(*({row["step"] for row in rows} for rows in logs))) if logs else []
    if not shared:
        raise InputError("There are no runs with steps in common: train the full method and its other seeds first.")
    figure, panels = _loss_panels(keys)
    for ax, key in zip(panels, keys):
        values = np.array([[row[key] for row in rows if row["step"] in shared] for rows in logs])
        color = _color(key)
        ax.fill_between(shared, values.min(axis=0), values.max(axis=0), color=color, alpha=0.3, lw=0)
        ax.plot(shared, values.mean(axis=0), color=color)
        _finish_loss_panel(ax, key)
    return figure


def _loss_panels(keys: list[str]) -> tuple[plt.Figure, np.ndarray]:
    across, down = min(4, len(keys)), -(-len(keys) // 4)
    figure, panels = _panels(max(4, 2.5 * across), 1.75 * down + 0.5, down, across, sharex=True)
    for i, ax in enumerate(panels):
        ax.set_visible(i < len(keys))
        lowest = i + across >= len(keys)
        ax.tick_params(labelbottom=lowest)
        ax.set_xlabel("step" if lowest else "", fontsize=9)
    return figure, panels


def _finish_loss_panel(ax: plt.Axes, key: str) -> None:
    """Its title, its range from zero, and for a discriminator the line of one that cannot tell."""
    if key.startswith("d_"):
        ax.axhline(0.25, color=MUTED, lw=1, ls="--", zorder=1)
        place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        ax.text(1, 0.253, "cannot tell", fontsize=8, color=MUTED, **place)
    ax.set_title(key.replace("d_", "discriminator: ").replace("_", " ").replace("color", "colour"))
    ax.set_ylim(0, max(0.29, ax.get_ylim()[1]) if key.startswith("d_") else None)


def _measured(rows: list[dict], metric: str) -> tuple[dict[tuple, dict], str]:
    """(style, variant, steps, seed) -> row of one metric; and its title with the networks that made its features."""
    if missing := [key for key in ROW if any(key not in row for row in rows)]:
        raise InputError(f"Some measurements lack {', '.join(missing)}: measure them again.")
    found = {tuple(row[key] for key in ROW[:4]): row for row in rows if row["metric"] == metric}
    if not found:
        known = ", ".join(sorted({row["metric"] for row in rows}))
        raise InputError(f"No `{metric}` was measured: choose one of {known or 'what you measure first'}.")
    features = ", ".join(dict.fromkeys(row["features"] for row in found.values() if row["features"] not in ("", "-")))
    return found, METRICS.get(metric, metric) + f" ({features})" * bool(features)


@styled
def metric_bars(rows: list[dict], metric: str, groups: dict | None = None, reference="untouched photo") -> plt.Figure:
    """Dots with intervals, a line a variant, a panel a style; the variant `reference` is dashed, with its interval.

    `groups`: title -> variants (`profiles.ablations` fits) sets the order and leaves a gap after each group.
    """
    found, title = _measured(rows, metric)
    place, y = {}, 0.0
    for group in [*(groups or {}).values(), dict.fromkeys(key[1] for key in found)]:
        members = [v for v in group if v not in place and v != reference and any(v == key[1] for key in found)]
        place |= {variant: y + i for i, variant in enumerate(members)}
        y += len(members) + 0.6 * bool(members)
    styles = dict.fromkeys(key[0] for key in found)
    figure, panels = _panels(min(WIDTH, 3.4 + 2.6 * len(styles)), 0.24 * y + 1.0, 1, len(styles), sharey=True)
    for ax, style in zip(panels, styles):
        for row in (row for key, row in found.items() if key[0] == style):
            color, low, high = _color(row["variant"]), row["low"], row["high"]
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


def _label_points(ax: plt.Axes, points: list[tuple[dict, dict]]) -> None:
    """Label the points of (x row, y row) close by, clear of other labels, points and the frame, and of intervals."""
    ax.figure.draw_without_rendering()
    unit, move = ax.figure.dpi / 72, ax.transData.transform
    dots = [move((h["value"], v["value"])) for h, v in points]
    taken = [Bbox.from_bounds(*(dot - 4 * unit), 8 * unit, 8 * unit) for dot in dots]
    bars = [Bbox(move([(h["low"], v["value"]), (h["high"], v["value"])])).padded(unit) for h, v in points]
    bars += [Bbox(move([(h["value"], v["low"]), (h["value"], v["high"])])).padded(unit) for h, v in points]
    spots = [(r, np.array([np.cos(a), np.sin(a)])) for r in range(3, 120, 4) for a in np.arange(16) * np.pi / 8]
    style = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8, "in_layout": False}
    for dot, (h, v) in zip(dots, points):
        name, spot = h["variant"], (h["value"], v["value"])
        line = {"arrowstyle": "-", "color": _color(name), "alpha": 0.6, "lw": 0.6, "shrinkA": 0, "shrinkB": 5}
        label = ax.annotate(name, spot, (0, 0), color=_color(name), arrowprops=line, **style)
        size = label.get_window_extent().size + 2 * unit
        best, least = None, np.inf
        for r, way in spots:
            box = Bbox.from_bounds(*(dot + way * (size / 2 + r * unit) - size / 2), *size)
            outside = not (ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max))
            cost = r + 6 * box.count_overlaps(bars) + 300 * box.count_overlaps(taken) + 300 * outside
            best, least = (box, cost) if cost < least else (best, least)
        taken.append(best)
        label.set_position(((best.min + best.max) / 2 - dot) / unit)


@styled
def tradeoff(rows: list[dict], x: str = "landmark_error", y: str = "kid_cartoon") -> plt.Figure:
    """Two metrics against each other: a labelled point with both intervals a variant, a panel a style."""
    (across, x_title), (up, y_title) = _measured(rows, x), _measured(rows, y)
    styles = dict.fromkeys(key[0] for key in across if key in up)
    columns, down = min(2, len(styles)), -(-len(styles) // 2)
    figure, panels = _panels(min(WIDTH, 7 * columns), 4.6 * down, down, columns)
    for ax, style in zip(panels, styles):
        points = [(across[key], up[key]) for key in across if key in up and key[0] == style]
        for h, v in points:
            color = _color(h["variant"])
            ax.plot([h["low"], h["high"]], [v["value"]] * 2, color=color, alpha=0.35, lw=1)
            ax.plot([h["value"]] * 2, [v["low"], v["high"]], color=color, alpha=0.35, lw=1)
            ax.plot(h["value"], v["value"], "o", color=color, ms=6)
        ax.set(title=style, xlabel=x_title, ylabel=y_title)
        ax.margins(0.12)
        _label_points(ax, points)
    return figure


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
    found, titles = zip(*(_measured(rows, metric) for metric in metrics))
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
