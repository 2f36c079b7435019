"""The three diagrams of the method, drawn from the modules themselves: pipeline, generator, discriminators.

Labels, skips and parameter counts are read off the layers, so that a diagram cannot say what the code does not do.
"""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from ..files import InputError
from ..networks import Generator, PatchDiscriminator, count_parameters
from ..profile import Profile
from .paper import COLORS, INK, MUTED, RULE, WIDTH, arrow, box, canvas, checked, label, picture, styled

# Of the pipeline, in inches: heights of the three branches, and (color, corners ...) of the arrows that stand alone.
BRANCHES = {"surface": 0.95, "texture": 3.65, "structure": 6.1}
JUDGES, REAL = 7.75, 9.2  # where the discriminators stand, and what they see of real cartoons
ARROWS = [
    ("generator", (1.225, 2.55), (1.94, 2.55)),
    ("generator", (2.84, 2.55), (3.56, 2.55)),
    # The target, which the generator learned to draw in its start, enters content, anchor and total variation.
    ("anchor", (0.75, 3.33), (0.75, 3.62)),
    ("anchor", (1.225, 3.95), (1.78, 3.95)),
    ("anchor", (3.67, 3.025), (3.67, 3.95), (3.02, 3.95)),
    ("content", (1.225, 4.4), (1.5, 4.4), (1.5, 4.72), (1.78, 4.72)),
    ("content", (4.43, 3.025), (4.43, 4.72), (3.02, 4.72)),
    ("content", (2.4, 5.18), (2.4, 5.45)),
    ("total_variation", (0.75, 5.12), (0.75, 6.6), (1.78, 6.6)),
    ("total_variation", (4.525, 2.97), (4.78, 2.97), (4.78, 6.6), (3.02, 6.6)),
    ("surface", (4.525, 2.27), (5.2, 2.27), (5.2, 0.95), (5.56, 0.95)),
    ("texture", (4.525, 2.55), (5.2, 2.55), (5.2, 3.65), (5.56, 3.65)),
    ("structure", (4.525, 2.7), (5.06, 2.7), (5.06, 6.1), (5.56, 6.1)),
    # The structure loss compares the output with its own superpixel version: both enter the network.
    ("structure", (4.525, 2.84), (4.92, 2.84), (4.92, 6.76), (6.83, 6.76), (6.83, 6.3), (7.35, 6.3)),
    ("structure", (6.525, 6.1), (7.35, 6.1)),
    ("structure", (8.15, 6.1), (8.58, 6.1)),
    # A real cartoon goes through the same filter and the same random grey.
    ("surface", (REAL, 1.725), (REAL, 1.45)),
    ("texture", (REAL, 2.97), (REAL, 3.15)),
]
LOSS_BOXES = {
    "landmark": (2.4, 0.95), "anchor": (2.4, 3.95), "content": (2.4, 5.65), "total_variation": (2.4, 6.6),
    "surface": (JUDGES, 1.78), "texture": (JUDGES, 4.45), "structure": (9.2, 6.1),
}  # fmt: skip


def pipeline_counts(generator: nn.Module, profile: Profile, perceptual: nn.Module) -> dict[str, int | str]:
    """For the pipeline figure: parameters of what is trained, name of what is frozen, channels for a second head."""
    seen = perceptual.early_channels if profile.texture_features else 0
    critics = {"d_surface": PatchDiscriminator(3), "d_texture": PatchDiscriminator(1, features=seen)}
    counts = {name: count_parameters(critic) for name, critic in critics.items()} | {"second_head": seen}
    return {"generator": sum(p.numel() for p in generator.parameters()), **counts, "perceptual": perceptual.name}


