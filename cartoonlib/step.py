"""One update of the networks: pretraining, structure start, and the adversarial step (White-box section 3.4).

Lean on purpose: the frozen networks collect no gradients, target and superpixels go through the perceptual network in
one pass without a graph, the generator's output is computed once and used again, detached, for the discriminators,
convolutions run in bf16 where the hardware multiplies it, and nothing waits for the device.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.profiler import record_function

from . import features, landmarks, looks, losses, representations
from .device import Graphed, frozen, keep_freed_memory, pick_dtype
from .networks import Generator, PatchDiscriminator
from .profile import Profile

if TYPE_CHECKING:
    from accelerate import Accelerator

CLIP = 8.0  # largest norm of a gradient of the structure start; 6 is usual, and a rare 20 threw it far back


def build_generator(profile: Profile) -> Generator:
    """The untrained generator of a profile, the same weights for the same seed."""
    torch.manual_seed(profile.seed)
    p = profile
    return Generator(p.slope, p.tanh, p.skips, p.output_eps, p.output_radius, p.padding)


def _adam(rate: float, *modules: nn.Module, capturable: bool = False) -> torch.optim.Adam:
    """capturable: by a CUDA graph; the rate and the step counter then live on the device."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    rate = torch.tensor(rate, device=parameters[0].device) if capturable else rate
    return torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.99), fused=True, capturable=capturable)


def _set_rate(optimizer: torch.optim.Adam, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class PretrainStep:
    """Pixel L1 between G(photo), before the guided filter, and the photo (White-box section 4.1).

    `parts` holds everything that has a state, and `result` is the generator to keep. Calling it with photos
    (B, 3, S, S) in [-1, 1] updates the generator and returns the loss.
    """

    def __init__(self, profile: Profile, accelerator: "Accelerator"):
        self.device, self.dtype = accelerator.device, pick_dtype(profile, accelerator.device)
        keep_freed_memory()
        self.generator = self.result = build_generator(profile).to(self.device, memory_format=torch.channels_last)
        self.optimizer = _adam(profile.generator_rate, self.generator)
        self.parts = {"generator": self.generator, "optimizer": self.optimizer}
        self._generator = accelerator.prepare_model(self.generator)

    def __call__(self, photo: Tensor) -> dict[str, Tensor]:
        return self._learn({"pixel_l1": (self._output(photo, filtered=False) - photo).abs().mean()})

    def _output(self, photo: Tensor, filtered: bool) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self._generator(photo, filtered=filtered).float()

    def _learn(self, loss: dict[str, Tensor], clip: float = float("inf")) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        sum(loss.values()).backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), clip)
        self.optimizer.step()
        return {name: value.detach() for name, value in loss.items()}


class StartStep(PretrainStep):
    """The anchor alone, between G(photo) and the photo drawn in the look of a style. Not in the paper.

    Goes on from `start`, the state dict of the pretrained generator; `result` is the averaged generator. Calling it
    with photos and their structures, (B, 4 or 6, S, S) in [-1, 1] (see looks.drawn), makes one update.
    """

    def __init__(self, profile: Profile, accelerator: "Accelerator", start: dict):
        super().__init__(profile, accelerator)
        self.profile = profile
        self.generator.load_state_dict(start)
        self.result = self.parts["ema"] = copy.deepcopy(self.generator).requires_grad_(False)
        self._average = get_ema_multi_avg_fn(profile.ema)

    def anneal(self, left: float) -> None:
        """Set the rate for the step before which the share `left` of all steps is still to be made."""
        _set_rate(self.optimizer, self.profile.start_rate * self.profile.rate_share(left))

    def __call__(self, photo: Tensor, structure: Tensor) -> dict[str, Tensor]:
        target = looks.drawn(structure, self.profile.look)
        loss = self._learn({"anchor": losses.anchor(self._output(photo, filtered=True), target)}, CLIP)
        self._average(list(self.result.parameters()), list(self.generator.parameters()), 0)
        return loss


class Views(NamedTuple):
    """What the discriminators see of a batch (White-box sections 3.1 and 3.3)."""

    surface: Tensor  # (B, 3, S, S)
    texture: Tensor  # (B, 1, S, S)
    features: Tensor | None  # frozen features of the texture, (B, F, S/4, S/4)


