"""The structure start in a notebook: the looks of the styles, and the drawings that they give as its targets."""

from collections.abc import Iterable

import numpy as np
import torch

from ..dataset.structures import structure
from ..images import to_tensor, to_uint8
from ..looks import drawn
from ..media.faces import CANONICAL
from ..profile import Look, Profile
from ..runs.store import Run


def structures(photos: np.ndarray, look: Look) -> np.ndarray:
    """What a look of aligned photos is drawn from, see dataset.structures: uint8 (N, S, S, 3) -> (N, S, S, 4 or 5).

    Eyes and mouths are taken to lie where alignment puts them, which is a few px off at most.
    """
    points = torch.from_numpy(CANONICAL).expand(len(photos), -1, -1)
    return to_uint8(structure(to_tensor(photos), points, look))


def target(photos: np.ndarray, profile: Profile) -> np.ndarray:
    """What content, anchor and total variation hold the output to: photos drawn in the profile's look, uint8.

    The photos themselves where nothing starts from such drawings.
    """
    if not profile.start_steps:
        return photos
    return to_uint8(drawn(to_tensor(structures(photos, profile.look)), profile.look))


def targets(photos: np.ndarray, profile: Profile, styles: Iterable[str]) -> dict[str, np.ndarray]:
    """Columns of a comparison: the photos in flat regions, at the profile's own price, then each style's drawing."""
    flat_ones = structures(photos, profile.look)[..., :3]
    return {"flat regions": flat_ones, **{style: target(photos, profile.of(style)) for style in styles}}


def logs(runs: dict[str, Run]) -> dict[str, list[dict]]:
    """Style -> log of its start; none of a style that goes on from the pretraining itself."""
    found = {style: run.log() for style, run in runs.items()}
    return {style: rows for style, rows in found.items() if rows and "anchor" in rows[-1]}


def numbers(runs: dict[str, Run]) -> dict[str, dict]:
    """What pretrain.json says of the starts: style -> steps, seconds, and the anchor as first and last logged."""
    return {
        style: {
            "run": runs[style].folder.name, "steps": runs[style].summary["steps"],
            "seconds": runs[style].summary["seconds"], "anchor": [rows[0]["anchor"], rows[-1]["anchor"]],
        }
        for style, rows in logs(runs).items()
    }  # fmt: skip
