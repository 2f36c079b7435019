"""One update of the networks: pretraining, and the adversarial step with all six losses (White-box section 3.4).

Lean on purpose: the frozen networks collect no gradients, photo and superpixel target go through the perceptual network
in one pass without a graph, the generator's output is computed once and used again, detached, for the discriminators,
convolutions run in bf16 where the hardware multiplies it, and nothing waits for the device.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.profiler import record_function

from . import features, landmarks, losses, representations
from .device import EAGER_STEPS, frozen, keep_freed_memory, pick_dtype
from .networks import Generator, PatchDiscriminator
from .profile import Profile


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

    def __init__(self, profile: Profile, accelerator: Accelerator):
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


class TrainStep:
    """The generator on the six losses, then both discriminators (White-box section 3.4).

    `parts` holds everything that has a state: networks, the averaged generator `ema`, optimizers. Calling it with a
    batch of photos and of cartoons, (B, 3, S, S) in [-1, 1] in channels_last, and the weights of the colour shift
    makes one update of everything and returns the losses, scalars that stay on the device. On a GPU with
    `profile.step` "auto" or "graph" the update is captured once as a CUDA graph and replayed from then on.

    Args:
        start: state dict of the pretrained generator; None starts from the untrained one.
        perceptual: a frozen network to be used instead of the profile's.
        progress: is told when a CUDA graph was wanted and cannot be had.
    """

    def __init__(
        self, profile: Profile, accelerator: Accelerator, start: dict | None = None,
        perceptual: nn.Module | None = None, progress: Callable = print,
    ):  # fmt: skip
        p, device = profile, accelerator.device
        keep_freed_memory()
        self.profile, self.device, self.dtype, self._progress = p, device, pick_dtype(p, device), progress
        self.perceptual = frozen(perceptual or features.PERCEPTUAL[p.perceptual](), device, self.dtype)
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
        self._wants_graph = self._can_graph(accelerator)
        self.g_optimizer = _adam(p.generator_rate, self.generator, capturable=self._wants_graph)
        self.d_optimizer = _adam(p.discriminator_rate, self.d_surface, self.d_texture, capturable=self._wants_graph)
        self.points = landmarks.landmark_network(p.landmarks).to(device)
        names = ("generator", "d_surface", "d_texture", "ema", "g_optimizer", "d_optimizer")
        self.parts = {name: getattr(self, name) for name in names}
        # Under several processes these average the gradients in backward(); the plain networks do not.
        self._generator, self._d_surface, self._d_texture = (
            accelerator.prepare_model(network) for network in (self.generator, self.d_surface, self.d_texture)
        )
        self._steps, self._graph, self._inputs, self._losses = 0, None, (), {}
        self._side = torch.cuda.Stream() if self._wants_graph else None

    @property
    def how(self) -> str:
        """How steps are run: "eager" or "CUDA graph"."""
        return "CUDA graph" if self._graph else "eager"

    def _can_graph(self, accelerator: Accelerator) -> bool:
        obstacles = {
            "there is no GPU": self.device.type != "cuda",
            "there are several processes": accelerator.num_processes > 1,
            f"superpixels by {self.profile.superpixels} are made on the CPU": self.profile.superpixels != "slic",
            "FAN has not been tried in one": self.profile.landmarks == "fan",
        }
        reasons = [reason for reason, holds in obstacles.items() if holds]
        if self.profile.step == "graph" and reasons:
            self._progress(f"no CUDA graph, because {reasons[0]}: steps run one operation at a time")
        return self.profile.step != "eager" and not reasons

    def __call__(self, photo: Tensor, cartoon: Tensor, grey: Tensor) -> dict[str, Tensor]:
        if not self._wants_graph:
            return self._update(photo, cartoon, grey)
        self._steps += 1
        if self._steps <= EAGER_STEPS:
            return self._before_capture(photo, cartoon, grey)
        if self._graph is None and not self._capture(photo, cartoon, grey):
            return self._update(photo, cartoon, grey)
        for static, new in zip(self._inputs, (photo, cartoon, grey), strict=True):
            static.copy_(new)
        self._graph.replay()
        return self._losses

    def _before_capture(self, *inputs: Tensor) -> dict[str, Tensor]:
        """An update on a stream of its own, which torch asks for before a capture."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable")  # it will be captured soon
            values = self._update(*inputs)
        torch.cuda.current_stream().wait_stream(self._side)
        return values

    def _capture(self, *inputs: Tensor) -> bool:
        """Record the update as a CUDA graph; nothing runs until it is replayed. Says why when that fails."""
        self._inputs = tuple(tensor.clone(memory_format=torch.preserve_format) for tensor in inputs)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                self._losses = self._update(*self._inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own
            self._wants_graph = False
            self._progress(f"no CUDA graph ({str(error).splitlines()[0]}): steps run one operation at a time")
            return False
        self._graph = graph
        return True

    def _update(self, photo: Tensor, cartoon: Tensor, grey: Tensor) -> dict[str, Tensor]:
        p = self.profile
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with record_function("generator"), autocast:
            output = self._generator(photo)

        # Representations: the same surface filter and the same random grey weights for both domains.
        with record_function("representations"):
            fakes = representations.surface(output, eps=p.surface_eps), representations.texture(output, grey)
            reals = representations.surface(cartoon, eps=p.surface_eps), representations.texture(cartoon, grey)
        # Each discriminator's inputs: the surface image; the texture image and, if wanted, frozen features of it.
        fakes, reals = [(view,) for view in fakes], [(view,) for view in reals]
        if p.texture_features:
            with record_function("perceptual: texture"), autocast:
                fakes[1] += (self.perceptual.early(fakes[1][0].expand(-1, 3, -1, -1)),)
                with torch.no_grad():
                    reals[1] += (self.perceptual.early(reals[1][0].expand(-1, 3, -1, -1)),)

        # Generator: discriminators are frozen here, so that no gradient is computed for their weights.
        self.d_surface.requires_grad_(False), self.d_texture.requires_grad_(False)
        with record_function("discriminators, generator's turn"), autocast:
            terms = {
                "surface": losses.adversarial_generator(self.d_surface(*fakes[0])),
                "texture": losses.adversarial_generator(self.d_texture(*fakes[1])),
            }
        terms |= self._perceptual_terms(photo, output, autocast)
        terms["color"] = losses.color(output, photo, p.color_grade)
        terms["total_variation"] = losses.total_variation(output, photo if p.edge_aware else None)
        with record_function("landmarks"):
            with torch.no_grad():
                photo_points = self.points(photo)
            terms["landmark"] = losses.landmark(self.points(output), photo_points, landmarks.FACE_WIDTH)
        total = sum(getattr(p.weights, name) * value for name, value in terms.items())
        self.g_optimizer.zero_grad(set_to_none=True)
        with record_function("backward"):
            total.backward()
        with record_function("generator's update and EMA"):
            self.g_optimizer.step()
            self._average(list(self.ema.parameters()), list(self.generator.parameters()), 0)

        # Discriminators: the generator's output is used again, detached; real and fake in one pass.
        self.d_surface.requires_grad_(True), self.d_texture.requires_grad_(True)
        with record_function("discriminators' turn"):
            d_terms = {}
            for name, discriminator, fake, real in zip(
                ("d_surface", "d_texture"), (self._d_surface, self._d_texture), fakes, reals
            ):
                with autocast:
                    both = [torch.cat([r, f.detach()]) for r, f in zip(real, fake, strict=True)]
                    real_scores, fake_scores = discriminator(*both).chunk(2)
                d_terms[name] = losses.adversarial_discriminator(real_scores, fake_scores)
            self.d_optimizer.zero_grad(set_to_none=True)
            sum(d_terms.values()).backward()
            self.d_optimizer.step()
        contrast = (_contrast(output) / _contrast(photo)).mean()
        values = terms | {"total": total} | d_terms | {"contrast": contrast}
        return {name: value.detach() for name, value in values.items()}

    def _perceptual_terms(self, photo: Tensor, output: Tensor, autocast: torch.autocast) -> dict[str, Tensor]:
        """Content and structure loss; photo and superpixel target go through the frozen network in one pass.

        On every n-th image of the batch only: an estimate of the same mean, for images of a batch are drawn at random.
        """
        p = self.profile
        some = slice(None, None, p.perceptual_every)
        with record_function("superpixels"):
            target = representations.structure(output[some], p.superpixels, p.segments, p.adaptive, p.brighten)
        with record_function("perceptual: photo and target"), torch.no_grad(), autocast:
            photo_features, target_features = self.perceptual(torch.cat([photo[some], target])).chunk(2)
        with record_function("perceptual: output"), autocast:
            output_features = self.perceptual(output[some])
        return {
            "content": losses.content(output_features, photo_features),
            "structure": losses.structure(output_features, target_features),
        }


def _contrast(images: Tensor) -> Tensor:
    """Deviation within each image, (B, 3, H, W) -> (B,): each collapsing to a colour of its own is a collapse too."""
    return images.detach().std(dim=(2, 3)).mean(dim=1) + 1e-6
