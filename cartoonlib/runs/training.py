"""Pretraining, structure start and adversarial training: one readable loop each, logged, resumable and idempotent.

A run lives in `<runs>/<name>-<hash of settings and data>/`: finished, it is returned at once; interrupted, it goes on
from its last whole checkpoint to the same bits (on the CPU, with the same number of threads); absent, it runs. Batches
and random colour shifts are functions of (seed, step), so there is no random state to restore.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from .. import representations
from ..dataset.batches import Batches, PerStep
from ..dataset.prepare import ImageSet
from ..dataset.structures import structures
from ..device import pick_device
from ..images import center_crop, to_tensor
from ..profile import Profile
from ..step import PretrainStep, StartStep, TrainStep
from .loop import Loop, Stage
from .store import Run, pretrain_folder, start_folder, train_folder


def pretrain(profile: Profile, runs: Path, faces: ImageSet, progress: Callable[[str], None] = print) -> Run:
    """Teach the generator to reproduce its input: pixel L1 between G(photo), before the guided filter, and the photo.

    (White-box section 4.1.) Adversarial training from random weights finds the face late, see notebook 03.
    """
    folder = pretrain_folder(profile, runs, faces)
    if run := Run.find(folder, progress):
        return run
    return _Pretraining(profile, folder, "pretraining", progress, make_accelerator(profile), faces).run()


def start(profile: Profile, runs: Path, faces: ImageSet, progress: Callable[[str], None] = print) -> Run:
    """Teach the pretrained generator to draw the structure of its input in the look of a style, see looks.py.

    Not in the paper. With `start_steps: 0` the pretrained generator itself comes back, from which the original starts.
    """
    folder = start_folder(profile, runs, faces)
    if run := Run.find(folder, progress):
        return run
    if not profile.start_steps:
        return pretrain(profile, runs, faces, progress)
    begun = pretrain(profile, runs, faces, progress).generator().state_dict()
    return _Start(of_start(profile), folder, "structure start", progress, make_accelerator(profile), faces, begun).run()


def of_start(profile: Profile) -> Profile:
    """What the structure start is trained with: a batch of its own, and no losses that look at every n-th image."""
    return profile.replace(batch=profile.start_batch or profile.batch, perceptual_every=1)


def train(
    profile: Profile, runs: Path, faces: ImageSet, cartoons: ImageSet, style: str,
    title: str = "full method", progress: Callable[[str], None] = print, watched: np.ndarray | None = None,
) -> Run:  # fmt: skip
    """Alternate updates of the generator on the six losses and of both discriminators (White-box section 3.4).

    Starts from the structure start, which is trained first when it is missing. `watched` are the photos whose
    cartoons are kept over training time, uint8 (N, S, S, 3); None takes held-out faces.
    """
    profile = profile.of(style)
    folder = train_folder(profile, runs, faces, cartoons, style)
    if run := Run.find(folder, progress):
        return run
    begun = start(profile, runs, faces, progress).generator().state_dict()
    if watched is None:
        watched = center_crop(faces.part("test"), profile.size)
    stage = profile, folder, f"{style}, {title}", progress, make_accelerator(profile)
    return _Training(*stage, faces, cartoons, style, title, begun, watched).run()


@dataclass
class _Pretraining(Stage):
    faces: ImageSet

    def train(self, profile: Profile) -> Run:
        update = PretrainStep(profile, self.accelerator)
        photos = photo_batches(profile, self.faces, self.accelerator)
        loop = Loop(self, profile, profile.pretrain_steps, update.parts)
        for step in range(loop.step, loop.steps):
            loop.advance(update(photos(step)))
        return loop.finish(update.result, dtype=str(update.dtype), data=self.faces.hash)


@dataclass
class _Start(Stage):
    faces: ImageSet
    start: dict  # the pretrained generator's state

    @property
    def batch_setting(self) -> str:
        return "start_batch" if self.profile.start_batch else "batch"

    def train(self, profile: Profile) -> Run:
        update = StartStep(profile, self.accelerator, self.start)
        photos = photo_batches(profile, self.faces, self.accelerator)
        drawings = structure_batches(profile, self.faces, self.accelerator, self.progress)
        loop = Loop(self, profile, profile.start_steps, update.parts)
        for step in range(loop.step, loop.steps):
            update.anneal(1 - step / loop.steps)
            loop.advance(update(photos(step), drawings(step)))
        return loop.finish(update.result, dtype=str(update.dtype), data=self.faces.hash)


@dataclass
class _Training(Stage):
    faces: ImageSet
    cartoons: ImageSet
    style: str
    variant: str  # row of the ablation table
    start: dict  # the state of the generator that it goes on from
    watched: np.ndarray  # uint8 (N, S, S, 3), of which four are kept

    def train(self, profile: Profile) -> Run:
        update = TrainStep(profile, self.accelerator, self.start, progress=self.progress)
        batches = TrainBatches(profile, self.faces, self.cartoons, self.accelerator, self.progress)
        watched = to_tensor(self.watched[:4]).to(self.accelerator.device)
        loop = Loop(self, profile, profile.train_steps, update.parts)
        for step in range(loop.step, loop.steps):
            if step % max(1, loop.steps // 8) == 0:
                loop.sample(update.ema, watched)
            update.anneal(1 - step / loop.steps)
            loop.advance(update(*batches(step)))
        loop.sample(update.ema, watched)
        about = {"style": self.style, "variant": self.variant, "dtype": str(update.dtype), "step": update.execution}
        return loop.finish(update.ema, **about, data=[self.faces.hash, self.cartoons.hash])


def make_accelerator(profile: Profile) -> Accelerator:
    """This process's place among those of `accelerate launch`; alone, it does nothing. On the GPU where there is one.

    Buffers are not broadcast: the power iteration of the spectral norms changes them in place, equally everywhere.
    Without skips some parameters get no gradient, for which the processes would wait.
    """
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=not profile.skips)
    return Accelerator(cpu=pick_device().type == "cpu", mixed_precision="no", kwargs_handlers=[kwargs])


def photo_batches(profile: Profile, faces: ImageSet, accelerator: Accelerator) -> Batches:
    """This process's part of the batches of photos, half of them relit where the profile augments.

    InputError when the processes cannot share a batch.
    """
    return _batches(profile, faces, accelerator, profile.seed, relight=True)


def structure_batches(profile: Profile, faces: ImageSet, accelerator: Accelerator, progress: Callable) -> Batches:
    """The structures of the same photos, cropped, turned and lit like them."""
    drawn = replace(faces, images=structures(faces, profile.look, progress))
    return _batches(profile, drawn, accelerator, profile.seed, relight=True)


def _batches(profile: Profile, images: ImageSet, accelerator: Accelerator, seed: int, relight: bool) -> Batches:
    profile.replace(processes=accelerator.num_processes)  # an InputError unless so many can share a batch
    p, shard = profile, (accelerator.process_index, accelerator.num_processes)
    return Batches(images, p.size, p.batch, seed, accelerator.device, p.augment, shard, relight)


class TrainBatches:
    """Step -> what TrainStep takes: photos and cartoons of this process, weights of the colour shift, structures."""

    def __init__(
        self, profile: Profile, faces: ImageSet, cartoons: ImageSet, accelerator: Accelerator,
        progress: Callable = print,
    ):  # fmt: skip
        self._photos = photo_batches(profile, faces, accelerator)
        self._cartoons = _batches(profile, cartoons, accelerator, profile.seed + 1, relight=False)
        starts = profile.start_steps > 0
        self._structures = structure_batches(profile, faces, accelerator, progress) if starts else None
        self._seed = profile.seed
        self._shape = (1, 1) if profile.color_shift == "batch" else (profile.size, profile.size)
        self._draws = PerStep(self._draw, accelerator.device)

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        batch = self._photos(step), self._cartoons(step), self._draws(step)["grey"]
        return (*batch, self._structures(step)) if self._structures else batch

    def _draw(self, step: int) -> dict[str, Tensor]:
        (seed,) = np.random.SeedSequence((self._seed, step)).generate_state(1)
        random = torch.Generator().manual_seed(int(seed))
        return {"grey": representations.color_shift_weights(random, self._shape)}
