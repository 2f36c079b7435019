"""The networks that are trained: one generator and two discriminators.

Notation of the figures: k3n64s2 is a 3x3 convolution with 64 output channels and stride 2.
"""

import json
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .files import write_atomic
from .representations import guided_filter


def _convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, slope: float = 0.2, padding: str = "zeros"
) -> nn.Conv2d:
    """A convolution that keeps the variance through a LeakyReLU (He et al. 2015), as there is no normalisation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode=padding)
    nn.init.kaiming_normal_(layer.weight, a=slope)
    nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x))), both k3 with the same number of channels."""

    def __init__(self, channels: int, slope: float, padding: str):
        super().__init__()
        self.conv1 = _convolution(channels, channels, slope=slope, padding=padding)
        self.conv2 = _convolution(channels, channels, slope=slope, padding=padding)
        nn.init.normal_(self.conv2.weight, std=1e-3)  # four blocks start near the identity and do not add up
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x), self.slope))


class Generator(nn.Module):
    """Photo to cartoon: a U-Net with two scales, 4 residual blocks and additive skips (White-box, appendix).

    `forward` returns the cartoon, `guided_filter(photo, unfiltered(photo), filter_radius, filter_eps)`; images are
    (B, 3, H, W) RGB in [-1, 1] of any height and width. The output is linear, as in White-box, so that it can leave
    [-1, 1] slightly. There is no instance normalisation (the original's figure has it): its statistics run over the
    whole image, so that a tile or another size would change the colours.

    Args:
        slope: negative slope of the LeakyReLUs. White-box 0.2, original 0.01.
        tanh: end in a tanh as the original does.
        skips: False rebuilds the original's defect: the skips and the second convolutions of both up-sampling blocks
            exist, but nothing flows through them, so 46,176 parameters are dead.
        filter_eps: eps of the guided filter on [-1, 1] images. White-box 1e-2, original 1e-1.
        filter_radius: of that filter, in px; 1, as White-box's and the original's. 0 leaves the output as it is.
        padding: of the convolutions. `replicate` continues the image; `zeros`, White-box's and the original's, tell
            where the border is, and faint lines grow along it.
    """

    MULTIPLE = 4  # two halvings

    def __init__(
        self, slope: float = 0.2, tanh: bool = False, skips: bool = True, filter_eps: float = 1e-2,
        filter_radius: int = 1, padding: str = "replicate",
    ):  # fmt: skip
        super().__init__()
        self.slope, self.tanh, self.skips, self.padding = slope, tanh, skips, padding
        self.filter_eps, self.filter_radius = filter_eps, filter_radius
        conv = partial(_convolution, slope=slope, padding=padding)
        self.head = conv(3, 32, kernel=7)  # (B, 32, H, W)
        self.down1 = nn.ModuleList([conv(32, 32, stride=2), conv(32, 64)])
        self.down2 = nn.ModuleList([conv(64, 64, stride=2), conv(64, 128)])
        self.blocks = nn.Sequential(*(ResidualBlock(128, slope, padding) for _ in range(4)))  # (B, 128, H/4, W/4)
        self.up1 = nn.ModuleList([conv(128, 64), conv(64, 64)])
        self.up2 = nn.ModuleList([conv(64, 32), conv(32, 32)])
        self.tail = conv(32, 3, kernel=7, slope=1.0)
        nn.init.normal_(self.tail.weight, std=1e-2)

    def settings(self) -> dict:
        """The arguments that build this architecture."""
        return {name: getattr(self, name) for name in "slope tanh skips filter_eps filter_radius padding".split()}

    def _act(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def _up(self, convolutions: nn.ModuleList, x: Tensor, skip: Tensor) -> Tensor:
        x = self._act(convolutions[0](x))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self._act(convolutions[1](x + skip)) if self.skips else x

    def unfiltered(self, photo: Tensor) -> Tensor:
        """The U-Net alone, before the guided filter: (B, 3, H, W) -> (B, 3, H, W)."""
        height, width = photo.shape[-2:]
        padding = (0, -width % self.MULTIPLE, 0, -height % self.MULTIPLE)
        x = F.pad(photo, padding, mode="replicate") if any(padding) else photo
        full = self._act(self.head(x))  # (B, 32, H, W)
        half = self._act(self.down1[1](self._act(self.down1[0](full))))  # (B, 64, H/2, W/2)
        quarter = self._act(self.down2[1](self._act(self.down2[0](half))))  # (B, 128, H/4, W/4)
        x = self._up(self.up1, self.blocks(quarter), half)
        x = self._up(self.up2, x, full)
        x = self.tail(x)[..., :height, :width]
        return torch.tanh(x) if self.tanh else x

    def forward(self, photo: Tensor, filtered: bool = True) -> Tensor:
        output = self.unfiltered(photo)
        return guided_filter(photo, output, self.filter_radius, self.filter_eps) if filtered else output


class PatchDiscriminator(nn.Module):
    """Cartoon or generated, patch by patch: spectrally normalised convolutions (White-box, appendix).

    (B, C, H, W) in [-1, 1] -> (B, 1, H/8, W/8) scores for the least-squares loss, hence no sigmoid. No instance
    normalisation either (the original's figure has it): it would hide the very colours that the surface branch judges.

    Args:
        channels: 3 for the surface representation, 1 for the texture representation.
        sigmoid: end in a sigmoid as the original does; under least squares its gradient vanishes at both ends.
        features: channels of frozen features at 1/4 of the size that it sees beside the image, (B, F, H/4, W/4). A
            second head judges them (Sauer et al. 2021, "Projected GANs Converge Faster"), and the scores of both come
            back as (B, about 2 H/8 W/8): strokes and shading need not be learned from nothing. Not in the paper.
    """

    def __init__(self, channels: int, slope: float = 0.2, sigmoid: bool = False, features: int = 0):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 32), (32, 64), (64, 128)):
            for stride in (2, 1):
                layer = spectral_norm(_convolution(inputs, outputs, stride=stride, slope=slope))
                layers, inputs = [*layers, layer, nn.LeakyReLU(slope)], outputs
        layers.append(spectral_norm(_convolution(128, 1, kernel=1, slope=1.0)))
        if sigmoid:
            layers.append(nn.Sigmoid())
        self.layers = nn.Sequential(*layers)
        self.feature_layers = None
        if features:
            self.feature_layers = nn.Sequential(
                spectral_norm(_convolution(features, 128, kernel=1, slope=slope)),
                nn.LeakyReLU(slope),
                spectral_norm(_convolution(128, 128, stride=2, slope=slope)),
                nn.LeakyReLU(slope),
                spectral_norm(_convolution(128, 1, kernel=1, slope=1.0)),
                *([nn.Sigmoid()] if sigmoid else []),
            )

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        scores = self.layers(x)
        if self.feature_layers is None:
            return scores
        return torch.cat([scores.flatten(1), self.feature_layers(features).flatten(1)], dim=1)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def save_generator(generator: Generator, path: Path, **about: str) -> None:
    """Write weights and architecture as safetensors; `about` is text kept in the header."""
    # One entry, because safetensors writes several in random order and equal runs should give equal files.
    metadata = {"about": json.dumps({"architecture": generator.settings()} | about)}
    write_atomic(path, save({k: v.contiguous() for k, v in generator.state_dict().items()}, metadata))


def load_generator(path: Path) -> Generator:
    """The inverse of save_generator: a Generator in evaluation mode on the CPU. Nothing is unpickled."""
    with safe_open(path, framework="pt") as file:
        architecture = json.loads(file.metadata()["about"])["architecture"]
        older = {"padding": "zeros", "filter_radius": 1}  # what files that do not name these were made with
        generator = Generator(**older | architecture)
        generator.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
    return generator.eval().requires_grad_(False)
