"""What a run leaves: its folder, named by settings and data, its summary and its generator."""

import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import files
from ..dataset.prepare import ImageSet
from ..files import InputError
from ..networks import Generator, load_generator
from ..profile import Profile
from . import checkpoints

# The settings on which a pretrained generator depends: rows of the ablation table that agree in these share one.
PRETRAIN_SETTINGS = (
    "faces", "size", "face_limit", "test_fraction", "augment", "seed", "batch", "pretrain_steps", "generator_rate",
    "precision", "skips", "tanh", "slope", "padding",
)  # fmt: skip
# Settings that do not change a run's result, but for rounding.
NOT_IN_KEY = (
    "styles", "log_every", "checkpoint_every", "ablation_steps", "step", "processes", "bench_repeats", "on_divergence",
)  # fmt: skip


_NO_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Expr, ast.If)  # imports, the docstring, `if __name__ == "__main__"`


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
        return cls(folder, json.loads(path.read_text(encoding="utf-8")))

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
        """What happened to it: damaged checkpoints, rates that were halved. See checkpoints.events."""
        return checkpoints.events(self.folder)

    def samples(self) -> dict[int, np.ndarray]:
        """Step -> (N, S, S, 3) uint8: the faces that are watched, over training time."""
        return {int(p.stem): np.load(p) for p in sorted((self.folder / "samples").glob("*.npy"))}


def runs_folder(profile: Profile) -> Path:
    """Where all runs of a profile lie."""
    return files.RESULTS / profile.name / "runs"


def pretrain_folder(profile: Profile, runs: Path, faces: ImageSet) -> Path:
    """Where the pretraining of a profile lives: named by the settings and data that decide it."""
    ignored = tuple(key for key in profile.flat() if key not in PRETRAIN_SETTINGS)
    return runs / f"pretrain-{profile.key(ignored, faces.hash)}"


def train_folder(profile: Profile, runs: Path, faces: ImageSet, cartoons: ImageSet, style: str) -> Path:
    """Where the training of a profile in a style lives."""
    profile = profile.of(style)
    return runs / f"{style}-{profile.key(NOT_IN_KEY, faces.hash, cartoons.hash)}"


def code_hash() -> str:
    """Short hash of the code that decides what a run produces: the method, batches and the training loops.

    Of its definitions, wherever they stand, without comments and docstrings: a file that is moved or split changes
    nothing, a constant that is changed does.
    """
    package = Path(__file__).parent.parent
    definitions = []
    rooms = package / "dataset" / "batches.py", package / "runs" / "loop.py", package / "runs" / "training.py"
    for path in (*package.glob("*.py"), *rooms):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        definitions += [_without_docstrings(node) for node in tree.body if not isinstance(node, _NO_DEFINITIONS)]
    return hashlib.sha256("\n".join(sorted(definitions)).encode()).hexdigest()[:8]


def _without_docstrings(definition: ast.stmt) -> str:
    for node in ast.walk(definition):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(definition)
