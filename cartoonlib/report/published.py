"""The published weights of the losses in the units of ours."""

import numpy as np
import torch
from torch import nn

from ..images import to_tensor
from ..profile import Look, Profile
from .tables import table

PUBLISHED_SIZE = 128  # px, of the original's images
# Published weights, as their code has them (see scale_free_weights). TV is named variance there.
PUBLISHED = {
    "original": {"content": 300.0, "structure": 300.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
    "original README": {"content": 20.0, "structure": 0.6, "surface": 0.2, "texture": 5.0, "total_variation": 1e5},
    "White-box code": {"content": 200.0, "structure": 200.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
}


def scale_free_weights(published: dict[str, float], size: int, channels: int, magnitude: float) -> dict[str, float]:
    """Weights of the original's or White-box's code -> ours.

    Their VGG and TV losses are means divided once more by C * H * W, so they hold for one size and network only.

    size: side of the images in px.  channels: of the perceptual features (512 for VGG19 conv4_4), at 1/8 of the size.
    magnitude: mean |features| of photos, which our relative losses divide by.
    """
    features = magnitude / (channels * (size // 8) ** 2)
    factors = {"content": features, "structure": features, "total_variation": 1 / (3 * size**2)}
    return {key: weight * factors.get(key, 1.0) for key, weight in published.items()}


@torch.no_grad()
def feature_scale(perceptual: nn.Module, photos: np.ndarray) -> tuple[int, float]:
    """(channels, mean size) of a perceptual network's features of photos, uint8 (N, S, S, 3)."""
    features = perceptual(to_tensor(photos))
    return features.shape[1], float(features.abs().mean())


def weights_markdown(profile: Profile, channels: int, magnitude: float) -> str:
    """A markdown table of a profile's weights beside the published ones, and what its styles set for training.

    The published weights are made scale-free with the profile's network, at the original's image size.
    channels, magnitude: see feature_scale.
    """
    ours, scale = profile.weights.model_dump(), (PUBLISHED_SIZE, channels, magnitude)
    columns = {name: scale_free_weights(theirs, *scale) for name, theirs in PUBLISHED.items()}
    lines = []
    for name, weight in ours.items():
        others = [f"{theirs[name]:.3g}" if name in theirs else "-" for theirs in columns.values()]
        lines.append([name, f"{weight:.2g}", *others])
    text = table(["loss", "this profile", *columns], lines)
    for style, own in profile.flat()["style_settings"].items():
        texts = [f"{key} {value:g}" for key, value in own.items() if key not in (*Look.model_fields, "start_steps")]
        text += f"\n\nFor `{style}`: {', '.join(texts)}." if texts else ""
    return text
