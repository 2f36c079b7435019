"""What pretraining and training share: a stage that runs under the guards, and the loop that keeps what steps leave."""

import abc
import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
from collections import Counter
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
from . import guards, store
from .store import Run, code_hash

BACK_OFFS = 3  # times that a run may halve its rates, where the profile says so


@dataclasses.dataclass
class Stage(abc.ABC):
    """A run that is to be made: `run` makes it under the guards, out of what each kind of training defines."""

    profile: Profile
    folder: Path
    title: str
    progress: Callable[[str], None]
    accelerator: Accelerator

    @abc.abstractmethod
    def train(self, profile: Profile) -> Run:
        """All steps by this profile, whose rates may have been halved. Raises guards.Diverged."""

    @property
    def writes(self) -> bool:
        """Whether this process writes and tells: of several, the first."""
        return self.accelerator.is_main_process

    @property
    def batch_setting(self) -> str:
        """The setting that its batch has its size from."""
        return "batch"

    def tell(self, step: int, event: str, halved: tuple[str, ...] = ()) -> None:
        """Say what happened to the run, and keep it for the notebook."""
        if self.writes:
            store.add_event(self.folder, step, event, halved)
            self.progress(f"{self.title}: {event}")

    def run(self) -> Run:
        """Train while no other process does so in this folder.

        When the run diverges it stops, or goes on with half its rates. Raises guards.TrainingStopped; and InputError,
        which names a batch that fits, when memory runs out.
        """
        with guards.one_process_at_a_time(self.folder) if self.writes else contextlib.nullcontext():
            if run := Run.find(self.folder, self.progress):  # by the process that held the folder before
                return run
            while True:
                back_offs = [event["halved"] for event in store.read_events(self.folder) if event["halved"]]
                halved = Counter(rate for rates in back_offs for rate in rates)
                rates = {rate: getattr(self.profile, rate) / 2**count for rate, count in halved.items()}
                try:
                    return self.train(self.profile.replace(**rates))
                except guards.Diverged as problem:
                    self._back_off(problem, len(back_offs))
                    self.accelerator.free_memory()
                except (RuntimeError, MemoryError) as error:
                    if not guards.is_out_of_memory(error):
                        raise
                    break  # the search for a batch that fits begins when nothing holds this step's memory any more
            fits, batch, name = self._batch_that_fits(), self.profile.batch, self.batch_setting
            advice = f"`{name}: {fits}` fits: set that" if fits else f"set a smaller `{name}` or `size`"
            raise InputError(f"{self.title}: memory ran out with `{name}: {batch}`; {advice} in the profile.")

    def _back_off(self, problem: guards.Diverged, before: int) -> None:
        """Delete the checkpoints since all was well, and note that the rates that seem too high are halved from now on.

        Raises TrainingStopped when the profile says so, or when that was done BACK_OFFS times before.
        """
        if self.profile.on_divergence == "stop" or before == BACK_OFFS:
            raise guards.TrainingStopped(
                f"{self.title} stopped at step {problem.step}: {problem}. {problem.advice} "
                f"The last good checkpoint is in {self.folder}."
            ) from None
        if self.writes:
            store.discard_checkpoints(self.folder, after=problem.good)
        rates = " and ".join(problem.rates)
        event = f"{problem}: gone back to before step {problem.good + 1}, with half of {rates}"
        self.tell(problem.step, event, problem.rates)
        self.accelerator.wait_for_everyone()

    def _batch_that_fits(self) -> int:
        """Half the batch, or a half of that, and so on; 0 when not one photo fits, or when processes share batches."""
        batch = self.profile.batch // 2 if self.accelerator.num_processes == 1 else 0
        while batch:
            self.accelerator.free_memory()  # of the attempt before
            steps = {"pretrain_steps": 1, "start_steps": min(1, self.profile.start_steps), "train_steps": 1}
            one_step = self.profile.replace(batch=batch, step="eager", **steps)
            try:
                with tempfile.TemporaryDirectory() as folder, contextlib.suppress(guards.Diverged):
                    dataclasses.replace(self, folder=Path(folder), progress=lambda _line: None).train(one_step)
                break
            except (RuntimeError, MemoryError) as error:
                if not guards.is_out_of_memory(error):
                    raise
            batch //= 2
        return batch


