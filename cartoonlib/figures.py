"""Every figure of the report, drawn by code from real images, modules and numbers: one function per figure.

Images are (N, S, S, 3) or grey (N, S, S, 1) uint8 arrays, landmarks (N, K, 2) in units of the image's side, lengths on
paper inches. `rows` are measurements, one dict each with the keys ROW. A returned Figure is closed in pyplot, so that a
notebook shows it once. Bad input raises an InputError.
"""

import io
import textwrap
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from matplotlib.transforms import Bbox
from torch import nn

from .networks import Generator, PatchDiscriminator, count_parameters
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
    "landmark_error": "landmark error / eye distance ↓",
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
    name = name.replace(" ", "_").replace("colour", "color")
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
    """16 faces on the left, four cartoons of every style on the right."""
    rows = {title: _images(images, title, 4)[:4] for title, images in cartoons.items()}
    top, left, right, pitch = 0.5, 0.15, 4.65, 1.04
    small = min(pitch, 4 * pitch / max(1, len(rows)))
    figure, ax = _canvas(WIDTH, top + 4 * pitch + 0.1)
    _text(ax, left, 0.3, "Face images", 11, ha="left", weight="bold")
    _text(ax, right, 0.3, "Cartoon images", 11, ha="left", weight="bold")
    for i, face in enumerate(_images(faces, "faces", 16)[:16]):
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


def _grid(columns: dict[str, np.ndarray], notes: dict[str, str], captions=(), rule: bool = False) -> plt.Figure:
    """Columns of images; titles and notes above, captions below each image, a rule after the first column."""
    pitch = min(1.8, (WIDTH - 0.16) / len(columns))
    side, size, height = pitch - 0.07, 9 if pitch > 1 else 7.5, pitch + 0.2 * bool(captions)
    titles = [textwrap.fill(title, int(side / size / 0.0098)) for title in columns]
    lines = [notes.get(title, "").split("\n") for title in columns]
    notes = ["\n".join(textwrap.fill(line, int(side / size / 0.0085)) for line in part) for part in lines]
    low, high = (max(text.count("\n") + bool(text.strip()) for text in texts) for texts in (notes, titles))
    top, low = 0.1 + 0.165 * high + 0.145 * low + 0.1 * bool(high), 0.145 * low
    figure, ax = _canvas(0.16 + pitch * len(columns), top + height * max(map(len, columns.values())) + 0.05)
    for i, images in enumerate(columns.values()):
        x = 0.08 + i * pitch + 0.07 * (rule and i > 0)
        _text(ax, x + side / 2, top - 0.14 - low, titles[i], size, weight="bold", va="baseline")
        _text(ax, x + side / 2, top - 0.08 - low, notes[i], size - 1, va="top", color=MUTED)
        for j, image in enumerate(images):
            _image(ax, image, x, top + j * height, side)
            if captions:
                _text(ax, x + side / 2, top + j * height + side + 0.11, captions[i][j], 7.5, color=MUTED)
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
def training_strip(samples: dict[int, np.ndarray]) -> plt.Figure:
    """The same faces over training time: step -> images."""
    if not samples:
        raise InputError("There are no samples to show: train for some steps first.")
    return _grid({f"step {step:,}": _images(images, f"step {step}") for step, images in sorted(samples.items())}, {})


@styled
def contact_sheet(images: np.ndarray, columns: int = 8, titles: list[str] | None = None) -> plt.Figure:
    """All images, row by row, each with its title below it."""
    images, across = _images(images, "images"), min(columns, len(images))
    if titles is not None and len(titles) != len(images):
        raise InputError(f"There are {len(images)} images and {len(titles)} titles: give one title for each image.")
    captions = [titles[i::across] for i in range(across)] if titles else []
    return _grid({" " * i: images[i::across] for i in range(across)}, {}, captions)


