"""Which files of a folder are read, whoever asks, and which are passed over."""

import os
from collections import Counter
from pathlib import Path

UNREADABLE = "folders that cannot be read"


def walk(folder: Path, readable: set[str], without: str = "") -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below a folder with suffixes, in lower case, that can be read; and what is passed over, with its kind.

    That is what is hidden, links to folders, which may lead in circles, and other files. Dangling links are among the
    files, so that who reads them names them. without: real path of a folder that is nobody's input.
    """
    found, passed = [], []
    for place, folders, names in os.walk(folder, onerror=lambda e: passed.append((Path(e.filename), UNREADABLE))):
        paths = [Path(place, name) for name in (*folders, *names)]
        passed += [(path, "hidden") for path in paths if path.name.startswith(".")]
        visible = [path for path in paths if not path.name.startswith(".") and os.path.realpath(path) != without]
        folders[:] = [path.name for path in visible if path.is_dir()]
        for path in visible:
            if path.is_dir():
                passed += [(path, "links to folders")] if path.is_symlink() else []
            elif path.suffix.lower() in readable and (path.is_file() or path.is_symlink()):  # no pipe, which would wait
                found.append(path)
            else:
                passed.append((path, path.suffix.lower() or path.name))
    return sorted(found), sorted(passed)


def told(passed: list[tuple[Path, str]]) -> str:
    """How many of each kind were passed over, the most first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in passed).most_common())
