"""Figures made of pictures: data, representations, comparisons, galleries.

Images are uint8 arrays (N, S, S, 3), or (N, S, S, 1) for grey ones; landmarks are (N, K, 2) in units of the image's
side. Every function returns a matplotlib Figure and raises an InputError when it is given too few images.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from .. import representations as views
from ..files import InputError
from ..images import to_uint8
from ..profile import Profile
from .paper import COLORS, MUTED, RULE, WIDTH, arrow, box, canvas, checked, label, picture, styled


def represented(images: Tensor, profile: Profile) -> dict[str, np.ndarray]:
    """What the losses see of images: `structure`, `texture` (grey) and `surface`, as pictures.

    images: (N, 3, S, S) in [-1, 1].  The colour-shift weights of the texture are drawn with the profile's seed.
    """
    p, weights = profile, views.color_shift_weights(torch.Generator().manual_seed(profile.seed))
    return {
        "structure": to_uint8(views.structure(images, p.segments, p.adaptive, p.brighten)),
        "texture": to_uint8(views.texture(images, weights)),
        "surface": to_uint8(views.surface(images, eps=p.surface_eps)),
    }


@styled
def representations(photos, structure, texture, surface, points) -> plt.Figure:
    """Two photos, their landmarks `points`, and what the losses see of them: two images or more each."""
    operations = ("superpixels, one colour each", "random colour shift", "guided filter", "landmark detection")
    after = {"structure": structure, "texture": texture, "surface": surface, "landmark": photos}
    figure, ax = canvas(WIDTH, 3.9)
    for i, ((name, images), operation) in enumerate(zip(after.items(), operations)):
        center, color = 1.28 + 2.48 * i, COLORS[name]
        for j, x in enumerate((center - 1.14, center + 0.04)):
            picture(ax, checked(photos, "photos", 2)[j], x, 0.5, 1.1)
            picture(ax, checked(images, name, 2)[j], x, 2.65, 1.1, points[j] if name == "landmark" else None)
        label(ax, center, 0.28, "Landmarks" if name == "landmark" else name.capitalize(), 11, weight="bold")
        arrow(ax, (center, 1.65), (center, 1.93), color=color)
        box(ax, center, 2.12, operation, color, 2.28)
        arrow(ax, (center, 2.32), (center, 2.6), color=color)
    return figure


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
def gallery(rows: dict[str, np.ndarray]) -> plt.Figure:
    """The same faces side by side: a row for each entry (title -> images), its title before it."""
    left, pitch = 1.05, (WIDTH - 1.05) / max(map(len, rows.values()))
    figure, ax = canvas(WIDTH, pitch * len(rows) + 0.05)
    for j, (title, images) in enumerate(rows.items()):
        label(ax, left - 0.1, (j + 0.5) * pitch, textwrap.fill(title, 12), ha="right", va="center", weight="bold")
        for i, image in enumerate(checked(images, title)):
            picture(ax, image, left + i * pitch, 0.03 + j * pitch, pitch - 0.05)
    return figure


@styled
def training_strip(samples: dict[int, np.ndarray]) -> plt.Figure:
    """The same faces over training time, a column a step (step -> images)."""
    if not samples:
        raise InputError("There are no samples to show: train for some steps first.")
    return _grid({f"step {step:,}": checked(images, f"step {step}") for step, images in sorted(samples.items())}, {})


@styled
def contact_sheet(images: np.ndarray, columns: int = 8) -> plt.Figure:
    """All images, row by row, in so many columns."""
    images, across = checked(images, "images"), min(columns, len(images))
    return _grid({" " * i: images[i::across] for i in range(across)}, {})