@styled
def pipeline(images: dict[str, np.ndarray], networks: dict[str, int | str]) -> plt.Figure:
    """How a photo becomes a cartoon, and what every loss compares.

    images: photo, target (see starts.target), output, cartoon (a real one, as it is judged), surface and texture of
    both as surface, texture, real_surface and real_texture, structure, and the landmarks photo_points and
    output_points; the first of each is shown.  networks: see pipeline_counts.
    """
    need = "photo target output cartoon real_surface real_texture photo_points output_points".split()
    need += "generator d_surface d_texture second_head perceptual".split()
    if missing := {*BRANCHES, *need} - {*images, *networks}:
        raise InputError(f"The pipeline figure lacks {', '.join(sorted(missing))}: add it to its dicts.")
    figure, ax = canvas(WIDTH, 7.1)
    frozen, arrows = f"{networks['perceptual']}\n(frozen)", list(ARROWS)
    for name, x, way in (("photo", 0.75, 1), ("output", 4.05, -1)):
        arrows += _face(ax, name, images, x, way)
    for name, y in BRANCHES.items():
        picture(ax, checked(images[name], name)[0], 5.575, y - 0.475, 0.95)
        label(ax, 6.05, y - 0.625, name.capitalize())
    for name, y in (("surface", 2.2), ("texture", 3.19)):
        label(ax, JUDGES, y, f"{name.capitalize()} discriminator\n{networks[f'd_{name}']:,} parameters", va="center")
        arrows += _judged(ax, name, checked(images[f"real_{name}"], f"real_{name}")[0])
    picture(ax, checked(images["cartoon"], "cartoon")[0], REAL - 0.475, 1.725, 0.95)
    label(ax, REAL, 2.865, "Cartoon", 9.5, weight="bold")
    if networks["second_head"]:
        arrows += _second_head(ax)
    heights = np.array([1.1, 0.8, 0.5, 0.5, 0.8, 1.1])
    ax.bar(2.025 + 0.15 * np.arange(6), heights, 0.1, 2.55 - heights / 2, color=COLORS["generator"])
    heights = np.array([0.95, 0.78, 0.62, 0.48, 0.36])
    ax.bar(7.45 + 0.15 * np.arange(5), heights, 0.1, 6.1 - heights / 2, color=COLORS["structure"])
    _funnel(ax, 2.4, 4.655, "content")
    label(ax, 2.4, 3.37, f"Generator\n{networks['generator']:,} parameters", va="center")
    label(ax, 3.5, 5.02, frozen, va="center")
    label(ax, 7.75, 6.76, frozen, va="center")
    picture(ax, checked(images["target"], "target")[0], 0.275, 3.645, 0.95)
    label(ax, 0.75, 4.77, "Target", 9.5, weight="bold")
    label(ax, 0.75, 4.97, "flat regions, drawn", 8.5, color=MUTED)
    label(ax, 2.4, 4.28, "colours and lines", 8.5, color=MUTED)
    label(ax, 2.4, 6.93, "neighbouring pixels, priced by the target", 8.5, color=MUTED)
    for color, *corners in arrows:
        arrow(ax, *corners, color=COLORS[color])
    for name, (x, y) in LOSS_BOXES.items():
        sign = "tv" if name == "total_variation" else name
        box(ax, x, y, rf"$\mathcal{{L}}_{{\mathrm{{{sign}}}}}$", COLORS[name], 1.2, 13)
    return figure


def _face(ax: plt.Axes, name: str, images: dict[str, np.ndarray], x: float, way: int) -> list[tuple]:
    """The photo (way 1: losses to its right) or the output (way -1), landmarks below; returns the arrows to losses."""
    image, left = checked(images[name], name)[0], x - 0.475
    picture(ax, image, left, 2.075, 0.95)
    picture(ax, image, left, 0.475, 0.95, images[f"{name}_points"][0])
    label(ax, x, 3.195, name.capitalize(), 9.5, weight="bold")
    label(ax, x, 0.315, f"{name.capitalize()} landmarks")
    return [
        ("landmark", (x, 2.075), (x, 1.44)),
        ("landmark", (x + way * 0.475, 0.95), (2.4 - way * 0.62, 0.95)),
    ]


def _funnel(ax: plt.Axes, x: float, y: float, color: str, pitch: float = 0.15, layers: int = 4) -> None:
    """A network that takes pictures from both sides: bars that become narrower, from y on downwards or upwards."""
    widths = np.array([1.1, 0.85, 0.65, 0.5])[:layers]
    ax.barh(y + pitch * np.arange(layers), widths, 0.1, x - widths / 2, color=COLORS[color])


def _judged(ax: plt.Axes, name: str, real: np.ndarray) -> list[tuple]:
    """A discriminator between the output's representation and a real cartoon's; returns the arrows to it and on."""
    y = BRANCHES[name]
    picture(ax, real, REAL - 0.475, y - 0.475, 0.95)
    _funnel(ax, JUDGES, y - 0.065, name)
    sides = (name, (6.525, y), (JUDGES - 0.62, y)), (name, (REAL - 0.475, y), (JUDGES + 0.62, y))
    return [*sides, (name, (JUDGES, y + 0.46), (JUDGES, y + 0.63))]


