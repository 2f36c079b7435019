"""What keeps a run from being lost or wasted: one process at a time, a check for divergence, memory that runs out."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..files import InputError, lock
from ..profile import Profile

FLAT = 0.1  # of the photos' contrast, below which the output has collapsed to a flat picture
WON, PATIENCE = 0.002, 200  # a discriminator whose loss stays below this for so many steps has won: nothing is learned


class TrainingStopped(InputError):
    """Training went wrong in a way that more steps will not mend."""


class Diverged(Exception):
    """A run went wrong, which was found at `step`; at the step `good` all was still well.

    advice: what to do about it.  rates: the settings of the rates that seem too high.
    """

    def __init__(self, step: int, problem: str, advice: str, good: int, rates: tuple[str, ...]):
        super().__init__(problem)
        self.step, self.advice, self.good, self.rates = step, advice, good, rates


def check(row: dict, before: list[dict], profile: Profile) -> None:
    """Raise Diverged unless a run is sound by the losses that it logs now, `row`, and those that it logged before.

    What goes wrong is noticed `log_every` steps later at most, and a discriminator that has won PATIENCE steps later.
    """
    step, good = row["step"], before[-1]["step"] if before else 0
    starting = "anchor" in row and "total" not in row  # the structure start, which has a rate of its own
    rates = ("start_rate",) if starting else ("generator_rate", "discriminator_rate")
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
def one_process_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made, in this process; delete what a killed process left half-written."""
    busy = f"Another process is training in {folder}: wait until it has ended, or stop it."
    with lock(folder.with_name(f".{folder.name}.lock"), busy):
        folder.mkdir(exist_ok=True)
        for unfinished in folder.glob(".*"):
            unfinished.unlink()
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of the GPU or of the machine."""
    said = any(words in str(error) for words in ("can't allocate memory", "not enough memory"))
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))
