"""What figures are drawn with: the canvas, its colours, and the pictures, texts, boxes and arrows on it.

Positions and lengths on a canvas are in inches, from its top left corner. A Figure that is returned is closed in
pyplot, so that a notebook shows it once.
"""

import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

from ..files import InputError, write_atomic

WIDTH = 10.0  # 1500 px: readable when a page shows it at half of that
INK, MUTED, RULE = "#22272e", "#5d6570", "#c3c9d2"
COLORS = {  # of every loss and its branch, of the generator, and of the original's variants
    "original": "#8c6d4f", "surface": "#3a9d6b", "texture": "#2ea7b8", "structure": "#5b8fd6", "landmark": "#7d858c",
    "content": "#1f4078", "anchor": "#d9902f", "total_variation": "#8a6fb0", "generator": "#c0483f", "full": "#c0483f",
}  # fmt: skip
# Decorates a function that draws: it does so in the style of cartoonlib.mplstyle.
styled = plt.style.context(Path(__file__).with_name("cartoonlib.mplstyle"))


def save_figure(figure: plt.Figure, path: Path | str) -> None:
    """Write a PNG (150 dpi) atomically and without metadata, so that equal figures are equal bytes."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=150, metadata={"Software": None})
    save_picture(PIL.Image.open(buffer), Path(path))


def save_picture(picture: PIL.Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all; its colours in steps of 5 halve it, and nobody sees it."""
    coarse = picture.convert("RGB").point(lambda value: min(255, (value + 2) // 5 * 5))
    coarse.save(buffer := io.BytesIO(), "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())


def panel_grid(width: float, height: float, down: int, across: int, **shared) -> tuple[plt.Figure, np.ndarray]:
    """A figure with down x across panels for plots, and the panels row by row, (down * across,); sizes in inches."""
    figure = plt.figure(figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure, figure.subplots(down, across, squeeze=False, **shared).ravel()


def canvas(width: float, height: float) -> tuple[plt.Figure, plt.Axes]:
    """A figure for pictures and diagrams: one axes without lines over all of it, in inches from the top left corner."""
    figure = plt.figure(figsize=(width, height))
    plt.close(figure)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return figure, ax


def checked(images: np.ndarray, name: str) -> np.ndarray:
    """The images as (N, S, S, 3).  InputError, with their name, when they are no images or there are none."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"The images `{name}` must be a uint8 array (N, S, S, 3), not {images.dtype} {images.shape}.")
    if not len(images):
        raise InputError(f"This figure needs one or more images `{name}`: it was given none.")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def color_of(name: str) -> str:
    """The colour of the first entry of COLORS that a name contains, else ink."""
    name = re.sub(r", seed \d+$", "", name).replace(" ", "_")
    return next((color for key, color in COLORS.items() if key in name), INK)


def label(ax: plt.Axes, x: float, y: float, text: str, size: float = 9, **style) -> None:
    """A text whose capitals are centred on (x, y), unless the style says otherwise."""
    y = y if "va" in style else y + 0.005 * size
    ax.text(x, y, text, fontsize=size, **{"ha": "center", "va": "baseline", "linespacing": 1.35} | style)


def picture(ax: plt.Axes, image: np.ndarray, x: float, y: float, side: float, points: np.ndarray | None = None) -> None:
    """An image with its top left corner at (x, y); with landmarks it is paled, so that they stand out."""
    ax.imshow(image, extent=(x, x + side, y + side, y), aspect="auto", alpha=1 if points is None else 0.55, zorder=2)
    ax.add_patch(plt.Rectangle((x, y), side, side, fc="none", ec=RULE, lw=0.5, zorder=3))
    if points is not None:
        style = {"color": COLORS["content"], "ms": 4 if len(points) < 6 else 1.6, "mew": 0, "zorder": 4}
        ax.plot(*(np.asarray(points) * side + (x, y)).T, "o", **style)


def box(ax: plt.Axes, x: float, y: float, text: str, color: str, width: float, size: float = 9, alpha=1.0) -> None:
    """A box of a colour with rounded corners, centred on (x, y), with a text in it: white, or dark if it is pale."""
    corner, shape = (x - width / 2, y - 0.18), "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch(corner, width, 0.36, shape, fc=color, ec="none", alpha=alpha))
    label(ax, x, y, text, size, color="white" if alpha == 1 else INK)


def arrow(ax: plt.Axes, *corners: tuple[float, float], color: str = MUTED, dash: str = "-") -> None:
    """An arrow along the lines from corner to corner, horizontal or vertical, with the corners in between rounded."""
    vertices, codes = [corners[0]], [Line.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:]):
        near = [np.add(corner, 0.12 * np.sign(np.subtract(other, corner))) for other in (before, after)]
        vertices += [near[0], corner, near[1]]
        codes += [Line.LINETO, Line.CURVE3, Line.CURVE3]
    line = Line([*vertices, corners[-1]], [*codes, Line.LINETO])
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0, "zorder": 1}
    ax.add_patch(FancyArrowPatch(path=line, color=color, lw=1.3, ls=dash, **style))