def _second_head(ax: plt.Axes) -> list[tuple]:
    """Of the texture discriminator, below it: frozen features of both pictures enter it; returns the arrows."""
    _funnel(ax, JUDGES, 5.2, "texture", -0.15, 3)
    label(ax, JUDGES, 5.42, "second head, on frozen features", 8.5, color=MUTED)
    arrows = [("texture", (JUDGES, 4.83), (JUDGES, 4.65))]
    for x, way in ((6.05, 1), (REAL, -1)):
        box(ax, JUDGES - way, 5.14, "φ", COLORS["content"], 0.5)
        arrows.append(("texture", (x, 4.125), (x, 5.14), (JUDGES - 1.27 * way, 5.14)))
        arrows.append(("texture", (JUDGES - 0.73 * way, 5.14), (JUDGES - 0.58 * way, 5.14)))
    return arrows


def convolution_label(*layers: nn.Conv2d) -> str:
    """k3n64s2: a 3x3 kernel, 64 channels out, stride 2; one line for each kind among the layers."""
    counts = Counter(f"k{layer.kernel_size[0]}n{layer.out_channels}s{layer.stride[0]}" for layer in layers)
    return "\n".join(label if count == 1 else f"{count} × {label}" for label, count in counts.items())


def _labels(*layers: nn.Conv2d) -> str:
    """The labels of layers, equal ones once: k3n64s1 / k3n32s1."""
    return " / ".join(dict.fromkeys(map(convolution_label, layers)))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def _architecture(ax: plt.Axes, network: nn.Module, stages: dict, color: str, dead: tuple = ()) -> dict[str, list]:
    """Draw stages in a row: a bar a convolution, as high as its resolution and as wide as its channels.

    A stage is a list of convolutions, or the label of a picture or operation without parameters; one whose name starts
    with `up` doubles the resolution after its first convolution. Returns name -> (left, right, half height) of bars.
    """
    label(ax, 0.2, 0.3, type(network).__name__, 12, ha="left", weight="bold")
    about = "A bar is a convolution, as high as its resolution, as wide as its channels, dark if its stride is above 1."
    label(ax, 0.2, 0.55, f"{count_parameters(network):,} parameters. {about}", ha="left", color=MUTED)
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
            arrow(ax, (end + 0.02, 2.0), (left - 0.02, 2.0))
        for i, (layer, width) in enumerate(zip(layers[name], widths[name])):
            stride = layer.stride[0] if layer else 1
            level *= (2 if name.startswith("up") and i == 1 else 1) / stride
            style = {"fc": color if layer else INK, "alpha": 1 if stride > 1 else 0.65}
            style = {"fc": "none", "ec": RULE, "ls": "--"} if layer in dead else style
            ax.add_patch(plt.Rectangle((left, 2.0 - 0.8 * level), width, 1.6 * level, **style))
            bars[name].append((left, left + width, 0.8 * level))
            end = end if layer in dead else left + width
            left += width + gaps[name]
        label(ax, center, 1.1, stage if isinstance(stage, str) else convolution_label(*stage), 8, va="bottom")
        label(ax, center, 3.3, name, weight="bold")
        size = "H × W" if level == 1 else "H/{0:g} × W/{0:g}".format(1 / level)
        count = "" if isinstance(stage, str) else f"{sum(map(count_parameters, stage)):,}"
        label(ax, center, 3.6, f"{size}\n{count}", 8, color=MUTED, va="center")
        x += slots[name] + space
    return bars


def _chain(ax: plt.Axes, y: float, title: str, boxes: list[str], plus: int = 0, color: str = "generator") -> None:
    """Boxes joined by arrows, under a title on the left; a plus sign after `plus` of them, none for 0."""
    label(ax, 0.2, y, title, ha="left", weight="bold")
    for i, text in enumerate(boxes):
        x = 2.1 + 1.68 * i
        arrow(ax, (x - 1.03, y), (x - 0.67, y))
        box(ax, x, y, text, COLORS[color] if text.startswith("k") else INK, 1.3, 8.5, 0.14)
    arrow(ax, (x + 0.65, y), (x + (1.2 if plus == len(boxes) else 1.02), y))
    if plus:
        ax.plot(1.21 + 1.68 * plus, y, marker="$⊕$", ms=13, mew=0, color=MUTED)


