"""The Face Research Lab London Set: landmarks against points that people set by hand."""

import json

import numpy as np
import torch
from torch import nn

from ..dataset import catalogue, origins
from ..media.faces import align, detect_faces
from ..runs.store import Run
from . import metrics
from .detector import DETECTOR

# Eye corners, base of the nose and corners of the mouth: among the London Set's 189 points, and among 68.
AMONG_189, AMONG_68 = (18, 22, 23, 27, 55, 87, 93), (36, 39, 42, 45, 33, 48, 54)
EYES = (0, 3)  # the outer eye corners among these seven


def hand_made_points(size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The aligned faces of the London Set and seven points set by hand on each; None when the set is not at hand.

    uint8 (N, size, size, 3) and (N, 7, 2) in units of the side; faces without points of their own are left out.
    """
    source = catalogue.find("london")
    if not (source.path / "points189.json").is_file():
        return None
    by_name = json.loads((source.path / "points189.json").read_text(encoding="utf-8"))
    aligned, truth = [], []
    for path in catalogue.listing(source)[0]:
        picture = np.array(origins.decode(path.read_bytes())) if path.stem in by_name else None
        faces = [] if picture is None else detect_faces(picture)
        if not faces:
            continue
        image, points = align(picture, faces[0].points, size)
        ones = np.ones((len(points), 1))
        transform = np.linalg.lstsq(np.hstack([faces[0].points, ones]), points, rcond=None)[0]  # exact: a similarity
        seven = np.array(by_name[path.stem])[list(AMONG_189)] + 0.5  # theirs count from a pixel's centre
        aligned.append(image)
        truth.append(np.hstack([seven, np.ones((len(seven), 1))]) @ transform)
    return np.stack(aligned), np.stack(truth)


def measured_rows(
    runs: dict[str, Run], detector: nn.Module, size: int, seed: int, device: torch.device | str
) -> list[dict]:
    """Rows of metrics.json: what the detector finds against points set by hand, on photos and each style's cartoons.

    size: side of the aligned faces in px.  An empty list when the set is not at hand.
    """
    if (hand_made := hand_made_points(size)) is None:
        return []
    photos, truth = hand_made
    rows = []
    for style, run in {"-": None, **runs}.items():
        pictures = metrics.generate(run.generator(device), photos, device) if run else photos
        found = metrics.landmarks_of(detector, pictures, device)[:, AMONG_68]
        error = metrics.mean_estimate(metrics.landmark_errors(found, truth, EYES))
        variant = "full method" if run else "untouched photo"
        networks = {"hand_made_error": DETECTOR}
        rows += metrics.rows({"hand_made_error": error}, networks, run, style, variant, "london", seed)
    return rows
