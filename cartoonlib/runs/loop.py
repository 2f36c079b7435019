"""What pretraining and training share: the run folder with its checkpoints, log and samples, and the guards' checks."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..files import InputError, write_atomic
from ..images import to_uint8
from ..networks import Generator, save_generator
from ..profile import Profile
from . import checkpoints, guards
from .store import Run, code_hash


class Loop:
    """Counts the steps of a run, and keeps what they leave; goes on from the last whole checkpoint.

    Of several processes the first alone writes; the others read the checkpoint and stop where it stops.

    Args:
        parts: everything that has a state dict, by name.
        progress: is told the step and the time left, every two seconds at most.
    """

    def __init__(
        self, profile: Profile, folder: Path, title: str, steps: int, parts: dict, progress: Callable,
        accelerator: Accelerator,
    ):  # fmt: skip
        self.profile, self.folder, self.title, self.steps = profile, folder, title, steps
        self.parts, self.progress = parts, progress
        self.step, self.seconds, self._sums, self._names, self._count = 0, 0.0, None, [], 0
        self._code, self._accelerator, self._writes = code_hash(), accelerator, accelerator.is_main_process
        state = checkpoints.load(folder, self._tell)
        if state is not None:
            self._resume(state)
        self._rows = [row for row in checkpoints.read_lines(folder / "metrics.jsonl") if row["step"] <= self.step]
        if self._writes:
            checkpoints.write_lines(folder / "metrics.jsonl", self._rows)
        self._started = time.monotonic() - self.seconds
        self._last_progress = 0.0

    def _tell(self, step: int, event: str) -> None:
        """Say what happened to the run, and keep it for the notebook."""
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

    def advance(self, losses: dict[str, Tensor]) -> None:
        """End a step with its losses, scalars that stay on the device until the next log line.

        Logs, checks, saves and tells when it is time for that. Raises guards.Diverged.
        """
        values, self._names = torch.stack(list(losses.values())), list(losses)
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1
        self.step += 1
        self.seconds = time.monotonic() - self._started
        if self.step % self.profile.log_every == 0 or self.step == self.steps:
            self._log()
        if self.step % self.profile.checkpoint_every == 0 and self.step < self.steps:
            self._save()
        now = time.monotonic()
        if self._writes and (now - self._last_progress > 2 or self.step == self.steps):
            left = self.seconds / self.step * (self.steps - self.step)
            self.progress(f"{self.title}: step {self.step}/{self.steps}, {left / 60:.1f} min left")
            self._last_progress = now

    def _log(self) -> None:
        means = self._accelerator.reduce(self._sums, "mean") / self._count  # over processes, over steps
        row = {"step": self.step, **dict(zip(self._names, means.tolist())), "seconds": round(self.seconds, 3)}
        guards.check(row, self._rows, self.profile)
        self._rows.append(row)
        if self._writes:
            checkpoints.write_lines(self.folder / "metrics.jsonl", self._rows)
        self._sums, self._count = None, 0

    def _save(self) -> None:
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

    def sample(self, generator: Generator, photos: Tensor) -> None:
        """Keep what the generator makes of a few photos, (N, 3, S, S) in [-1, 1], at this step."""
        if self._writes:
            (self.folder / "samples").mkdir(exist_ok=True)
            with torch.no_grad():
                np.save(self.folder / "samples" / f"{self.step:06d}.npy", to_uint8(generator(photos)))

    def finish(self, generator: Generator, **about) -> Run:
        """Write the generator and the summary, to which `about` is added; the run is whole."""
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