@styled
def generator_architecture(generator: Generator) -> plt.Figure:
    """The generator above, its kinds of blocks below, with every label, skip and count read off the module."""
    g, red = generator, COLORS["generator"]
    stages = {"photo": "", "head": [g.head], "down 1": [*g.down1], "down 2": [*g.down2],
              f"{len(g.blocks)} residual blocks": _convolutions(g.blocks), "up 1": [*g.up1], "up 2": [*g.up2],
              "tail": [g.tail]}  # fmt: skip
    if g.tanh:
        stages["tanh"] = ""
    stages |= {"filter": f"guided\nr = {g.filter_radius}\nε = {g.filter_eps:g}", "cartoon": ""}
    figure, ax = canvas(WIDTH, 6.3)
    bars = _architecture(ax, g, stages, red, () if g.skips else (g.up1[1], g.up2[1]))
    color, dash, word = (red, "-", "skip") if g.skips else (RULE, "--", "skip (unused)")
    for source, target, y in (("head", "up 2", 2.98), ("down 1", "up 1", 2.64)):
        (left, right, half), stop = bars[source][-1], (bars[target][0][1] + bars[target][1][0]) / 2
        start = (left + right) / 2
        arrow(ax, (start, 2 + half), (start, y), (stop, y), (stop, 2.08), color=color, dash=dash)
        label(ax, (start + stop) / 2, y - 0.09, word, 8, color=MUTED)
        ax.plot(stop, 2.0, marker="$⊕$" if g.skips else "", ms=13, mew=0, color=red)
    ax.plot([0.2, WIDTH - 0.2], [4.0, 4.0], color=RULE, lw=0.8)
    act = f"LeakyReLU {g.slope:g}"
    _chain(ax, 4.4, "down 1 / 2", [_labels(g.down1[0], g.down2[0]), act, _labels(g.down1[1], g.down2[1]), act])
    _chain(ax, 5.15, "residual", [_labels(*(b.conv1 for b in g.blocks)), act, _labels(*(b.conv2 for b in g.blocks))], 3)
    arrow(ax, (1.2, 5.15), (1.2, 4.82), (6.25, 4.82), (6.25, 5.07))
    up = [_labels(g.up1[0], g.up2[0]), act, "bilinear × 2"]
    if g.skips:
        up += [_labels(g.up1[1], g.up2[1]), act]
    _chain(ax, 5.9, "up 1 / 2", up, 3 if g.skips else 0)
    if g.skips:
        arrow(ax, (6.25, 5.56), (6.25, 5.82), color=red)
        label(ax, 6.35, 5.64, "skip", 8, ha="left", color=MUTED)
    return figure


@styled
def discriminator_architecture(d: PatchDiscriminator) -> plt.Figure:
    """A discriminator, with every label and count read off the module; a stage starts where the stride is above 1."""
    layers, field, jump = _convolutions(d.layers), 1, 1  # field: px that one score sees, jump: px between scores
    inputs = layers[0].in_channels
    stages: dict = {"image": f"{inputs} {'channels' if inputs > 1 else 'channel'}"}
    for layer in layers:
        field, jump = field + (layer.kernel_size[0] - 1) * jump, jump * layer.stride[0]
        if layer is layers[-1]:
            stages["scores"] = []
        elif layer.stride[0] > 1 or len(stages) == 1:
            stages[f"stage {len(stages)}"] = []
        stages[list(stages)[-1]].append(layer)
    stages |= {"sigmoid": "" for module in d.modules() if isinstance(module, nn.Sigmoid)}
    figure, ax = canvas(WIDTH, 5.3 if d.feature_layers else 4.45)
    _architecture(ax, d, stages, COLORS["texture" if inputs == 1 else "surface"])
    slope = next(module.negative_slope for module in d.modules() if isinstance(module, nn.LeakyReLU))
    normed = all(hasattr(layer, "parametrizations") for layer in layers)
    kind = "spectrally normalised convolutions" if normed else "convolutions"
    facts = f"{len(layers)} {kind} with LeakyReLU {slope:g} between them."
    facts += f" A score judges {field} × {field} px; there is one for every {jump} × {jump} px."
    label(ax, 0.2, 4.15, facts, ha="left", color=MUTED)
    if d.feature_layers:
        head = _convolutions(d.feature_layers)
        boxes = [text for layer in head for text in (convolution_label(layer), f"LeakyReLU {slope:g}")][:-1]
        _chain(ax, 4.65, "features", boxes, color="texture")
        seen = f"A second head judges {head[0].in_channels} features of the image by a frozen network, at H/4 × W/4."
        label(ax, 0.2, 5.05, seen, ha="left", color=MUTED)
    return figure
