"""Generators for phones: TFLite, which LiteRT runs, of one picture of SIDE x SIDE px, channels last."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..files import InputError
from ..networks import Generator
from .onnx import write_checked

SIDE = 512  # px: such a model has one size


class _ChannelsLast(nn.Module):
    """The cartoon of a photo, both (1, H, W, 3), as phones keep pictures."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, photo: Tensor) -> dict[str, Tensor]:
        filtered = self.generator.filter_radius > 0  # of radius 0 it changes nothing, and takes time
        return {"cartoon": self.generator(photo.permute(0, 3, 1, 2), filtered).permute(0, 2, 3, 1)}


def to_tflite(generator: Generator):
    """The generator as litert-torch's model: `photo` (1, SIDE, SIDE, 3) float32 RGB in [-1, 1] -> `cartoon`."""
    try:
        import litert_torch
    except ImportError as error:
        install = 'pip install ".[photos,tflite]", best in an environment of its own'
        raise InputError(f"TFLite needs litert-torch, which cannot be loaded ({error}): {install}.") from None
    photo = torch.zeros(1, SIDE, SIDE, 3)
    return litert_torch.convert(_ChannelsLast(generator).eval(), sample_kwargs={"photo": photo})


@torch.no_grad()
def export_tflite(generator: Generator, path: Path) -> float:
    """Write the generator as a TFLite file, as export_onnx does; the largest difference on noise, by LiteRT."""
    model, random = to_tflite(generator), np.random.default_rng(0)
    photo = random.uniform(-1, 1, (1, SIDE, SIDE, 3)).astype(np.float32)
    drawn = generator(torch.from_numpy(photo).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return write_checked(path, model.model_content(), [torch.from_numpy(model(photo=photo)["cartoon"]) - drawn])
