"""Generators for other runtimes: ONNX of any batch, height and width, with the guided filter in it."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import InputError, write_atomic
from ..networks import Generator
from ..representations import guided_filter

CHECKED = ((1, 16, 16), (1, 128, 128), (2, 128, 96), (1, 257, 131), (3, 33, 70))  # batch, height, width
TOLERANCE = 1e-3  # on [-1, 1]


class _AnySize(nn.Module):
    """Cartoon and unfiltered cartoon of a photo, with a padding that has no branch: a branch would fix the size."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor]:
        height, width = photo.shape[-2:]
        padded = F.pad(photo, (0, -width % Generator.MULTIPLE, 0, -height % Generator.MULTIPLE), mode="replicate")
        unfiltered = self.generator.unfiltered(padded)[..., :height, :width]
        return guided_filter(photo, unfiltered, self.generator.filter_radius, self.generator.filter_eps), unfiltered


class OnnxGenerator:
    """A generator that ONNX Runtime runs, of a file's content; cartoonize takes it like any other."""

    def __init__(self, model: bytes):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.filter_eps, self.filter_radius = float(about["filter_eps"]), int(about.get("filter_radius", 1))

    def _run(self, name: str, photo: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run([name], {"photo": photo.float().numpy()})[0])

    def unfiltered(self, photo: Tensor) -> Tensor:
        """Before the guided filter: (B, 3, H, W) in [-1, 1] -> the same."""
        return self._run("unfiltered", photo)

    def __call__(self, photo: Tensor) -> Tensor:
        return self._run("cartoon", photo)


def exported(network: nn.Module, example: Tensor, **names: list[str]):
    """A network of pictures (B, C, H, W), any B, H and W, as an onnx.ModelProto. names: see torch.onnx.export."""
    axes = {0: "batch", 2: "height", 3: "width"}
    return torch.onnx.export(network.eval(), (example,), dynamic_shapes=(axes,), verbose=False, **names).model_proto


def to_onnx(generator: Generator) -> bytes:
    """The generator as an ONNX model: `photo` (B, 3, H, W) float32 RGB in [-1, 1] -> `cartoon` and `unfiltered`."""
    names = {"input_names": ["photo"], "output_names": ["cartoon", "unfiltered"]}
    model = exported(_AnySize(generator), torch.zeros(2, 3, 34, 45), **names)
    for name in ("filter_eps", "filter_radius"):
        entry = model.metadata_props.add()
        entry.key, entry.value = name, repr(getattr(generator, name))
    return model.SerializeToString()


@torch.no_grad()
def export_onnx(generator: Generator, path: Path) -> float:
    """Write the generator as an ONNX file; the largest difference from PyTorch on noise of several sizes comes back.

    InputError, and no file, when that is more than TOLERANCE.
    """
    content = to_onnx(generator)
    other, random = OnnxGenerator(content), np.random.default_rng(0)
    differences = []
    for batch, height, width in CHECKED:
        photo = torch.from_numpy(random.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32))
        differences += [other(photo) - generator(photo), other.unfiltered(photo) - generator.unfiltered(photo)]
    return write_checked(path, content, differences)


def write_checked(path: Path, content: bytes, differences: list[Tensor]) -> float:
    """Write a model unless it differs from PyTorch by more than TOLERANCE; the largest difference comes back."""
    largest = torch.cat([difference.flatten() for difference in differences]).abs().max().item()  # NaN when one is
    if not largest < TOLERANCE:
        raise InputError(f"The exported model differs from PyTorch by {largest:.2g}, so it was not written.")
    write_atomic(path, content)
    return largest
