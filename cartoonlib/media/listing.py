"""Which files of a folder are read, whoever asks, and which are passed over."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def walk(
    folder: Path, readable: set[str], problems: list[str], without: str = ""
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below a folder with suffixes, in lower case, that can be read; and what is passed over, with its kind.

    That is what is hidden, links to folders, and other files; both lists are sorted. Dangling links are among the
    files, so that who reads them names them.

    problems: gets a sentence on each folder that cannot be read. without: real path of a folder that is nobody's input.
    """
    found, passed = [], []

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: this folder cannot be read ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=unreadable):
        paths = [Path(place, name) for name in folders]
        passed += [(path, "links to folders") for path in paths if path.is_symlink() and not path.name.startswith(".")]
        passed += [(Path(place, name), "hidden") for name in (*folders, *names) if name.startswith(".")]
        folders[:] = [p.name for p in paths if not p.name.startswith(".") and os.path.realpath(p) != without]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in readable and _is_file(path):
                found.append(path)
            else:
                passed.append((path, path.suffix.lower() or path.name))
    return sorted(found), sorted(passed)


def told(passed: Iterable[tuple[Path, str]]) -> str:
    """How many of each kind were passed over, the most first."""
    kinds = [kind for _, kind in passed]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds), key=kinds.count, reverse=True))


def _is_file(path: Path) -> bool:
    """False for what would make a reader wait, like a pipe."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # a dangling link, say: reading it says what is wrong
