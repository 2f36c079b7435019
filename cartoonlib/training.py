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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from . import checkpoints, data, guards, representations
from .networks import Generator
from .paths import InputError, write_atomic
from .profiles import Profile
from .steps import PretrainStep, TrainStep, make_accelerator

# The settings on which a pretrained generator depends: rows of the ablation table that agree in these share one.
PRETRAIN_SETTINGS = (
    "faces", "size", "face_limit", "test_fraction", "augment", "seed", "batch", "pretrain_steps", "generator_rate",
    "precision", "skips", "tanh", "slope", "padding",
)  # fmt: skip
# Settings that do not change a run's result, but for rounding.
NOT_IN_KEY = (
    "styles", "log_every", "checkpoint_every", "ablation_steps", "step", "processes", "bench_repeats", "on_divergence",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what summary.json says."""

    folder: Path
    summary: dict

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A finished run, from its folder."""
        path = folder / "summary.json"
        if not path.exists():
            raise InputError(f"{folder} holds no finished run: run the notebook that trains it first (make reproduce).")
        return cls(folder, json.loads(path.read_text()))

    def generator(self, device: torch.device | str = "cpu") -> Generator:
        """Its averaged generator. InputError when the file is not the one that the run wrote."""
        path = self.folder / "generator.safetensors"
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != self.summary["sha256"]:
            raise InputError(f"{path} is missing or damaged: delete {self.folder} to train it again.")
        return load_generator(path).to(device)

    @property
    def stale(self) -> bool:
        """Whether another version of the library made it."""
        return self.summary["code"] != code_hash()

    def log(self) -> list[dict]:
        """One dict per logged interval: step, the mean of every loss, seconds."""
        return checkpoints.read_lines(self.folder / "metrics.jsonl")

    def events(self) -> list[dict]:
        """What befell it, if anything did: damaged checkpoints, rates that were halved. See checkpoints.events."""
        return checkpoints.events(self.folder)

    def samples(self) -> dict[int, np.ndarray]:
        """Step -> (N, S, S, 3) uint8: the faces that are watched, over training time."""
        return {int(p.stem): np.load(p) for p in sorted((self.folder / "samples").glob("*.npy"))}


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


def pretrain_folder(profile: Profile, runs: Path, faces: "data.ImageSet") -> Path:
    """Where the pretraining of a profile lives: named by the settings and data that decide it."""
    ignored = tuple(f for f in profile.__dataclass_fields__ if f not in PRETRAIN_SETTINGS)
    return runs / f"pretrain-{profile.key(ignored, faces.hash)}"


def train_folder(profile: Profile, runs: Path, faces: "data.ImageSet", cartoons: "data.ImageSet", style: str) -> Path:
    """Where the training of a profile in a style lives."""
    profile = profile.of(style)
    return runs / f"{style}-{profile.key(NOT_IN_KEY, faces.hash, cartoons.hash)}"


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
                np.save(self.folder / "samples" / f"{self.step:06d}.npy", data.to_uint8(generator(photos)))

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


def code_hash() -> str:
    """Short hash of the modules that decide what a run produces."""
    names = "data features landmarks losses networks representations steps superpixels training".split()
    content = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:8]


def _finished(folder: Path, progress: Callable) -> Run | None:
    """The run in a folder, if whole. One that older code made is used and said to be so: hours are not thrown away."""
    if not (folder / "summary.json").exists():
        return None
    run = Run.open(folder)
    if run.stale:
        progress(f"{run.summary['title']}: made by another version of cartoonlib; delete {folder} to run it again")
    return run


def photo_batches(profile: Profile, faces: "data.ImageSet", accelerator: Accelerator) -> "data.Batches":
    """This process's part of the batches of photos. InputError when the processes cannot share a batch."""
    return _batches(profile, faces, profile.seed, accelerator)


def train_batches(
    profile: Profile, faces: "data.ImageSet", cartoons: "data.ImageSet", accelerator: Accelerator
) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Step -> what TrainStep takes: this process's photos and cartoons, and the weights of the colour shift."""
    photos = photo_batches(profile, faces, accelerator)
    drawings = _batches(profile, cartoons, profile.seed + 1, accelerator)
    shape = (1, 1) if profile.color_shift == "batch" else (profile.size, profile.size)
    draws = data.PerStep(
        lambda step: {"grey": representations.color_shift_weights(_rng(profile.seed, step), shape)}, accelerator.device
    )
    return lambda step: (photos(step), drawings(step), draws(step)["grey"])


def _batches(profile: Profile, images: "data.ImageSet", seed: int, accelerator: Accelerator) -> "data.Batches":
    profile = profile.replace(processes=accelerator.num_processes)  # checks that so many can share a batch
    shard = accelerator.process_index, accelerator.num_processes
    return data.Batches(images, profile.size, profile.batch, seed, accelerator.device, profile.augment, shard)


def _rng(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))


def pretrain(profile: Profile, runs: Path, faces: "data.ImageSet", progress: Callable[[str], None] = print) -> Run:
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
    profile: Profile, runs: Path, faces: "data.ImageSet", cartoons: "data.ImageSet", style: str,
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
        watched = data.center_crop(faces.part("test"), profile.size)
    watched = data.to_tensor(watched[:4]).to(accelerator.device)

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
        about = {"style": style, "variant": title, "dtype": str(update.dtype), "step": update.how}
        return loop.finish(update.ema, **about, data=[faces.hash, cartoons.hash])

    def one_step(profile: Profile) -> None:
        TrainStep(profile, accelerator, start)(*train_batches(profile, faces, cartoons, accelerator)(0))

    with guards.alone(folder, accelerator):
        if run := _finished(folder, progress):  # by the process that held the folder before
            return run
        return guards.attempt(profile, folder, f"{style}, {title}", progress, accelerator, attempt, one_step)
