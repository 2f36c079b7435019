"""Pretraining and adversarial training: one readable loop each, logged, resumable and idempotent.

A run lives in `<runs>/<name>-<hash of settings and data>/`: finished, it is returned at once; interrupted, it goes on
from its last whole checkpoint to the same bits (on the CPU, with the same number of threads); absent, it runs. Batches
and random colour shifts are functions of (seed, step), so there is no random state to restore. A run that goes wrong
stops, or halves its rates and goes on from where all was well (guards.py).
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from .. import representations
from ..dataset.batches import Batches, PerStep
from ..dataset.prepare import ImageSet
from ..device import pick_device
from ..files import InputError, write_atomic
from ..images import center_crop, to_tensor, to_uint8
from ..networks import Generator, save_generator
from ..profile import Profile
from ..step import PretrainStep, TrainStep
from . import checkpoints, guards
from .store import Run, code_hash, pretrain_folder, train_folder


def make_accelerator(profile: Profile) -> Accelerator:
    """This process's place among those of `accelerate launch`; alone, it does nothing. It picks the GPU when there is one.

    Buffers are not broadcast: the power iteration of the spectral norms changes them in place, equally everywhere.
    Without skips some parameters get no gradient, for which the processes would wait.
    """
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=not profile.skips)
    return Accelerator(cpu=pick_device().type == "cpu", mixed_precision="no", kwargs_handlers=[kwargs])


class _Loop:
    """What both loops share: the run folder, checkpoints, the log, samples, guards and the line that shows progress.

    Of several processes the first alone writes; the others read the checkpoint and stop where it stops.
    """

    def __init__(
        self, profile: Profile, folder: Path, title: str, steps: int, parts: dict, progress: Callable,
        accelerator: Accelerator,
    ):  # fmt: skip
        self.profile, self.folder, self.title, self.steps = profile, folder, title, steps
        self.parts, self.progress = parts, progress  # parts: everything that has a state dict
        self.step, self.seconds, self._sums, self._names, self._count = 0, 0.0, None, [], 0
        self._code, self._accelerator, self._writes = code_hash(), accelerator, accelerator.is_main_process
        state = checkpoints.load(folder, self._tell)
        if state is not None:
            self._resume(state)
        self._rows = [row for row in checkpoints.read_lines(folder / "metrics.jsonl") if row["step"] <= self.step]
        if self._writes:
            checkpoints.write_lines(folder / "metrics.jsonl", self._rows)
        self._started = time.monotonic() - self.seconds
        self._shown = 0.0

    def _tell(self, step: int, event: str) -> None:
        """Say what befell the run, and keep it for the notebook."""
        if self._writes:
            checkpoints.add_event(self.folder, step, event)
            self.progress(f"{self.title}: {event}")

    def _resume(self, state: dict) -> None:
        try:
            for name, part in self.parts.items():
                _restore(part, state[name])
            self.step, self.seconds, self._code = state["step"], state["seconds"], state["code"]
            self._names, self._count = state["names"], state["count"]
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The checkpoint in {self.folder} does not fit this version of cartoonlib "
                f"({str(error).splitlines()[0]}): finish the run with the version that began it, or delete the folder "
                "to start it again."
            ) from None
        self._sums = None if state["sums"] is None else state["sums"].to(self._accelerator.device)

    def __iter__(self):
        while self.step < self.steps:
            yield self.step
            self.step += 1
            self.seconds = time.monotonic() - self._started
            if self.step % self.profile.log_every == 0 or self.step == self.steps:
                self._log()
            if self.step % self.profile.checkpoint_every == 0 and self.step < self.steps:
                self.save()
            self._show()

    def record(self, values: dict[str, Tensor]) -> None:
        """Add the losses of one step to the running sums; they stay on the device until the next log line."""
        values, self._names = torch.stack(list(values.values())), list(values)
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1

    def _log(self) -> None:
        means = self._accelerator.reduce(self._sums, "mean") / self._count  # over processes, over steps
        row = {"step": self.step, **dict(zip(self._names, means.tolist())), "seconds": round(self.seconds, 3)}
        guards.check(row, self._rows, self.profile)
        self._rows.append(row)
        if self._writes:
            checkpoints.write_lines(self.folder / "metrics.jsonl", self._rows)
        self._sums, self._count = None, 0

    def _show(self) -> None:
        now = time.monotonic()
        if self._writes and (now - self._shown > 2 or self.step == self.steps):
            left = self.seconds / self.step * (self.steps - self.step)
            self.progress(f"{self.title}: step {self.step}/{self.steps}, {left / 60:.1f} min left")
            self._shown = now

    def sample(self, generator: Generator, photos: Tensor) -> None:
        """Keep what the generator makes of a few photos at this step."""
        if self._writes:
            (self.folder / "samples").mkdir(exist_ok=True)
            with torch.no_grad():
                np.save(self.folder / "samples" / f"{self.step:06d}.npy", to_uint8(generator(photos)))

    def save(self) -> None:
        networks = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        if not all(p.isfinite().all() for network in networks for p in network.parameters()):
            return  # the last good checkpoint stays, and the next log line stops with a loss that is not finite
        sums = None if self._sums is None else self._accelerator.reduce(self._sums, "mean")
        if not self._writes:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "seconds": self.seconds, "code": self._code}
        state |= {"sums": sums, "names": self._names, "count": self._count}
        checkpoints.save(self.folder, self.step, state)

    def finish(self, generator: Generator, **about) -> Run:
        if self._writes:
            path = self.folder / "generator.safetensors"
            save_generator(generator, path, title=self.title)
            summary = {
                "title": self.title,
                "steps": self.steps,
                "seconds": round(self.seconds, 1),
                "code": self._code if self._code == code_hash() else "mixed",  # begun by one version, ended by another
                "device": self._accelerator.device.type,
                "processes": self._accelerator.num_processes,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            } | about
            write_atomic(self.folder / "summary.json", json.dumps(summary, indent=1))
            checkpoints.discard(self.folder)  # 26 MB each, that nothing needs once the run is whole
        self._accelerator.wait_for_everyone()
        return Run.open(self.folder)


def _restore(part: nn.Module | torch.optim.Optimizer, state: dict) -> None:
    """Load a state dict; of an optimizer, the rate stays that of this run, and `capturable` that of this device."""
    if isinstance(part, nn.Module):
        part.load_state_dict(state)
        return
    own = {key: part.param_groups[0][key] for key in ("lr", "capturable")}
    part.load_state_dict(state)
    for group in part.param_groups:
        group.update(own)


def _finished(folder: Path, progress: Callable) -> Run | None:
    """The run in a folder, if whole. One that older code made is used and said to be so: hours are not thrown away."""
    if not (folder / "summary.json").exists():
        return None
    run = Run.open(folder)
    if run.stale:
        progress(f"{run.summary['title']}: made by another version of cartoonlib; delete {folder} to run it again")
    return run


def photo_batches(profile: Profile, faces: ImageSet, accelerator: Accelerator) -> Batches:
    """This process's part of the batches of photos. InputError when the processes cannot share a batch."""
    return _batches(profile, faces, profile.seed, accelerator)


