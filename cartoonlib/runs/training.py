"""Pretraining and adversarial training: one readable loop each, logged, resumable and idempotent.

A run lives in `<runs>/<name>-<hash of settings and data>/`: finished, it is returned at once; interrupted, it goes on
from its last whole checkpoint to the same bits (on the CPU, with the same number of threads); absent, it runs. Batches
and random colour shifts are functions of (seed, step), so there is no random state to restore. A run that goes wrong
stops, or halves its rates and goes on from where all was well (guards.py).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from .. import representations
from ..dataset.batches import Batches, PerStep
from ..dataset.prepare import ImageSet
from ..device import pick_device
from ..images import center_crop, to_tensor
from ..profile import Profile
from ..step import PretrainStep, TrainStep
from . import guards
from .loop import Loop
from .store import Run, pretrain_folder, train_folder


def pretrain(profile: Profile, runs: Path, faces: ImageSet, progress: Callable[[str], None] = print) -> Run:
    """Teach the generator to reproduce its input: pixel L1 between G(photo), before the guided filter, and the photo.

    (White-box section 4.1.) Adversarial training from scratch collapses to flat colour.
    """
    folder = pretrain_folder(profile, runs, faces)
    return _finished(folder, progress) or _Pretraining(profile, folder, faces, progress).run()


def train(
    profile: Profile, runs: Path, faces: ImageSet, cartoons: ImageSet, style: str,
    title: str = "full method", progress: Callable[[str], None] = print, watched: np.ndarray | None = None,
) -> Run:  # fmt: skip
    """Alternate updates of the generator on the six losses and of both discriminators (White-box section 3.4).

    Starts from the pretrained generator, which is trained first when it is missing. `watched` are the photos whose
    cartoons are kept over training time, uint8 (N, S, S, 3); None takes held-out faces.
    """
    profile = profile.of(style)
    folder = train_folder(profile, runs, faces, cartoons, style)
    if run := _finished(folder, progress):
        return run
    start = pretrain(profile, runs, faces, progress).generator().state_dict()
    if watched is None:
        watched = center_crop(faces.part("test"), profile.size)
    return _Training(profile, folder, faces, cartoons, style, title, start, watched, progress).run()


def _finished(folder: Path, progress: Callable) -> Run | None:
    """The run in a folder, if whole. One that older code made is used and said to be so: hours are not thrown away."""
    if not (folder / "summary.json").exists():
        return None
    run = Run.open(folder)
    if run.stale:
        progress(f"{run.summary['title']}: made by another version of cartoonlib; delete {folder} to run it again")
    return run


class _Stage:
    """A run that is missing: `run` makes it under the guards, out of what each kind of training defines."""

    def __init__(self, profile: Profile, folder: Path, title: str, progress: Callable):
        self.profile, self.folder, self.title, self.progress = profile, folder, title, progress
        self.accelerator = make_accelerator(profile)

    def train(self, profile: Profile) -> Run:
        """All steps, with the rates of this profile, which may have been halved."""
        raise NotImplementedError

    def try_one_step(self, profile: Profile) -> None:
        """One step with the batch of this profile, to see whether it fits into the memory."""
        raise NotImplementedError

    def run(self) -> Run:
        """Train while no other process does so in this folder.

        When the run diverges it stops, or goes on with half its rates (guards.back_off). Raises TrainingStopped; and
        InputError, which names a batch that fits, when memory runs out.
        """
        with guards.one_process_at_a_time(self.folder, self.accelerator):
            if run := _finished(self.folder, self.progress):  # by the process that held the folder before
                return run
            while True:
                try:
                    return self.train(guards.with_halved_rates(self.profile, self.folder))
                except guards.Diverged as problem:
                    guards.back_off(problem, self.profile, self.folder, self.title, self.progress, self.accelerator)
                except (RuntimeError, MemoryError) as error:
                    if not guards.is_out_of_memory(error):
                        raise
                    break  # the search for a batch that fits begins when nothing holds this step's memory any more
            raise guards.out_of_memory(self.title, self.profile.batch, self._batch_that_fits())

    def _batch_that_fits(self) -> int:
        """Half the batch, or a half of that, and so on; 0 when not one photo fits, or when processes share batches."""
        batch = self.profile.batch // 2 if self.accelerator.num_processes == 1 else 0
        while batch:
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                self.try_one_step(self.profile.replace(batch=batch, step="eager"))
                break
            except (RuntimeError, MemoryError) as error:
                if not guards.is_out_of_memory(error):
                    raise
            batch //= 2
        return batch


class _Pretraining(_Stage):
    def __init__(self, profile: Profile, folder: Path, faces: ImageSet, progress: Callable):
        super().__init__(profile, folder, "pretraining", progress)
        self.faces = faces

    def train(self, profile: Profile) -> Run:
        update = PretrainStep(profile, self.accelerator)
        photos = photo_batches(profile, self.faces, self.accelerator)
        steps = profile.pretrain_steps
        loop = Loop(profile, self.folder, self.title, steps, update.parts, self.progress, self.accelerator)
        for step in range(loop.step, steps):
            loop.advance(update(photos(step)))
        return loop.finish(update.generator, dtype=str(update.dtype), data=self.faces.hash)

    def try_one_step(self, profile: Profile) -> None:
        PretrainStep(profile, self.accelerator)(photo_batches(profile, self.faces, self.accelerator)(0))


class _Training(_Stage):
    def __init__(
        self, profile: Profile, folder: Path, faces: ImageSet, cartoons: ImageSet, style: str, variant: str,
        start: dict, watched: np.ndarray, progress: Callable,
    ):  # fmt: skip
        super().__init__(profile, folder, f"{style}, {variant}", progress)
        self.faces, self.cartoons, self.style, self.variant, self.start = faces, cartoons, style, variant, start
        self.watched = to_tensor(watched[:4]).to(self.accelerator.device)

    def train(self, profile: Profile) -> Run:
        update = TrainStep(profile, self.accelerator, self.start, progress=self.progress)
        batches = TrainBatches(profile, self.faces, self.cartoons, self.accelerator)
        steps = profile.train_steps
        loop = Loop(profile, self.folder, self.title, steps, update.parts, self.progress, self.accelerator)
        sample_every = max(1, steps // 8)
        for step in range(loop.step, steps):
            if step % sample_every == 0:
                loop.sample(update.ema, self.watched)
            loop.advance(update(*batches(step)))
        loop.sample(update.ema, self.watched)
        about = {"style": self.style, "variant": self.variant, "dtype": str(update.dtype), "step": update.execution}
        return loop.finish(update.ema, **about, data=[self.faces.hash, self.cartoons.hash])

    def try_one_step(self, profile: Profile) -> None:
        batches = TrainBatches(profile, self.faces, self.cartoons, self.accelerator)
        TrainStep(profile, self.accelerator, self.start)(*batches(0))


def make_accelerator(profile: Profile) -> Accelerator:
    """This process's place among those of `accelerate launch`; alone, it does nothing. On the GPU where there is one.

    Buffers are not broadcast: the power iteration of the spectral norms changes them in place, equally everywhere.
    Without skips some parameters get no gradient, for which the processes would wait.
    """
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=not profile.skips)
    return Accelerator(cpu=pick_device().type == "cpu", mixed_precision="no", kwargs_handlers=[kwargs])


def photo_batches(profile: Profile, faces: ImageSet, accelerator: Accelerator) -> Batches:
    """This process's part of the batches of photos. InputError when the processes cannot share a batch."""
    return _batches(profile, faces, profile.seed, accelerator)


def _batches(profile: Profile, images: ImageSet, seed: int, accelerator: Accelerator) -> Batches:
    profile.replace(processes=accelerator.num_processes)  # an InputError unless so many can share a batch
    shard = accelerator.process_index, accelerator.num_processes
    return Batches(images, profile.size, profile.batch, seed, accelerator.device, profile.augment, shard)


class TrainBatches:
    """Step -> what TrainStep takes: this process's photos and cartoons, and the weights of the colour shift."""

    def __init__(self, profile: Profile, faces: ImageSet, cartoons: ImageSet, accelerator: Accelerator):
        self._photos = photo_batches(profile, faces, accelerator)
        self._cartoons = _batches(profile, cartoons, profile.seed + 1, accelerator)
        self._seed = profile.seed
        self._shape = (1, 1) if profile.color_shift == "batch" else (profile.size, profile.size)
        self._draws = PerStep(self._draw, accelerator.device)

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        return self._photos(step), self._cartoons(step), self._draws(step)["grey"]

    def _draw(self, step: int) -> dict[str, Tensor]:
        seed = int(np.random.SeedSequence((self._seed, step)).generate_state(1)[0])
        random = torch.Generator().manual_seed(seed)
        return {"grey": representations.color_shift_weights(random, self._shape)}
