"""Where things are, and writing there so that nothing is lost: absolute folders, whole files, one writer at a time."""

import contextlib
import errno
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock


class InputError(Exception):
    """Something the user gave is wrong. The message is one sentence: what is wrong and what to do."""


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser().resolve() if os.environ.get(variable) else default


# Folders of large or private files may lie outside the repository, where environment variables say.
ROOT = Path(__file__).resolve().parent.parent
PROFILES = ROOT / "profiles"
NOTEBOOKS = ROOT / "notebooks"
RAW = _folder("CARTOONLIB_RAW", ROOT / "data" / "raw")  # images as they came; never changed
PACKAGES = _folder("CARTOONLIB_PACKAGES", ROOT / "data" / "packages")  # npm archives, unpacked
PROCESSED = _folder("CARTOONLIB_PROCESSED", ROOT / "data" / "processed")  # aligned arrays, made by dataset/prepare.py
WEIGHTS = _folder("CARTOONLIB_WEIGHTS", ROOT / "data" / "weights")  # frozen networks that no package brings
RESULTS = _folder("CARTOONLIB_RESULTS", ROOT / "results")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn "no space left" and "not permitted" while writing below a folder into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"No space is left on the disk of {folder}: free some and run again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{folder} cannot be written to ({error}): change that or name another.") from error
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one, also when the process is killed.

    InputError when the disk is full or may not be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, busy: str = "") -> Iterator[None]:
    """Be the only one of all processes to hold the file at `path`, which stays, empty.

    The system lets go of it when a process ends, however it ends, so that no lock is ever stale. When another process
    holds it: InputError with the sentence `busy`, or without one wait until it lets go.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = filelock.FileLock(path, timeout=0 if busy else -1).acquire()
        except filelock.Timeout:
            raise InputError(busy) from None
    with held:
        yield


def check_hash(path: Path, start: str) -> None:
    """Raise InputError unless the SHA-256 of a file starts with `start`."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(start):
        differs = f"{path} has SHA-256 {found[:16]}... instead of {start[:16]}..."
        raise InputError(f"{differs}: it is damaged or another file; delete it and fetch it again.")


def load_weights(known: dict[str, str], url: str, network: str, otherwise: str) -> dict:
    """The state dict of a frozen network on the CPU, out of a file in WEIGHTS, or downloaded there; no code in it runs.

    known: names of files, and the start of the SHA-256 that each must have. InputError says where to put the file, and
    which setting does without it.
    """
    import torch  # a second, which reading profiles can do without

    for path in (folder / name for name in known for folder in (WEIGHTS, Path(torch.hub.get_dir(), "checkpoints"))):
        if path.is_file():
            check_hash(path, known[path.name])
            if path.suffix == ".zip":  # a TorchScript archive
                return torch.jit.load(path, map_location="cpu").state_dict()
            return torch.load(path, map_location="cpu", weights_only=True)
    try:
        return torch.hub.load_state_dict_from_url(url, str(WEIGHTS), "cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; a wrong hash
        missing = f"{' or '.join(known)} is not in {WEIGHTS} and cannot be downloaded ({error})"
        mend = f"put the file at {WEIGHTS / url.rpartition('/')[2]}, or set `{otherwise}`"
        raise InputError(f"{network}'s weights are missing: {missing}: {mend}.") from None


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End a command with one sentence, and a status that is not zero, when its user can mend what is wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except InputError as problem:
        sys.exit(f"\n{problem}")
    except OSError as problem:
        sys.exit(f"\nA file could not be read or written: {problem}. Mend that; the same command goes on from here.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where this one was.")
