"""The look of a style: what the structure start teaches the generator to draw. Not in the paper.

White-box's structure representation is already half a cartoon: flat regions with sharp borders. Drawn as below, after
Winnemoeller, Olsen & Gooch 2006, "Real-time video abstraction", it is a whole one, and a generator that starts from it
leaves to the discriminators what they are good at. A look is a few numbers, set by hand (profile.Look).
"""

import torch
from torch import Tensor

from .profile import Look
from .representations import guided_filter, luma
from .superpixels import smooth

FINE = 0.9  # px: width of the lines on eyes and mouth
# Of a line's darkness over the brightness around it: where ink begins, how much more of it is full ink; what is kept.
FAINT, FULL, DARKEST = 0.013, 0.036, 0.128
BROWN = (0.8, 0.2, -0.8)  # red, green and blue of a warm shadow over a neutral one, which is a little darker


@torch.no_grad()
def drawn(structure: Tensor, look: Look) -> Tensor:
    """The target of the structure start: (B, 4 or 6, H, W) -> (B, 3, H, W), in [-1, 1].

    structure: the photo in flat regions, where its eyes and mouth are, and of a look that has a `flow` coherent lines
    and where the face is (dataset.structures). Else lines are those of the flat picture; thin on lips and lids, where
    the photo's own shades stay.
    """
    flat, features = structure[:, :3], structure[:, 3:4] / 2 + 0.5
    if look.flow:
        lines, face = _inked((structure[:, 4:5] / 2 + 0.5) * DARKEST), structure[:, 5:6] / 2 + 0.5
    else:
        lines = features * _inked(_lines(flat, FINE)) + (1 - features) * _inked(_lines(flat, look.width))
        face = torch.zeros_like(features)
    light = (luma(flat) / 2 + 0.5).clamp(1e-3, 1)
    flat = (flat + 1) * (1 + 4 * look.lift * light * (1 - light)) - 1  # middle tones alone, so that blacks stay
    grey = luma(flat)
    flat = grey + (look.vivid - 0.4 * max(0.0, look.vivid - 1) * face) * (flat - grey)  # skin in full turns orange
    shadow = (1 - (luma(flat) / 2 + 0.5).clamp(0, 1)) ** 2 * (1 - 0.5 * face)
    tint = [2 * (look.shade + look.warmth * part) for part in BROWN]  # no tensor, which would be copied to the device
    flat = torch.cat([colour + part * shadow for colour, part in zip(flat.split(1, dim=1), tint)], dim=1)
    coloured = look.coloured + face * (1 - features) * max(0.0, 0.5 - look.coloured)  # black ages a face
    deep = coloured * (flat / 2 + 0.5).clamp(0, 1) ** 2.2 * 2 - 1
    return (flat + look.ink * lines * (deep - flat)).clamp(-1, 1)


def _inked(lines: Tensor) -> Tensor:
    return ((lines - FAINT) / FULL).clamp(0, 1)


def _lines(images: Tensor, width: float) -> Tensor:
    """How dark lines of a width in px are, over the brightness around them: (B, 3, H, W) -> (B, 1, H, W)."""
    grey = luma(guided_filter(images, images, 1, 1e-2)) / 2 + 0.5
    narrow = smooth(grey, width)
    wide = smooth(narrow, 1.25 * width)  # 1.6 widths in all
    return (wide - narrow) / (smooth(narrow, 3 * width) + 0.25)