@styled
def pipeline(images: dict[str, np.ndarray], networks: dict[str, int | str]) -> plt.Figure:
    """How a photo becomes a cartoon, and what every loss compares.

    Args:
        images: photo, output, surface, texture, structure, and the landmarks photo_points and output_points; the first
            of each is shown.
        networks: parameter counts of generator, d_surface and d_texture, and the name of the perceptual network.
    """
    rows = {"surface": 0.95, "texture": 2.55, "structure": 4.1}
    need = "photo output photo_points output_points generator d_surface d_texture perceptual".split()
    if missing := {*rows, *need} - {*images, *networks}:
        raise InputError(f"The pipeline figure lacks {', '.join(sorted(missing))}: add it to its dicts.")
    figure, ax = _canvas(WIDTH, 6.1)
    frozen = f"{networks['perceptual']}\n(frozen)"
    arrows = [("generator", (1.225, 2.55), (1.94, 2.55)), ("generator", (2.84, 2.55), (3.56, 2.55)),
              ("content", (2.4, 5.18), (2.4, 5.45)),
              ("surface", (4.525, 2.27), (5.15, 2.27), (5.15, 0.95), (5.56, 0.95)),
              ("texture", (4.525, 2.55), (5.56, 2.55)),
              ("structure", (4.525, 2.7), (5.2, 2.7), (5.2, 4.1), (5.56, 4.1)),
              # The structure loss compares the output with its own superpixel version: both enter the network.
              ("structure", (4.525, 2.84), (5.02, 2.84), (5.02, 4.93), (6.83, 4.93), (6.83, 4.3), (7.35, 4.3)),
              ("total_variation", (4.525, 2.97), (4.84, 2.97), (4.84, 5.65), (8.58, 5.65))]  # fmt: skip
    for name, x, way in (("photo", 0.75, 1), ("output", 4.05, -1)):
        image, left = _images(images[name], name)[0], x - 0.475
        _image(ax, image, left, 2.075, 0.95)
        _image(ax, image, left, 0.475, 0.95, images[f"{name}_points"][0])
        _text(ax, x, 3.195, name.capitalize(), 9.5, weight="bold")
        _text(ax, x, 0.315, f"{name.capitalize()} landmarks")
        end, inner, outer = 2.4 - way * 0.62, x + way * 0.38, x - way * 0.38
        arrows += [("landmark", (x, 2.075), (x, 1.44)), ("landmark", (x + way * 0.475, 0.95), (end, 0.95)),
                   ("color", (inner, 3.025), (inner, 3.95), (end, 3.95)),
                   ("content", (outer, 3.025), (outer, 4.72), (end, 4.72))]  # fmt: skip
    for name, y in rows.items():
        arrows += [(name, (6.525, y), (7.35, y)), (name, (8.15, y), (8.58, y))]
        _image(ax, _images(images[name], name)[0], 5.575, y - 0.475, 0.95)
        _text(ax, 6.05, y + 0.645, name.capitalize())
        heights = np.array([0.95, 0.78, 0.62, 0.48, 0.36])
        ax.bar(7.45 + 0.15 * np.arange(5), heights, 0.1, y - heights / 2, color=COLORS[name])
        judge = f"{name.capitalize()} discriminator\n{networks.get(f'd_{name}', 0):,} parameters"
        _text(ax, 7.75, y + 0.735, frozen if name == "structure" else judge, va="center")
    heights, widths = np.array([1.1, 0.8, 0.5, 0.5, 0.8, 1.1]), np.array([1.1, 0.85, 0.65, 0.5])
    ax.bar(2.025 + 0.15 * np.arange(6), heights, 0.1, 2.55 - heights / 2, color=COLORS["generator"])
    ax.barh(4.655 + 0.15 * np.arange(4), widths, 0.1, 2.4 - widths / 2, color=COLORS["content"])
    _text(ax, 2.4, 3.37, f"Generator\n{networks['generator']:,} parameters", va="center")
    _text(ax, 3.5, 5.02, frozen, va="center")
    _text(ax, 2.4, 4.28, "local mean colours", 8.5, color=MUTED)
    _text(ax, 6.7, 5.51, "differences of neighbouring pixels", 8.5, color=MUTED)
    for color, *corners in arrows:
        _arrow(ax, *corners, color=COLORS[color])
    boxes = {"landmark": (2.4, 0.95), "color": (2.4, 3.95), "content": (2.4, 5.65), "total_variation": (9.2, 5.65)}
    for name, (x, y) in (boxes | {name: (9.2, y) for name, y in rows.items()}).items():
        sign = "tv" if name == "total_variation" else name
        _box(ax, x, y, rf"$\mathcal{{L}}_{{\mathrm{{{sign}}}}}$", COLORS[name], 1.2, 13)
    return figure


