"""Vector faces, drawn from seeds by DiceBear: cartoons that come out of a package."""

import colorsys
import io
import json
import random
import re
from collections.abc import Iterator
from functools import partial
from importlib import resources

import numpy as np
from PIL import Image

from .catalogue import RawImage, Source

EYE_LEVEL = 0.472  # height of the eyes in an aligned face, in units of its side (faces.CANONICAL)


def drawn_faces(source: Source, side: int) -> Iterator[RawImage]:
    """Seeded vector faces of one DiceBear style, framed like the aligned photos; the bytes are the SVG's."""
    from dicebear import Avatar, Style

    drawn = source.drawn
    definition = resources.files("dicebear_styles").joinpath(f"{drawn['style']}.json")
    style = Style(json.loads(definition.read_text(encoding="utf-8")))
    x, y, extent = drawn["view"]
    view = f'viewBox="{x - extent / 2:g} {y - EYE_LEVEL * extent:g} {extent:g} {extent:g}"'
    for index in range(drawn["count"]):
        seed = f"{source.name}-{index:04d}"
        svg = Avatar(style, {"seed": seed, **drawn["options"]}).to_string()
        svg = re.sub(r'viewBox="[^"]*"', view, svg, count=1)
        head, close, body = svg.partition("</metadata>")
        svg = head + close + _background(random.Random(seed), x, y, extent) + body
        yield RawImage(f"{seed}.svg", source.licence, svg.encode(), partial(_render, side=side))


def _background(rng: random.Random, x: float, y: float, extent: float) -> str:
    """A plain or softly graded square. Varied, or the generator would learn to paint the background one colour."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.95)
    change = rng.uniform(-0.25, 0.25) * rng.choice([0, 1])
    ends = []
    for sign in (-1, 1):
        level = min(1.0, max(0.2, value + sign * change))
        red, green, blue = colorsys.hsv_to_rgb(hue + sign * change / 6, saturation, level)
        ends.append(f"rgb({red:.1%},{green:.1%},{blue:.1%})")
    return (
        f'<linearGradient id="ground" gradientTransform="rotate({rng.randrange(0, 91)})">'
        f'<stop offset="0" stop-color="{ends[0]}"/><stop offset="1" stop-color="{ends[1]}"/></linearGradient>'
        f'<rect x="{x - extent}" y="{y - extent}" width="{2 * extent}" height="{2 * extent}" fill="url(#ground)"/>'
    )


def _render(svg: bytes, side: int) -> np.ndarray:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side, height=side, skip_system_fonts=True)
    return np.array(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
