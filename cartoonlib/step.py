"""One update of the networks: pretraining, and the adversarial step with all six losses (White-box section 3.4).

Lean on purpose: the frozen networks collect no gradients, photo and superpixel target go through the perceptual network
in one pass without a graph, the generator's output is computed once and used again, detached, for the discriminators,
convolutions run in bf16 where the hardware multiplies it, and nothing waits for the device.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.profiler import record_function

from . import features, landmarks, losses, representations
from .device import Graphed, frozen, keep_freed_memory, pick_dtype
from .networks import Generator, PatchDiscriminator
from .profile import Profile

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_generator(profile: Profile) -> Generator:
    """The untrained generator of a profile, the same weights for the same seed."""
    torch.manual_seed(profile.seed)
    p = profile
    return Generator(p.slope, p.tanh, p.skips, p.output_eps, p.output_radius, p.padding)


def _adam(rate: float, *modules: nn.Module, capturable: bool = False) -> torch.optim.Adam:
    """capturable: by a CUDA graph; the step counter then lives on the device."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.99), fused=True, capturable=capturable)


class PretrainStep:
    """Pixel L1 between G(photo), before the guided filter, and the photo (White-box section 4.1).

    `parts` holds everything that has a state. Calling it with photos (B, 3, S, S) in [-1, 1] updates the generator and
    returns the loss.
    """

    def __init__(self, profile: Profile, accelerator: "Accelerator"):
        self.device, self.dtype = accelerator.device, pick_dtype(profile, accelerator.device)
        keep_freed_memory()
        self.generator = build_generator(profile).to(self.device, memory_format=torch.channels_last)
        self.optimizer = _adam(profile.generator_rate, self.generator)
        self.parts = {"generator": self.generator, "optimizer": self.optimizer}
        self._generator = accelerator.prepare_model(self.generator)

    def __call__(self, photo: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self._generator(photo, filtered=False)
        loss = (output.float() - photo).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {"pixel_l1": loss.detach()}


class Views(NamedTuple):
    """What the discriminators see of a batch (White-box sections 3.1 and 3.3)."""

    surface: Tensor  # (B, 3, S, S)
    texture: Tensor  # (B, 1, S, S)
    features: Tensor | None  # frozen features of the texture, (B, F, S/4, S/4)


class TrainStep:
    """The generator on the six losses, then both discriminators (White-box section 3.4).

    `parts` holds everything that has a state: networks, the averaged generator `ema`, optimizers. Calling it with
    photos and cartoons, (B, 3, S, S) in [-1, 1] in channels_last, and the weights of the colour shift makes one update
    and returns the losses, scalars that stay on the device. On a GPU it is replayed as a CUDA graph, see device.py.

    Args:
        start: state dict of the pretrained generator; None starts from the untrained one.
        perceptual: a frozen network to be used instead of the profile's.
        progress: is told when a CUDA graph was wanted and cannot be had.
    """

    def __init__(
        self, profile: Profile, accelerator: "Accelerator", start: dict | None = None,
        perceptual: nn.Module | None = None, progress: Callable = print,
    ):  # fmt: skip
        p, device = profile, accelerator.device
        keep_freed_memory()
        self.profile, self.device, self.dtype = p, device, pick_dtype(p, device)
        self.perceptual = frozen(perceptual or features.PERCEPTUAL[p.perceptual](), device, self.dtype)
        self.landmark_network = landmarks.landmark_network(p.landmarks).to(device)
        self.generator = build_generator(p)
        self.d_surface = PatchDiscriminator(3, p.slope, p.sigmoid)
        seen = self.perceptual.early_channels if p.texture_features else 0
        self.d_texture = PatchDiscriminator(1, p.slope, p.sigmoid, seen)
        if start is not None:
            self.generator.load_state_dict(start)
        for network in (self.generator, self.d_surface, self.d_texture):
            network.to(device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        self._average = get_ema_multi_avg_fn(p.ema)
        graphed = self._can_graph(accelerator, progress)
        self.g_optimizer = _adam(p.generator_rate, self.generator, capturable=graphed)
        self.d_optimizer = _adam(p.discriminator_rate, self.d_surface, self.d_texture, capturable=graphed)
        names = ("generator", "d_surface", "d_texture", "ema", "g_optimizer", "d_optimizer")
        self.parts = {name: getattr(self, name) for name in names}
        # Under several processes these average the gradients in backward(); the plain networks do not.
        self._generator, self._d_surface, self._d_texture = (
            accelerator.prepare_model(network) for network in (self.generator, self.d_surface, self.d_texture)
        )
        self._graphed = Graphed(progress) if graphed else None

    def __call__(self, *batch: Tensor) -> dict[str, Tensor]:
        return self._graphed(self._update, *batch) if self._graphed else self._update(*batch)

    @property
    def execution(self) -> str:
        """How steps are run: "eager" or "CUDA graph"."""
        return "CUDA graph" if self._graphed and self._graphed.recorded else "eager"

    def _can_graph(self, accelerator: "Accelerator", progress: Callable) -> bool:
        obstacles = {
            "there is no GPU": self.device.type != "cuda",
            "there are several processes": accelerator.num_processes > 1,
            f"superpixels by {self.profile.superpixels} are made on the CPU": self.profile.superpixels != "slic",
            "FAN has not been tried in one": self.profile.landmarks == "fan",
        }
        reasons = [reason for reason, holds in obstacles.items() if holds]
        if self.profile.step == "graph" and reasons:
            progress(f"no CUDA graph, because {reasons[0]}: steps run one operation at a time")
        return self.profile.step != "eager" and not reasons

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _update(self, photo: Tensor, cartoon: Tensor, grey: Tensor) -> dict[str, Tensor]:
        with record_function("generator"), self._autocast():
            output = self._generator(photo)
        fake = self._views(output, grey)
        with torch.no_grad():
            real = self._views(cartoon, grey)
        terms = self._generators_turn(photo, output, fake) | self._discriminators_turn(real, fake)
        terms["contrast"] = (_contrast(output) / _contrast(photo)).mean()
        return {name: value.detach() for name, value in terms.items()}

    def _views(self, images: Tensor, grey: Tensor) -> Views:
        """The representations that are judged: the same filter and the same random grey for both domains."""
        with record_function("representations"):
            surface = representations.surface(images, eps=self.profile.surface_eps)
            texture = representations.texture(images, grey)
        if not self.profile.texture_features:
            return Views(surface, texture, None)
        with record_function("perceptual: texture"), self._autocast():
            return Views(surface, texture, self.perceptual.early(texture.expand(-1, 3, -1, -1)))

    def _generators_turn(self, photo: Tensor, output: Tensor, fake: Views) -> dict[str, Tensor]:
        """Update the generator on the weighted sum of its losses (White-box eq. 6); they, and `total`, come back."""
        p = self.profile
        self._train_discriminators(False)  # so that no gradient is computed for their weights
        with record_function("discriminators, generator's turn"), self._autocast():
            surface_scores = self.d_surface(fake.surface)
            texture_scores = self.d_texture(fake.texture, fake.features)
        terms = {"surface": losses.surface(surface_scores), "texture": losses.texture(texture_scores)}
        terms |= self._perceptual_terms(photo, output)
        terms["color"] = losses.color(output, photo, p.color_grade)
        terms["total_variation"] = losses.total_variation(output, photo if p.edge_aware else None)
        with record_function("landmarks"):
            with torch.no_grad():
                photo_points = self.landmark_network(photo)
            terms["landmark"] = losses.landmark(self.landmark_network(output), photo_points, landmarks.FACE_WIDTH)
        total = sum(getattr(p.weights, name) * value for name, value in terms.items())
        self.g_optimizer.zero_grad(set_to_none=True)
        with record_function("backward"):
            total.backward()
        with record_function("generator's update and EMA"):
            self.g_optimizer.step()
            self._average(list(self.ema.parameters()), list(self.generator.parameters()), 0)
        return terms | {"total": total}

    def _perceptual_terms(self, photo: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Content and structure loss; photo and superpixel target go through the frozen network in one pass.

        On every n-th image of the batch only: an estimate of the same mean, for images of a batch are drawn at random.
        """
        p = self.profile
        photo, output = photo[:: p.perceptual_every], output[:: p.perceptual_every]
        with record_function("superpixels"):
            target = representations.structure(output, p.superpixels, p.segments, p.adaptive, p.brighten)
        with record_function("perceptual: photo and target"), torch.no_grad(), self._autocast():
            photo_features, target_features = self.perceptual(torch.cat([photo, target])).chunk(2)
        with record_function("perceptual: output"), self._autocast():
            output_features = self.perceptual(output)
        return {
            "content": losses.content(output_features, photo_features),
            "structure": losses.structure(output_features, target_features),
        }

    def _discriminators_turn(self, real: Views, fake: Views) -> dict[str, Tensor]:
        """Update both discriminators on the same output, detached; their losses come back."""
        self._train_discriminators(True)
        with record_function("discriminators' turn"):
            surface = self._judge(self._d_surface, (real.surface, fake.surface))
            texture = self._judge(self._d_texture, (real.texture, fake.texture), (real.features, fake.features))
            self.d_optimizer.zero_grad(set_to_none=True)
            (surface + texture).backward()
            self.d_optimizer.step()
        return {"d_surface": surface, "d_texture": texture}

    def _train_discriminators(self, trained: bool) -> None:
        self.d_surface.requires_grad_(trained)
        self.d_texture.requires_grad_(trained)

    def _judge(self, discriminator: nn.Module, *pairs: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a discriminator on its inputs, (real, fake) each; both go through it in one pass."""
        with self._autocast():
            both = [torch.cat([real, fake.detach()]) for real, fake in pairs if real is not None]
            real_scores, fake_scores = discriminator(*both).chunk(2)
        return losses.discriminator(real_scores, fake_scores)


def _contrast(images: Tensor) -> Tensor:
    """Deviation within each image, (B, 3, H, W) -> (B,): each collapsing to a colour of its own is a collapse too."""
    return images.detach().std(dim=(2, 3)).mean(dim=1) + 1e-6