class TrainStep:
    """The generator on the six losses, then both discriminators (White-box section 3.4).

    `parts` holds everything that has a state: networks, the averaged generator `ema`, optimizers. Calling it with
    photos and cartoons, (B, 3, S, S) in [-1, 1] in channels_last, the weights of the colour shift and, after a
    structure start, the photos' structures makes one update and returns the losses, scalars that stay on the device.
    On a GPU it is replayed as a CUDA graph, see device.py.

    Args:
        start: state dict of the generator to start from; None starts from the untrained one.
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

    def anneal(self, left: float) -> None:
        """Set the rates for the step before which the share `left` of all steps is still to be made."""
        p, share = self.profile, self.profile.rate_share(left)
        _set_rate(self.g_optimizer, p.generator_rate * share)
        _set_rate(self.d_optimizer, p.discriminator_rate * share)

    @property
    def execution(self) -> str:
        """How steps are run: "eager" or "CUDA graph"."""
        return "CUDA graph" if self._graphed and self._graphed.recorded else "eager"

    def _can_graph(self, accelerator: "Accelerator", progress: Callable) -> bool:
        obstacles = {
            "there is no GPU": self.device.type != "cuda",
            "there are several processes": accelerator.num_processes > 1,
            "FAN has not been tried in one": self.profile.landmarks == "fan",
        }
        reasons = [reason for reason, holds in obstacles.items() if holds]
        if self.profile.step == "graph" and reasons:
            progress(f"no CUDA graph, because {reasons[0]}: steps run one operation at a time")
        return self.profile.step != "eager" and not reasons

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _update(
        self, photo: Tensor, cartoon: Tensor, grey: Tensor, structure: Tensor | None = None
    ) -> dict[str, Tensor]:
        p = self.profile
        with record_function("generator"), self._autocast():
            output = self._generator(photo)
        with record_function("target"):  # what content, anchor and total variation hold the output to
            target = photo if structure is None else looks.drawn(structure, p.look)
        fake = self._views(output, representations.gated(output, photo) if p.gate else output, grey)
        with torch.no_grad():
            cartoon = representations.in_light_of(cartoon, photo) if p.tone else cartoon
            real = self._views(cartoon, cartoon, grey)
        terms = self._generators_turn(photo, target, output, fake) | self._discriminators_turn(real, fake)
        terms["contrast"] = (_contrast(output) / _contrast(photo)).mean()
        return {name: value.detach() for name, value in terms.items()}

    def _views(self, for_surface: Tensor, for_texture: Tensor, grey: Tensor) -> Views:
        """The representations that are judged: the same filter and the same random grey for both domains."""
        with record_function("representations"):
            surface = representations.surface(for_surface, eps=self.profile.surface_eps)
            texture = representations.texture(for_texture, grey)
        if not self.profile.texture_features:
            return Views(surface, texture, None)
        with record_function("perceptual: texture"), self._autocast():
            return Views(surface, texture, self.perceptual.early(texture.expand(-1, 3, -1, -1)))

    def _generators_turn(self, photo: Tensor, target: Tensor, output: Tensor, fake: Views) -> dict[str, Tensor]:
        """Update the generator on the weighted sum of its losses (White-box eq. 6); they, and `total`, come back."""
        p = self.profile
        self._train_discriminators(False)  # so that no gradient is computed for their weights
        with record_function("discriminators, generator's turn"), self._autocast():
            surface_scores = self.d_surface(fake.surface)
            texture_scores = self.d_texture(fake.texture, fake.features)
        terms = {"surface": losses.surface(surface_scores), "texture": losses.texture(texture_scores)}
        terms |= self._perceptual_terms(target, output)
        terms["anchor"] = losses.anchor(output, target)
        terms["total_variation"] = losses.total_variation(output, target if p.edge_aware else None)
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

    def _perceptual_terms(self, target: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Content and structure loss; target and superpixels go through the frozen network in one pass.

        On every n-th image of the batch only: an estimate of the same mean, for images of a batch are drawn at random.
        """
        p = self.profile
        target, output = target[:: p.perceptual_every], output[:: p.perceptual_every]
        with record_function("superpixels"):
            superpixels = representations.structure(output, p.segments, p.adaptive, p.brighten)
        with record_function("perceptual: target and superpixels"), torch.no_grad(), self._autocast():
            target_features, superpixel_features = self.perceptual(torch.cat([target, superpixels])).chunk(2)
        with record_function("perceptual: output"), self._autocast():
            output_features = self.perceptual(output)
        return {
            "content": losses.content(output_features, target_features),
            "structure": losses.structure(output_features, superpixel_features),
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