def train_batches(
    profile: Profile, faces: ImageSet, cartoons: ImageSet, accelerator: Accelerator
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Step -> what TrainStep takes: this process's photos and cartoons, and the weights of the colour shift."""
    photos = photo_batches(profile, faces, accelerator)
    drawings = _batches(profile, cartoons, profile.seed + 1, accelerator)
    shape = (1, 1) if profile.color_shift == "batch" else (profile.size, profile.size)
    draws = PerStep(
        lambda step: {"grey": representations.color_shift_weights(_rng(profile.seed, step), shape)}, accelerator.device
    )
    return lambda step: (photos(step), drawings(step), draws(step)["grey"])


def _batches(profile: Profile, images: ImageSet, seed: int, accelerator: Accelerator) -> Batches:
    profile = profile.replace(processes=accelerator.num_processes)  # checks that so many can share a batch
    shard = accelerator.process_index, accelerator.num_processes
    return Batches(images, profile.size, profile.batch, seed, accelerator.device, profile.augment, shard)


def _rng(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))


def pretrain(profile: Profile, runs: Path, faces: ImageSet, progress: Callable[[str], None] = print) -> Run:
    """Teach the generator to reproduce its input: pixel L1 between G(photo), before the guided filter, and the photo.

    (White-box section 4.1.) Adversarial training from scratch collapses to flat colour.
    """
    folder = pretrain_folder(profile, runs, faces)
    if run := _finished(folder, progress):
        return run
    accelerator = make_accelerator(profile)

    def attempt(profile: Profile) -> Run:
        update = PretrainStep(profile, accelerator)
        photos = photo_batches(profile, faces, accelerator)
        loop = _Loop(profile, folder, "pretraining", profile.pretrain_steps, update.parts, progress, accelerator)
        for step in loop:
            loop.record(update(photos(step)))
        return loop.finish(update.generator, dtype=str(update.dtype), data=faces.hash)

    def one_step(profile: Profile) -> None:
        PretrainStep(profile, accelerator)(photo_batches(profile, faces, accelerator)(0))

    with guards.alone(folder, accelerator):
        if run := _finished(folder, progress):  # by the process that held the folder before
            return run
        return guards.attempt(profile, folder, "pretraining", progress, accelerator, attempt, one_step)


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
    accelerator = make_accelerator(profile)
    if watched is None:
        watched = center_crop(faces.part("test"), profile.size)
    watched = to_tensor(watched[:4]).to(accelerator.device)

    def attempt(profile: Profile) -> Run:
        update = TrainStep(profile, accelerator, start, progress=progress)
        batches = train_batches(profile, faces, cartoons, accelerator)
        loop = _Loop(profile, folder, f"{style}, {title}", profile.train_steps, update.parts, progress, accelerator)
        every = max(1, profile.train_steps // 8)
        for step in loop:
            if step % every == 0:
                loop.sample(update.ema, watched)
            loop.record(update(*batches(step)))
        loop.sample(update.ema, watched)
        about = {"style": style, "variant": title, "dtype": str(update.dtype), "step": update.execution}
        return loop.finish(update.ema, **about, data=[faces.hash, cartoons.hash])

    def one_step(profile: Profile) -> None:
        TrainStep(profile, accelerator, start)(*train_batches(profile, faces, cartoons, accelerator)(0))

    with guards.alone(folder, accelerator):
        if run := _finished(folder, progress):  # by the process that held the folder before
            return run
        return guards.attempt(profile, folder, f"{style}, {title}", progress, accelerator, attempt, one_step)
