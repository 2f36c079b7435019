"""Which files of a folder are read, whoever asks, and which are passed over."""

import os
from collections import Counter
from pathlib import Path

VIDEOS = {
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".wmv",
    ".asf", ".flv", ".ogv", ".mpe", ".m2v", ".vob",
}  # fmt: skip
UNREADABLE = "folders that cannot be read"


def walk(folder: Path, readable: set[str], without: str = "") -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below a folder with suffixes, in lower case, that can be read; and what is passed over, with its kind.

    That is what is hidden, links to folders, which may lead in circles, and other files. Dangling links are among the
    files, so that who reads them names them. without: real path of a folder that is nobody's input.
    """
    found, passed = [], []
    for place, folders, names in os.walk(folder, onerror=lambda e: passed.append((Path(e.filename), UNREADABLE))):
        passed += [(Path(place, name), "hidden") for name in (*folders, *names) if name.startswith(".")]
        visible = [Path(place, name) for name in folders if not name.startswith(".")]
        folders[:] = [path.name for path in visible if os.path.realpath(path) != without]  # links are not followed
        passed += [(path, "links to folders") for path in visible if path.is_symlink()]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in readable and (path.is_file() or path.is_symlink()):  # no pipe, which would wait
                found.append(path)
            else:
                passed.append((path, path.suffix.lower() or path.name))
    return sorted(found), sorted(passed)


def told(passed: list[tuple[Path, str]]) -> str:
    """How many of each kind were passed over, the most first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in passed).most_common())
