"""What a run keeps in its folder, which settings and data name: checkpoints, log and events, generator and summary."""

import ast
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import files
from ..dataset.prepare import ImageSet
from ..files import InputError, write_atomic
from ..networks import Generator, load_generator
from ..profile import Look, Profile

# The settings on which a pretrained generator depends: rows of the ablation table that agree in these share one.
PRETRAIN_SETTINGS = (
    "faces", "size", "face_limit", "test_fraction", "augment", "seed", "batch", "pretrain_steps", "generator_rate",
    "precision", "skips", "tanh", "slope", "padding",
)  # fmt: skip
# And those on which one depends that has learned its style's look.
START_SETTINGS = (
    *PRETRAIN_SETTINGS, "start_batch", "start_steps", "start_rate", "decay", "ema", "output_eps", "output_radius",
    *Look.model_fields,
)  # fmt: skip
# Settings that do not change a run's result, but for rounding.
NOT_IN_KEY = (
    "styles", "log_every", "checkpoint_every", "ablation_steps", "step", "processes", "bench_repeats", "on_divergence",
)  # fmt: skip
KEPT = 2  # checkpoints; when the last one is damaged, the one before it is used


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what summary.json says."""

    folder: Path
    summary: dict

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A finished run, from its folder."""
        if not is_finished(folder):
            raise InputError(f"{folder} holds no finished run: run the notebook that trains it first (make reproduce).")
        return cls(folder, json.loads((folder / "summary.json").read_text(encoding="utf-8")))

    @classmethod
    def find(cls, folder: Path, progress: Callable[[str], None]) -> "Run | None":
        """The finished run in a folder, if any. One that older code made is used and said to be so: hours are kept."""
        if not is_finished(folder):
            return None
        run = cls.open(folder)
        if run.stale:
            progress(f"{run.summary['title']}: made by another version of cartoonlib; delete {folder} to run it again")
        return run

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
        return read_lines(self.folder / "metrics.jsonl")

    def events(self) -> list[dict]:
        """What happened to it: damaged checkpoints, rates that were halved."""
        return read_events(self.folder)

    def samples(self) -> dict[int, np.ndarray]:
        """Step -> (N, S, S, 3) uint8: the faces that are watched, over training time."""
        return {int(p.stem): np.load(p) for p in sorted((self.folder / "samples").glob("*.npy"))}


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def runs_folder(profile: Profile) -> Path:
    """Where all runs of a profile lie."""
    return files.RESULTS / profile.name / "runs"


def pretrain_folder(profile: Profile, runs: Path, faces: ImageSet) -> Path:
    """Where the pretraining of a profile lives: named by the settings and data that decide it."""
    return runs / f"pretrain-{_key(profile, PRETRAIN_SETTINGS, faces)}"


def start_folder(profile: Profile, runs: Path, faces: ImageSet) -> Path:
    """Where the structure start lives, which rows of one look share; without one, that is the pretraining."""
    if not profile.start_steps:
        return pretrain_folder(profile, runs, faces)
    return runs / f"start-{_key(profile, START_SETTINGS, faces)}"


def _key(profile: Profile, settings: tuple[str, ...], faces: ImageSet) -> str:
    return profile.key(tuple(key for key in profile.flat() if key not in settings), faces.hash)


def train_folder(profile: Profile, runs: Path, faces: ImageSet, cartoons: ImageSet, style: str) -> Path:
    """Where the training of a profile in a style lives."""
    return runs / f"{style}-{profile.of(style).key(NOT_IN_KEY, faces.hash, cartoons.hash)}"


def code_hash() -> str:
    """Short hash of the code that decides what a run produces: the method, batches and the training loops.

    Of its definitions, wherever they stand, without comments and docstrings: a file that is moved or split changes
    nothing, a constant that is changed does. Not of files.py, where nothing of a result is decided.
    """
    package, definitions = Path(__file__).parent.parent, []
    rooms = "dataset/batches.py dataset/lines.py dataset/structures.py runs/loop.py runs/training.py".split()
    not_defining = ast.Import, ast.ImportFrom, ast.If  # such as `if __name__ == "__main__"`
    method = (path for path in package.glob("*.py") if path.stem not in ("files", "__init__", "__main__"))
    for path in (*method, *map(package.joinpath, rooms)):
        module = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(module):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        definitions += [ast.unparse(node) for node in module.body if not isinstance(node, not_defining)]
    return hashlib.sha256("\n".join(sorted(definitions)).encode()).hexdigest()[:8]


def save_checkpoint(folder: Path, step: int, state: dict) -> None:
    """Write checkpoint-<step>-<start of its SHA-256>.pt, and delete all but the newest ones."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_atomic(folder / f"checkpoint-{step:06d}-{_short_hash(content)}.pt", content)
    for _, old in _checkpoints(folder)[KEPT:]:
        old.unlink()


def load_checkpoint(folder: Path, tell: Callable[[int, str], None]) -> dict | None:
    """The state of the newest checkpoint whose content has the hash of its name; None when there is none.

    `tell` hears of damaged ones, with their step; they are not used. No file can run code (weights_only).
    """
    for step, path in _checkpoints(folder):
        content = path.read_bytes()
        if path.stem.rpartition("-")[2] == _short_hash(content):
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        tell(step, f"{path.name} is damaged (its content has not the hash of its name): gone on without it")
    return None


def discard_checkpoints(folder: Path, after: int = -1) -> None:
    """Delete the checkpoints of later steps than `after`."""
    for step, path in _checkpoints(folder):
        if step > after:
            path.unlink()


def _short_hash(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path), the newest first."""
    found = [(int(path.stem.split("-")[1]), path) for path in folder.glob("checkpoint-*.pt")]
    return sorted(found, key=lambda each: (each[0], each[1].stat().st_mtime_ns), reverse=True)


def read_lines(path: Path) -> list[dict]:
    """The JSON values of a file with one on each line; none when there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, rows: list[dict]) -> None:
    """The inverse of read_lines: the whole file anew, for a line that is appended may be cut in two by a kill."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_events(folder: Path) -> list[dict]:
    """What happened to a run, one dict each: step, event (a sentence), `halved` (the rates that were halved then)."""
    return read_lines(folder / "events.jsonl")


def add_event(folder: Path, step: int, event: str, halved: tuple[str, ...] = ()) -> None:
    """Note what happened to a run, after what did before; once, though it may be found again at the next start."""
    row, before = {"step": step, "event": event, "halved": list(halved)}, read_events(folder)
    if halved or row not in before:
        write_lines(folder / "events.jsonl", [*before, row])
