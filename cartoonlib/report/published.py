"""The published weights of the losses, and ours, in one another's units."""

import numpy as np
import torch

from ..images import to_tensor
from ..profile import Profile

PUBLISHED_SIZE = 128  # px, of the original's images
# Published weights, as their code has them (see columns). TV is named variance there.
PUBLISHED = {
    "original": {"content": 300.0, "structure": 300.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
    "original README": {"content": 20.0, "structure": 0.6, "surface": 0.2, "texture": 5.0, "total_variation": 1e5},
    "White-box code": {"content": 200.0, "structure": 200.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
}


@torch.no_grad()
def feature_scale(perceptual: torch.nn.Module, photos: np.ndarray) -> tuple[int, float]:
    """(channels, mean size) of a perceptual network's features of photos, uint8 (N, S, S, 3)."""
    features = perceptual(to_tensor(photos))
    return features.shape[1], float(features.abs().mean())


def columns(profile: Profile, channels: int, magnitude: float) -> dict[str, dict[str, float]]:
    """Title -> loss -> weight: the published ones made scale-free, as ours are; and ours in the original's code.

    Their VGG and TV losses are means divided once more by C * H * W, so they hold for one size and network only: here
    for PUBLISHED_SIZE and a network with so many channels (512 for VGG19 conv4_4) at 1/8 of it. magnitude: mean
    |features| of photos, which our relative losses divide by; see feature_scale.
    """
    features, ours = magnitude / (channels * (PUBLISHED_SIZE // 8) ** 2), profile.weights.model_dump()
    factors = {"content": features, "structure": features, "surface": 1.0, "texture": 1.0}  # our weight over theirs
    factors["total_variation"] = 1 / (3 * PUBLISHED_SIZE**2)
    found = {title: {name: theirs[name] * factors[name] for name in theirs} for title, theirs in PUBLISHED.items()}
    if profile.edge_aware:  # a total variation that the photo's edges weigh is another loss than theirs, of squares
        del factors["total_variation"]
    return found | {"ours in the original's code": {name: ours[name] / factors[name] for name in factors}}