def convolution_label(*layers: nn.Conv2d) -> str:
    """k3n64s2: a 3x3 kernel, 64 channels out, stride 2; one line for each kind among the layers."""
    counts = Counter(f"k{layer.kernel_size[0]}n{layer.out_channels}s{layer.stride[0]}" for layer in layers)
    return "\n".join(label if count == 1 else f"{count} × {label}" for label, count in counts.items())


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def _architecture(ax: plt.Axes, network: nn.Module, stages: dict, color: str, dead: tuple = ()) -> dict[str, list]:
    """Draw stages in a row: a bar a convolution, as high as its resolution and as wide as its channels.

    A stage is a list of convolutions, or the label of a picture or operation without parameters; one whose name starts
    with `up` doubles the resolution after its first convolution. Returns name -> (left, right, half height) of bars.
    """
    _text(ax, 0.2, 0.3, type(network).__name__, 12, ha="left", weight="bold")
    about = "A bar is a convolution, as high as its resolution, as wide as its channels, dark if its stride is above 1."
    _text(ax, 0.2, 0.55, f"{count_parameters(network):,} parameters. {about}", ha="left", color=MUTED)
    layers = {name: [None] if isinstance(stage, str) else stage for name, stage in stages.items()}
    widths = {name: [0.05 + 0.0013 * c.out_channels if c else 0.08 for c in row] for name, row in layers.items()}
    gaps = {name: 0.24 if name.startswith("up") else 0.07 for name in stages}
    inner = {name: sum(row) + gaps[name] * (len(row) - 1) for name, row in widths.items()}
    slots = {name: max(0.62 if isinstance(stages[name], str) else 0.7, width) for name, width in inner.items()}
    space = (WIDTH - 0.24 - sum(slots.values())) / (len(slots) - 1)
    level, x, end, bars = 1.0, 0.12, 0.0, {}
    for name, stage in stages.items():
        center, bars[name] = x + slots[name] / 2, []
        left = center - inner[name] / 2
        if end:
            _arrow(ax, (end + 0.02, 2.0), (left - 0.02, 2.0))
        for i, (layer, width) in enumerate(zip(layers[name], widths[name])):
            stride = layer.stride[0] if layer else 1
            level *= (2 if name.startswith("up") and i == 1 else 1) / stride
            style = {"fc": color if layer else INK, "alpha": 1 if stride > 1 else 0.65}
            style = {"fc": "none", "ec": RULE, "ls": "--"} if layer in dead else style
            ax.add_patch(plt.Rectangle((left, 2.0 - 0.8 * level), width, 1.6 * level, **style))
            bars[name].append((left, left + width, 0.8 * level))
            end = end if layer in dead else left + width
            left += width + gaps[name]
        _text(ax, center, 1.1, stage if isinstance(stage, str) else convolution_label(*stage), 8, va="bottom")
        _text(ax, center, 3.3, name, weight="bold")
        size = "H × W" if level == 1 else "H/{0:g} × W/{0:g}".format(1 / level)
        count = "" if isinstance(stage, str) else f"{sum(map(count_parameters, stage)):,}"
        _text(ax, center, 3.6, f"{size}\n{count}", 8, color=MUTED, va="center")
        x += slots[name] + space
    return bars


