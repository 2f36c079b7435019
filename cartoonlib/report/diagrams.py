"""The three diagrams of the method, drawn from the modules themselves: pipeline, generator, discriminators.

Labels, skips and parameter counts are read off the layers, so that a diagram cannot say what the code does not do.
"""

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import yaml
from torch import nn

from ..files import InputError
from ..networks import Generator, PatchDiscriminator, count_parameters
from ..profile import Profile
from .paper import COLORS, INK, MUTED, RULE, WIDTH, arrow, box, canvas, checked, label, picture, styled
from .render import rendered


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
    need = "photo target output cartoon surface texture structure real_surface real_texture photo_points output_points"
    need += " generator d_surface d_texture second_head perceptual"
    if missing := {*need.split()} - {*images, *networks}:
        raise InputError(f"The pipeline figure lacks {', '.join(sorted(missing))}: add it to its dicts.")
    figure, ax = canvas(WIDTH, 7.1)
    layout = yaml.safe_load(rendered("pipeline.yaml.j2", {**networks, "muted": MUTED}))
    for name, left, top, *points in layout["pictures"]:
        picture(ax, checked(images[name], name)[0], left, top, 0.95, *(images[on_it][0] for on_it in points))
    for color, x, y, *heights in layout["columns"]:
        ax.bar(x + 0.15 * np.arange(len(heights)), heights, 0.1, y - np.divide(heights, 2), color=COLORS[color])
    for color, x, y, pitch, *widths in layout["funnels"]:
        ax.barh(y + pitch * np.arange(len(widths)), widths, 0.1, x - np.divide(widths, 2), color=COLORS[color])
    for text in layout["labels"]:
        label(ax, **text)
    for color, *corners in layout["arrows"]:
        arrow(ax, *corners, color=COLORS[color])
    for color, x, y, text, width, size in layout["boxes"]:
        box(ax, x, y, text, COLORS[color], width, size)
    return figure


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
    stages |= {"tanh": ""} if g.tanh else {}
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
        arrow(ax, (6.25, 5.56), (6.25, 5.82), color=red)
        label(ax, 6.35, 5.64, "skip", 8, ha="left", color=MUTED)
    _chain(ax, 5.9, "up 1 / 2", up, 3 if g.skips else 0)
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
