"""Figures made of pictures: data, representations, comparisons, galleries.

Images are uint8 arrays (N, S, S, 3), or (N, S, S, 1) for grey ones; landmarks are (N, K, 2) in units of the image's
side. Every function returns a matplotlib Figure and raises an InputError when it is given too few images.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from skimage.transform import estimate_transform

from .. import representations as views
from ..files import InputError
from ..images import to_uint8
from ..media.faces import align, detect_faces
from ..profile import Profile
from .indices import FACE, box, lab
from .paper import COLORS, INK, MUTED, RULE, WIDTH, arrow, canvas, checked, label, panel_grid, picture, styled


def represented(images: torch.Tensor, profile: Profile) -> dict[str, np.ndarray]:
    """What the losses see of images: `structure`, `texture` (grey) and `surface`, as pictures.

    images: (N, 3, S, S) in [-1, 1].  The colour-shift weights of the texture are drawn with the profile's seed.
    """
    p, weights = profile, views.color_shift_weights(torch.Generator().manual_seed(profile.seed))
    return {
        "structure": to_uint8(views.structure(images, p.segments, p.adaptive, p.brighten)),
        "texture": to_uint8(views.texture(images, weights)),
        "surface": to_uint8(views.surface(images, eps=p.surface_eps)),
    }


def _grid(columns: dict[str, np.ndarray], notes: dict[str, str], rule: bool = False) -> plt.Figure:
    """Columns of images (title -> images); title and note above each, and a rule after the first if `rule`."""
    pitch = min(1.8, (WIDTH - 0.16) / len(columns))
    side, size = pitch - 0.07, 9 if pitch > 1 else 7.5
    titles = [textwrap.fill(title, int(side / size / 0.0098)) for title in columns]
    lines = [notes.get(title, "").split("\n") for title in columns]
    folded = ["\n".join(textwrap.fill(line, int(side / size / 0.0085)) for line in note) for note in lines]
    note_lines, title_lines = (max(len(text.strip().splitlines()) for text in texts) for texts in (folded, titles))
    low = 0.145 * note_lines
    top = 0.1 + 0.165 * title_lines + low + (0.1 if title_lines else 0)
    figure, ax = canvas(0.16 + pitch * len(columns), top + pitch * max(map(len, columns.values())) + 0.05)
    for i, images in enumerate(columns.values()):
        x = 0.08 + i * pitch + (0.07 if rule and i > 0 else 0)
        label(ax, x + side / 2, top - 0.14 - low, titles[i], size, weight="bold", va="baseline")
        label(ax, x + side / 2, top - 0.08 - low, folded[i], size - 1, va="top", color=MUTED)
        for j, image in enumerate(images):
            picture(ax, image, x, top + j * pitch, side)
    if rule:
        ax.plot([0.08 + pitch] * 2, [0.12, ax.get_ylim()[0] - 0.1], color=RULE, lw=1)
    return figure


@styled
def comparison(photos: np.ndarray, columns: dict, column_notes: dict[str, str] | None = None) -> plt.Figure:
    """Faces in rows, the photo and its variants (title -> images of the same faces) in columns, with notes by title."""
    columns = {title: checked(images, title) for title, images in {"photo": photos, **columns}.items()}
    if len({len(images) for images in columns.values()}) > 1:
        raise InputError("The columns hold different numbers of images: give the same faces in every column.")
    return _grid(columns, column_notes or {}, rule=True)


@styled
def gallery(rows: dict[str, np.ndarray], points: dict[str, np.ndarray] | None = None) -> plt.Figure:
    """The same faces side by side: a row for each entry (title -> images), its title before it, points on its faces."""
    left, pitch = 1.05, (WIDTH - 1.05) / max(map(len, rows.values()))
    figure, ax = canvas(WIDTH, pitch * len(rows) + 0.05)
    for j, (title, images) in enumerate(rows.items()):
        label(ax, left - 0.1, (j + 0.5) * pitch, textwrap.fill(title, 12), ha="right", va="center", weight="bold")
        found = (points or {}).get(title, [None] * len(images))
        for i, (image, at) in enumerate(zip(checked(images, title), found)):
            picture(ax, image, left + i * pitch, 0.03 + j * pitch, pitch - 0.05, at)
    return figure


@styled
def training_strip(samples: dict[int, np.ndarray]) -> plt.Figure:
    """The same faces over training time, a column a step (step -> images)."""
    if not samples:
        raise InputError("There are no samples to show: train for some steps first.")
    return _grid({f"step {step:,}": checked(images, f"step {step}") for step, images in sorted(samples.items())}, {})


@styled
def alignment(photos: list[np.ndarray], side: int = 256) -> plt.Figure:
    """Square photos, uint8 (S, S, 3), with MTCNN's points and the square that is cut; below each, that square upright.

    InputError when no face is found in one of them.
    """
    pitch = min(3.3, WIDTH / len(photos))
    width = pitch - 0.7
    figure, ax = canvas(pitch * len(photos), 2 * width + 1.15)
    for i, photo in enumerate(photos):
        if not (faces := detect_faces(photo)):
            raise InputError(f"MTCNN finds no face in photo {i + 1}: turn it less, or give another.")
        found = faces[0].points
        aligned, points = align(photo, found, side)
        back = estimate_transform("similarity", points, found)  # from the square to the photo
        corners = back([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
        x, y, color = (i + 0.5) * pitch - width / 2, 0.35, COLORS["generator"]
        picture(ax, photo, x, y, width, found / len(photo))
        ax.plot(*(corners / len(photo) * width + (x, y)).T, color=color, zorder=4)
        arrow(ax, (x + width / 2, y + width + 0.08), (x + width / 2, y + width + 0.5), color=color)
        picture(ax, aligned, x, y + width + 0.6, width, points)
    return figure


def tones(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colour of each face, the median over its middle, and its lightness, from dark to light.

    uint8 (N, S, S, 3) -> uint8 (N, 3), and CIELAB's L, from 0 to 100, (N,).
    """
    colours = np.median(box(images.transpose(0, 3, 1, 2), FACE), axis=(2, 3)).astype(np.uint8)
    light = lab(colours[:, None, None]).numpy()[:, 0, 0, 0]
    order = light.argsort(kind="stable")
    return colours[order], light[order]


@styled
def tone_histogram(sets: dict[str, tuple[np.ndarray, np.ndarray]], step: float = 2.5) -> plt.Figure:
    """Faces as bricks in their own colours (title -> tones), piled up where their lightness is; the line: the median.

    A panel a set, each with a height of its own; of many faces some 60 stand for all.
    """
    figure, panels = panel_grid(WIDTH * 0.8, 1.15 * len(sets) + 0.4, len(sets), 1, sharex=True)
    for ax, (title, (colours, light)) in zip(panels, sets.items()):
        some = slice(None, None, max(1, len(light) // 60))
        place = light[some] // step
        below = [(place[:i] == here).sum() for i, here in enumerate(place)]
        ax.bar((place + 0.5) * step, 1, 0.94 * step, below, color=colours[some] / 255, ec="white", lw=0.4)
        ax.axvline(np.median(light), color=INK, lw=1, ls="--")
        ax.set(title=f"{title}, n = {len(light)}", xlim=(0, 100), yticks=[])
        ax.spines["left"].set_visible(False)
    ax.set_xlabel("lightness L of the middle of the face")
    return figure
