"""What keeps a run from being lost or wasted: one process at a time, divergence that is noticed, memory that runs out."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator

from ..files import InputError, lock
from ..profile import Profile
from . import checkpoints

FLAT = 0.1  # of the photos' contrast, below which the output has collapsed to a flat picture
WON, PATIENCE = 0.002, 200  # a discriminator whose loss stays below this for so many steps has won: nothing is learned
BACK_OFFS = 3  # times that a run may halve its rates, where the profile says so
T = TypeVar("T")


class TrainingStopped(InputError):
    """Training went wrong in a way that more steps will not mend."""


class Diverged(Exception):
    """Found wrong at a step; with what to do, the last step at which all was well, and the rates that seem too high."""

    def __init__(self, step: int, what: str, advice: str, good: int, rates: tuple[str, ...]):
        super().__init__(what)
        self.step, self.advice, self.good, self.rates = step, advice, good, rates


def check(row: dict, before: list[dict], profile: Profile) -> None:
    """Raise Diverged unless a run is sound by the losses that it logs now, `row`, and those that it logged before.

    So what goes wrong is noticed `log_every` steps later at most, and a discriminator that has won PATIENCE steps after.
    """
    step, good = row["step"], before[-1]["step"] if before else 0
    rates = ("generator_rate", "discriminator_rate")
    if bad := [name for name, value in row.items() if not np.isfinite(value)]:
        advice = "Lower the rates or the weights of the losses."
        raise Diverged(step, f"the loss {bad[0]} is not a finite number", advice, good, rates)
    if row.get("contrast", 1.0) < FLAT:
        what = f"the output has collapsed to a flat picture (its contrast is {row['contrast']:.0%} of the photos')"
        raise Diverged(step, what, "Pretrain longer or raise the content weight.", good, rates)
    recent = [*(old for old in before if old["step"] > step - PATIENCE), row]
    for name in ("surface", "texture"):  # a discriminator whose loss has no weight wins, and does no harm
        judged = step >= PATIENCE and f"d_{name}" in row and getattr(profile.weights, name) > 0
        if judged and all(each[f"d_{name}"] < WON for each in recent):
            what = f"the {name} discriminator has won (its loss has been below {WON} for {PATIENCE} steps)"
            advice = f"Lower discriminator_rate or raise the weight of {name}."
            raise Diverged(step, what, advice, max(0, step - PATIENCE), rates[1:])


@contextlib.contextmanager
def alone(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """A run's folder, held by this process, of several by the first; what a killed one left half-written is deleted."""
    if not accelerator.is_main_process:
        yield
        return
    busy = f"Another process is training in {folder}: wait until it has ended, or stop it."
    with lock(folder.with_name(f".{folder.name}.lock"), busy):
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*"):
            left.unlink()
        yield


def attempt(
    profile: Profile, folder: Path, title: str, progress: Callable, accelerator: Accelerator,
    make: Callable[[Profile], T], one_step: Callable[[Profile], None],
) -> T:  # fmt: skip
    """What `make` returns for a profile, whose rates may have been halved before.

    Diverged, it stops, or goes back to the last checkpoint at which all was well, with half the rates (of the
    discriminators alone when one has won), BACK_OFFS times at most. `one_step` of a profile tells what fits into memory.
    """
    while True:
        past = [event["halved"] for event in checkpoints.events(folder) if event["halved"]]
        halved = Counter(rate for rates in past for rate in rates)
        rates = {rate: getattr(profile, rate) / 2**count for rate, count in halved.items()}
        try:
            return make(profile.replace(**rates))
        except Diverged as problem:
            if profile.on_divergence == "stop" or len(past) == BACK_OFFS:
                raise TrainingStopped(
                    f"{title} stopped at step {problem.step}: {problem}. {problem.advice} "
                    f"The last good checkpoint is in {folder}."
                ) from None
            if accelerator.is_main_process:
                checkpoints.discard(folder, problem.good)
                event = f"{problem}: gone back to before step {problem.good + 1}, with half of {' and '.join(problem.rates)}"
                checkpoints.add_event(folder, problem.step, event, problem.rates)
                progress(f"{title}: {event}")
            accelerator.wait_for_everyone()
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            break
    fits = _batch_that_fits(profile, accelerator, one_step)  # out here, where nothing holds the failed step's memory
    advice = f"`batch: {fits}` fits: set that" if fits else "set a smaller `batch` or `size`"
    raise InputError(f"{title}: memory ran out with `batch: {profile.batch}`; {advice} in the profile.")


def _out_of_memory(error: Exception) -> bool:
    kinds = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return kinds or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _batch_that_fits(profile: Profile, accelerator: Accelerator, one_step: Callable[[Profile], None]) -> int:
    """Half the batch, or a half of that, for which one step runs; 0 when none does, or when processes share batches."""
    batch = profile.batch // 2 if accelerator.num_processes == 1 else 0
    while batch:
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            one_step(profile.replace(batch=batch, step="eager"))
            break
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        batch //= 2
    return batch