def _chain(ax: plt.Axes, y: float, title: str, boxes: list[str], plus: int = 0) -> None:
    """Boxes joined by arrows; after `plus` of them something is added."""
    _text(ax, 0.2, y, title, ha="left", weight="bold")
    for i, text in enumerate(boxes):
        x = 2.1 + 1.68 * i
        _arrow(ax, (x - 1.03, y), (x - 0.67, y))
        _box(ax, x, y, text, COLORS["generator"] if text.startswith("k") else INK, 1.3, 8.5, 0.14)
    _arrow(ax, (x + 0.65, y), (x + (1.2 if plus == len(boxes) else 1.02), y))
    if plus:
        ax.plot(1.21 + 1.68 * plus, y, marker="$⊕$", ms=13, mew=0, color=MUTED)


@styled
def generator_architecture(generator: Generator) -> plt.Figure:
    """The generator, with every label, skip and count read off the module."""
    g, red = generator, COLORS["generator"]
    stages = {"photo": "", "head": [g.head], "down 1": [*g.down1], "down 2": [*g.down2],
              f"{len(g.blocks)} residual blocks": _convolutions(g.blocks), "up 1": [*g.up1], "up 2": [*g.up2],
              "tail": [g.tail], **({"tanh": ""} if g.tanh else {}), "filter": f"guided\nε = {g.filter_eps:g}",
              "cartoon": ""}  # fmt: skip
    figure, ax = _canvas(WIDTH, 6.3)
    bars = _architecture(ax, g, stages, red, () if g.skips else (g.up1[1], g.up2[1]))
    color, dash, word = (red, "-", "skip") if g.skips else (RULE, "--", "skip (unused)")
    for source, target, y in (("head", "up 2", 2.98), ("down 1", "up 1", 2.64)):
        (left, right, half), stop = bars[source][-1], (bars[target][0][1] + bars[target][1][0]) / 2
        start = (left + right) / 2
        _arrow(ax, (start, 2 + half), (start, y), (stop, y), (stop, 2.08), color=color, dash=dash)
        _text(ax, (start + stop) / 2, y - 0.09, word, 8, color=MUTED)
        ax.plot(stop, 2.0, marker="$⊕$" if g.skips else "", ms=13, mew=0, color=red)
    ax.plot([0.2, WIDTH - 0.2], [4.0, 4.0], color=RULE, lw=0.8)
    act = f"LeakyReLU {g.slope:g}"

    def pair(*layers: nn.Conv2d) -> str:
        return " / ".join(dict.fromkeys(map(convolution_label, layers)))

    _chain(ax, 4.4, "down 1 / 2", [pair(g.down1[0], g.down2[0]), act, pair(g.down1[1], g.down2[1]), act])
    _chain(ax, 5.15, "residual", [pair(*(b.conv1 for b in g.blocks)), act, pair(*(b.conv2 for b in g.blocks))], 3)
    _arrow(ax, (1.2, 5.15), (1.2, 4.82), (6.25, 4.82), (6.25, 5.07))
    second = [pair(g.up1[1], g.up2[1]), act] if g.skips else []
    _chain(ax, 5.9, "up 1 / 2", [pair(g.up1[0], g.up2[0]), act, "bilinear × 2", *second], 3 * g.skips)
    if g.skips:
        _arrow(ax, (6.25, 5.56), (6.25, 5.82), color=red)
        _text(ax, 6.35, 5.64, "skip", 8, ha="left", color=MUTED)
    return figure


@styled
def discriminator_architecture(d: PatchDiscriminator) -> plt.Figure:
    """A discriminator, with every label and count read off the module; a stage starts where the stride is above 1."""
    layers, field, jump = _convolutions(d), 1, 1  # field: px that one score sees, jump: px between scores
    inputs = layers[0].in_channels
    stages: dict = {"image": f"{inputs} channel{'s' * (inputs > 1)}"}
    for layer in layers:
        field, jump = field + (layer.kernel_size[0] - 1) * jump, jump * layer.stride[0]
        if layer is layers[-1]:
            stages["scores"] = []
        elif layer.stride[0] > 1 or len(stages) == 1:
            stages[f"stage {len(stages)}"] = []
        stages[list(stages)[-1]].append(layer)
    stages |= {"sigmoid": "" for module in d.modules() if isinstance(module, nn.Sigmoid)}
    figure, ax = _canvas(WIDTH, 4.45)
    _architecture(ax, d, stages, COLORS["texture" if inputs == 1 else "surface"])
    slope = next(module.negative_slope for module in d.modules() if isinstance(module, nn.LeakyReLU))
    normed = "spectrally normalised " * all(hasattr(layer, "parametrizations") for layer in layers)
    facts = f"{len(layers)} {normed}convolutions with LeakyReLU {slope:g} between them."
    facts += f" A score judges {field} × {field} px; there is one for every {jump} × {jump} px."
    _text(ax, 0.2, 4.15, facts, ha="left", color=MUTED)
    return figure


