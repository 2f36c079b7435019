"""What a run keeps while it runs: its last two checkpoints, each named by its content's hash, and its events."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch

from ..files import write_atomic

KEPT = 2  # checkpoints; when the last one is damaged, the one before it is used
EVENTS = "events.jsonl"


def save(folder: Path, step: int, state: dict) -> None:
    """Write checkpoint-<step>-<start of its SHA-256>.pt, and delete all but the newest ones."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    write_atomic(folder / f"checkpoint-{step:06d}-{_hash(content)}.pt", content)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def load(folder: Path, tell: Callable[[int, str], None]) -> dict | None:
    """The state of the newest checkpoint whose content has the hash of its name; None when there is none.

    `tell` hears of damaged ones, with their step; they are not used. No file can run code (weights_only).
    """
    for path in _newest_first(folder):
        content = path.read_bytes()
        if path.stem.rpartition("-")[2] == _hash(content):
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        tell(_step(path), f"{path.name} is damaged (its content has not the hash of its name): gone on without it")
    return None


def discard(folder: Path, after: int = -1) -> None:
    """Delete the checkpoints of later steps than `after`."""
    for path in _newest_first(folder):
        if _step(path) > after:
            path.unlink()


def events(folder: Path) -> list[dict]:
    """What happened to a run, one dict each: step, event (a sentence), `halved` (the rates that were halved then)."""
    return read_lines(folder / EVENTS)


def add_event(folder: Path, step: int, event: str, halved: tuple[str, ...] = ()) -> None:
    """Note what happened to a run, after what did before; once, though it may be found again at the next start."""
    row, before = {"step": step, "event": event, "halved": list(halved)}, events(folder)
    if halved or row not in before:
        write_lines(folder / EVENTS, [*before, row])


def read_lines(path: Path) -> list[dict]:
    """The JSON values of a file with one on each line; none when there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write_lines(path: Path, rows: list[dict]) -> None:
    """The inverse of read_lines: the whole file anew, for a line that is appended may be cut in two by a kill."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def _hash(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _step(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), key=lambda path: (_step(path), path.stat().st_mtime_ns), reverse=True)
