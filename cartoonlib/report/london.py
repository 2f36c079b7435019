"""The Face Research Lab London Set: landmarks against points that people set by hand, and pictures drawn whole."""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from skimage.transform import estimate_transform

from ..dataset import catalogue, origins
from ..media.faces import align, detect_faces
from ..runs.store import Run
from . import metrics
from .detector import DETECTOR

# Eye corners, base of the nose and corners of the mouth: among the London Set's 189 points, and among 68.
AMONG_189, AMONG_68 = (18, 22, 23, 27, 55, 87, 93), (36, 39, 42, 45, 33, 48, 54)
EYES = (0, 3)  # the outer eye corners among these seven


class Faces(NamedTuple):
    """Faces of the London Set, and seven points set by hand on each."""

    pictures: list[np.ndarray]  # uint8 (H, W, 3), as they came
    points: list[np.ndarray]  # the detector's five, (5, 2) in px
    truth: np.ndarray  # (N, 7, 2) in units of the side of an aligned face
    size: int  # side of an aligned face in px

    def aligned(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """The faces cut out of their pictures, or of cartoons of these: uint8 (N, size, size, 3)."""
        return np.stack([align(*both, self.size)[0] for both in zip(pictures, self.points, strict=True)])


def hand_made_points(size: int, most: int | None = None) -> Faces | None:
    """The London Set, or the first `most` of it; None when it is not at hand. Faces without points are left out."""
    source = catalogue.find("london")
    if not (source.path / "points189.json").is_file():
        return None
    by_name = json.loads((source.path / "points189.json").read_text(encoding="utf-8"))
    found = []
    for path in (path for path in catalogue.listing(source)[0][:most] if path.stem in by_name):
        picture = np.array(origins.decode(path.read_bytes()))
        for face in detect_faces(picture)[:1]:
            aligned = estimate_transform("similarity", face.points, align(picture, face.points, size)[1])
            seven = np.array(by_name[path.stem])[list(AMONG_189)] + 0.5  # theirs count from a pixel's centre
            found.append((picture, face.points, aligned(seven)))
    pictures, points, truth = map(list, zip(*found))
    return Faces(pictures, points, np.stack(truth), size)


def measured_rows(
    faces: Faces, runs: dict[str, Run], detector: torch.nn.Module, seed: int, device: torch.device | str
) -> list[dict]:
    """Rows of metrics.json: what the detector finds against points set by hand, on photos and each style's cartoons."""
    photos, rows = faces.aligned(faces.pictures), []
    for style, run in {"-": None, **runs}.items():
        pictures = metrics.generate(run.generator(device), photos, device) if run else photos
        found = metrics.landmarks_of(detector, pictures, device)[:, AMONG_68]
        error = metrics.mean_estimate(metrics.landmark_errors(found, faces.truth, EYES))
        variant = "full method" if run else "untouched photo"
        networks = {"hand_made_error": DETECTOR}
        rows += metrics.rows({"hand_made_error": error}, networks, run, style, variant, "london", seed)
    return rows


def whole_rows(
    faces: Faces, run: Run, style: str, evaluator: metrics.Evaluator, seed: int, draw: Callable
) -> list[dict]:
    """Rows of whole.json: what is drawn of whole pictures, as people draw them, beside what is drawn of aligned faces.

    evaluator: of the aligned photos.  draw: of a generator and a picture, uint8 (H, W, 3), the cartoon, the same.
    """
    aligned = metrics.generate(run.generator(evaluator.device), evaluator.photos, evaluator.device)
    whole = faces.aligned(draw(run.generator(), picture) for picture in faces.pictures)
    rows = []
    for variant, pictures in (("aligned faces", aligned), ("whole pictures", whole)):
        rows += metrics.rows(evaluator.measure(pictures), evaluator.networks, run, style, variant, "london", seed)
    return rows