class Loop:
    """Counts the steps of a stage, and keeps what they leave; goes on from the last whole checkpoint.

    Of several processes the first alone writes; the others read the checkpoint and stop where it stops. The profile is
    that of the stage, or with other rates; `parts` is everything that has a state dict, by name.
    """

    def __init__(self, stage: Stage, profile: Profile, steps: int, parts: dict):
        self.stage, self.folder, self.profile, self.steps, self.parts = stage, stage.folder, profile, steps, parts
        self.step, self.seconds, self._sums, self._names, self._count = 0, 0.0, None, [], 0
        self._code = code_hash()
        if state := store.load_checkpoint(self.folder, stage.tell):
            self._resume(state)
        self._rows = [row for row in store.read_lines(self.folder / "metrics.jsonl") if row["step"] <= self.step]
        if stage.writes:
            store.write_lines(self.folder / "metrics.jsonl", self._rows)
        self._started = time.monotonic() - self.seconds
        self._last_progress = 0.0

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
        self._sums = None if state["sums"] is None else state["sums"].to(self.stage.accelerator.device)

    def advance(self, losses: dict[str, Tensor]) -> None:
        """End a step with its losses, scalars that stay on the device until the next log line.

        Logs, checks and saves when it is time for that, and tells the time left, every two seconds at most. Raises
        guards.Diverged.
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
        if self.stage.writes and (now - self._last_progress > 2 or self.step == self.steps):
            left = self.seconds / self.step * (self.steps - self.step)
            self.stage.progress(f"{self.stage.title}: step {self.step}/{self.steps}, {left / 60:.1f} min left")
            self._last_progress = now

    def _log(self) -> None:
        means = self.stage.accelerator.reduce(self._sums, "mean") / self._count  # over processes, over steps
        row = {"step": self.step, **dict(zip(self._names, means.tolist())), "seconds": round(self.seconds, 3)}
        guards.check(row, self._rows, self.profile)
        self._rows.append(row)
        if self.stage.writes:
            store.write_lines(self.folder / "metrics.jsonl", self._rows)
        self._sums, self._count = None, 0

    def _save(self) -> None:
        networks = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        if not all(p.isfinite().all() for network in networks for p in network.parameters()):
            return  # the last good checkpoint stays, and the next log line stops with a loss that is not finite
        sums = None if self._sums is None else self.stage.accelerator.reduce(self._sums, "mean")
        if self.stage.writes:
            state = {name: part.state_dict() for name, part in self.parts.items()}
            state |= {"step": self.step, "seconds": self.seconds, "code": self._code}
            state |= {"sums": sums, "names": self._names, "count": self._count}
            store.save_checkpoint(self.folder, self.step, state)

    def sample(self, generator: Generator, photos: Tensor) -> None:
        """Keep what the generator makes of a few photos, (N, 3, S, S) in [-1, 1], at this step."""
        if self.stage.writes:
            (self.folder / "samples").mkdir(exist_ok=True)
            with torch.no_grad():
                np.save(self.folder / "samples" / f"{self.step:06d}.npy", to_uint8(generator(photos)))

    def finish(self, generator: Generator, **about) -> Run:
        """Write the generator and the summary, to which `about` is added; the run is whole."""
        accelerator, path = self.stage.accelerator, self.folder / "generator.safetensors"
        if self.stage.writes:
            save_generator(generator, path, title=self.stage.title)
            summary = {
                "title": self.stage.title,
                "steps": self.steps,
                "seconds": round(self.seconds, 1),
                "code": self._code if self._code == code_hash() else "mixed",  # begun by one version, ended by another
                "device": accelerator.device.type,
                "processes": accelerator.num_processes,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            } | about
            write_atomic(self.folder / "summary.json", json.dumps(summary, indent=1))
            store.discard_checkpoints(self.folder)  # 26 MB each, that nothing needs once the run is whole
        accelerator.wait_for_everyone()
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
