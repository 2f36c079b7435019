"""The published weights of the losses, and ours, in one another's units."""




PUBLISHED_SIZE = 128  # px, of the original's images
# Published weights, as their code has them (see scale_free_weights). TV is named variance there.
PUBLISHED = {
    "original": {"content": 300.0, "structure": 300.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
    "original README": {"content": 20.0, "structure": 0.6, "surface": 0.2, "texture": 5.0, "total_variation": 1e5},
    "White-box code": {"content": 200.0, "structure": 200.0, "surface": 0.1, "texture": 1.0, "total_variation": 1e4},
}


def _factors(size: int, channels: int, magnitude: float) -> dict[str, float]:
    return {
        "content": magnitude / (channels * (size // 8) ** 2),
        "structure": magnitude / (channels * (size // 8) ** 2),
        "surface": 1.0,
        "texture": 1.0,
        "total_variation": 1 / (3 * size**2),
    }


def scale_free_weights(published: dict[str, float], size: int, channels: int, magnitude: float) -> dict[str, float]:
    """Weights of the original's or White-box's code -> ours.

    Their VGG and TV losses are means divided once more by C * H * W, so they hold for one size and network only.

    Args:
        size: side of the images in px.
        channels: of the perceptual features (512 for VGG19 conv4_4), which are at 1/8 of the size.
        magnitude: mean |features| of photos, which our relative losses divide by.
    """
    factors = _factors(size, channels, magnitude)
    return {key: weight * factors[key] for key, weight in published.items()}


def published_weights(ours: dict[str, float], size: int, channels: int, magnitude: float) -> dict[str, float]:
    """The inverse of scale_free_weights: our weights -> numbers for the original's or White-box's code."""
    factors = _factors(size, channels, magnitude)
    return {key: weight / factors[key] for key, weight in ours.items() if key in factors}
