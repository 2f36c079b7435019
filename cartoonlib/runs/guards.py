"""What keeps a run from being lost or wasted: one process at a time, a check for divergence, memory that runs out."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from ..files import InputError, lock
from ..profile import Profile
from . import checkpoints

FLAT = 0.1  # of the photos' contrast, below which the output has collapsed to a flat picture
WON, PATIENCE = 0.002, 200  # a discriminator whose loss stays below this for so many steps has won: nothing is learned
BACK_OFFS = 3  # times that a run may halve its rates, where the profile says so


class TrainingStopped(InputError):
    """Training went wrong in a way that more steps will not mend."""


class Diverged(Exception):
    """A run went wrong.

    Args:
        step: at which this was found.
        problem: what is wrong.
        advice: what to do about it.
        good: the last step at which all was well.
        rates: the settings of the rates that seem too high.
    """

    def __init__(self, step: int, problem: str, advice: str, good: int, rates: tuple[str, ...]):
        super().__init__(problem)
        self.step, self.advice, self.good, self.rates = step, advice, good, rates


def check(row: dict, before: list[dict], profile: Profile) -> None:
    """Raise Diverged unless a run is sound by the losses that it logs now, `row`, and those that it logged before.

    What goes wrong is noticed `log_every` steps later at most, and a discriminator that has won PATIENCE steps later.
    """
    step, good = row["step"], before[-1]["step"] if before else 0
    rates = ("generator_rate", "discriminator_rate")
    if bad := [name for name, value in row.items() if not np.isfinite(value)]:
        advice = "Lower the rates or the weights of the losses."
        raise Diverged(step, f"the loss {bad[0]} is not a finite number", advice, good, rates)
    if row.get("contrast", 1.0) < FLAT:
        problem = f"the output has collapsed to a flat picture (its contrast is {row['contrast']:.0%} of the photos')"
        raise Diverged(step, problem, "Pretrain longer or raise the content weight.", good, rates)
    recent = [*(old for old in before if old["step"] > step - PATIENCE), row]
    for name in ("surface", "texture"):  # a discriminator whose loss has no weight wins, and does no harm
        judged = step >= PATIENCE and f"d_{name}" in row and getattr(profile.weights, name) > 0
        if judged and all(each[f"d_{name}"] < WON for each in recent):
            problem = f"the {name} discriminator has won (its loss has been below {WON} for {PATIENCE} steps)"
            advice = f"Lower discriminator_rate or raise the weight of {name}."
            raise Diverged(step, problem, advice, max(0, step - PATIENCE), rates[1:])


@contextlib.contextmanager
def one_process_at_a_time(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold a run's folder in this process, of several in the first; delete what a killed process left half-written."""
    if not accelerator.is_main_process:
        yield
        return
    busy = f"Another process is training in {folder}: wait until it has ended, or stop it."
    with lock(folder.with_name(f".{folder.name}.lock"), busy):
        folder.mkdir(exist_ok=True)
        for unfinished in folder.glob(".*"):
            unfinished.unlink()
        yield


def with_halved_rates(profile: Profile, folder: Path) -> Profile:
    """The profile with the rates halved as often as the events of the run in a folder say."""
    halved = Counter(rate for event in checkpoints.events(folder) for rate in event["halved"])
    return profile.replace(**{rate: getattr(profile, rate) / 2**count for rate, count in halved.items()})


def back_off(
    problem: Diverged, profile: Profile, folder: Path, title: str, progress: Callable, accelerator: Accelerator
) -> None:
    """Delete the checkpoints since all was well, and note that the rates that seem too high are halved from now on.

    Raises TrainingStopped when the profile says so, or after BACK_OFFS times.
    """
    before = sum(bool(event["halved"]) for event in checkpoints.events(folder))
    if profile.on_divergence == "stop" or before == BACK_OFFS:
        raise TrainingStopped(
            f"{title} stopped at step {problem.step}: {problem}. {problem.advice} "
            f"The last good checkpoint is in {folder}."
        ) from None
    if accelerator.is_main_process:
        checkpoints.discard(folder, problem.good)
        rates = " and ".join(problem.rates)
        event = f"{problem}: gone back to before step {problem.good + 1}, with half of {rates}"
        checkpoints.add_event(folder, problem.step, event, problem.rates)
        progress(f"{title}: {event}")
    accelerator.wait_for_everyone()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of the GPU or of the machine."""
    kinds = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return kinds or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def out_of_memory(title: str, batch: int, fits: int) -> InputError:
    """The error for the user when memory ran out with a batch; `fits` is one that fits, 0 when none was found."""
    advice = f"`batch: {fits}` fits: set that" if fits else "set a smaller `batch` or `size`"
    return InputError(f"{title}: memory ran out with `batch: {batch}`; {advice} in the profile.")