@styled
def loss_curves(logs: dict[str, list[dict]], keys: list[str]) -> plt.Figure:
    """A panel a loss, a line a run (title -> log rows with `step`); pale: as logged, full: moving average."""
    if not any(key in row for rows in logs.values() for row in rows for key in keys):
        raise InputError(f"The logs have none of the losses {', '.join(keys)}: train first, or name others.")
    across, down = min(4, len(keys)), -(-len(keys) // 4)
    figure, panels = _panels(max(4, 2.5 * across), 1.75 * down + 0.5, down, across, sharex=True)
    colors = [_color(title) for title in logs]
    colors = colors if len({*colors}) == len(logs) else [f"C{i}" for i in range(len(logs))]
    for ax, key in zip(panels, keys):
        for color, (title, rows) in zip([_color(key)] if len(logs) == 1 else colors, logs.items()):
            steps, values = np.array([(row["step"], row[key]) for row in rows if key in row]).reshape(-1, 2).T
            window = max(1, len(values) // 25)
            ax.plot(steps, values, color=color, lw=0.8, alpha=0.3)
            mean = [values[max(0, i - window):i + window + 1].mean() for i in range(len(values))]
            ax.plot(steps, mean, color=color, label=title)
        if key.startswith("d_"):
            ax.axhline(0.25, color=MUTED, lw=1, ls="--", zorder=1)
            place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            ax.text(1, 0.253, "cannot tell", fontsize=8, color=MUTED, **place)
        ax.set_title(key.replace("d_", "discriminator: ").replace("_", " ").replace("color", "colour"))
        ax.set_ylim(0, max(0.29, ax.get_ylim()[1]) if key.startswith("d_") else None)
    for i, ax in enumerate(panels):
        ax.set_visible(i < len(keys))
        ax.tick_params(labelbottom=i + across >= len(keys))
    figure.supxlabel("step", fontsize=9)
    if len(logs) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(logs)))
    return figure


def _measured(rows: list[dict], metric: str) -> tuple[dict[tuple, dict], str]:
    """(style, variant, steps, seed) -> row of one metric; and its title with the networks that made its features."""
    if missing := [key for key in ROW if any(key not in row for row in rows)]:
        raise InputError(f"Some measurements lack {', '.join(missing)}: measure them again.")
    found = {tuple(row[key] for key in ROW[:4]): row for row in rows if row["metric"] == metric}
    if not found:
        known = ", ".join(sorted({row["metric"] for row in rows}))
        raise InputError(f"No `{metric}` was measured: choose one of {known or 'what you measure first'}.")
    features = ", ".join(dict.fromkeys(row["features"] for row in found.values() if row["features"]))
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


def table_markdown(rows: list[dict], metrics: list[str]) -> str:
    """A markdown table: a line a variant, and in each metric's column value [low, high]."""
    found, titles = zip(*(_measured(rows, metric) for metric in metrics))
    keys = list(dict.fromkeys(key for column in found for key in column))
    shown = [i for i in range(4) if i == 1 or len({key[i] for key in keys}) > 1]  # what all lines share is left out

    def cell(row: dict | None) -> str:
        value, low, high = (np.format_float_positional(row[k], 3, False, False, "-") if row else "" for k in ROW[-3:])
        return f"{value} [{low}, {high}]" if row else ""

    lines = [[ROW[i] for i in shown] + list(titles), ["---"] * len(shown) + ["---:"] * len(titles)]
    lines += [[str(key[i]) for i in shown] + [cell(column.get(key)) for column in found] for key in keys]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
