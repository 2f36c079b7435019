"""Where things are: absolute folders, nothing else is decided here.

Each folder of large or private files can be moved by an environment variable, so that data and weights may live
outside the repository.
"""

import os
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong. The message is one sentence: what is wrong and what to do."""


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser().resolve() if os.environ.get(variable) else default


ROOT = Path(__file__).resolve().parent.parent
PROFILES = ROOT / "profiles"
NOTEBOOKS = ROOT / "notebooks"
RAW = _folder("CARTOONLIB_RAW", ROOT / "data" / "raw")  # images as they came; never changed
PACKAGES = _folder("CARTOONLIB_PACKAGES", ROOT / "data" / "packages")  # npm archives, unpacked
PROCESSED = _folder("CARTOONLIB_PROCESSED", ROOT / "data" / "processed")  # aligned arrays, made by data.prepare
WEIGHTS = _folder("CARTOONLIB_WEIGHTS", ROOT / "data" / "weights")  # frozen networks that no package brings
RESULTS = _folder("CARTOONLIB_RESULTS", ROOT / "results")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one, also when the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
