"""The structure start in a notebook: the looks of the styles, and the drawings that they give as its targets."""

import numpy as np
import torch

from ..dataset.sets import Sets
from ..dataset.structures import structure
from ..images import to_tensor, to_uint8
from ..looks import drawn
from ..media.faces import CANONICAL
from ..networks import Generator
from ..profile import Look, Profile
from ..runs import store, training
from ..step import TrainStep
from . import metrics


def structures(photos: np.ndarray, look: Look) -> np.ndarray:
    """What a look of aligned photos is drawn from, see dataset.structures: uint8 (N, S, S, 3) -> (N, S, S, 4 or 6).

    Eyes and mouths are taken to lie where alignment puts them, which is a few px off at most.
    """
    return to_uint8(structure(to_tensor(photos), torch.from_numpy(CANONICAL).expand(len(photos), -1, -1), look))


def target(photos: np.ndarray, profile: Profile) -> np.ndarray:
    """What content, anchor and total variation hold the output to: photos drawn in the profile's look, uint8.

    The photos themselves where nothing starts from such drawings.
    """
    if not profile.start_steps:
        return photos
    return to_uint8(drawn(to_tensor(structures(photos, profile.look)), profile.look))


def logs(runs: dict[str, store.Run]) -> dict[str, list[dict]]:
    """Style -> log of its start; none of a style that goes on from the pretraining itself."""
    return {style: rows for style, run in runs.items() if (rows := run.log()) and "anchor" in rows[-1]}


def adversarial(
    profile: Profile, sets: Sets, style: str, generator: Generator, steps: int, photos: np.ndarray
) -> tuple[dict[int, np.ndarray], list[float]]:
    """Train a copy of a generator against the discriminators from where it is, without a structure start or an anchor.

    Outside of a run, whose guards would stop a picture that stays flat. Returns what it makes of photos, uint8, at five
    steps (step -> pictures), and the content loss at every step: how far from the photos its outputs are.
    """
    p = profile.of(style).replace(start_steps=0, weights={"anchor": 0.0})
    accelerator = training.make_accelerator(p)
    update = TrainStep(p, accelerator, generator.state_dict())
    batches = training.TrainBatches(p, sets.faces, sets.cartoons[style], accelerator)
    strip, content = {}, []
    for step in range(steps + 1):
        if step % max(1, steps // 4) == 0:
            strip[step] = metrics.generate(update.generator, photos, accelerator.device)
        content.append(float(update(*batches(step))["content"]))
    return strip, content
