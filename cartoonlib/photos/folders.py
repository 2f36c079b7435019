"""Which files and folders are drawn, and where each cartoon goes."""

import os
from pathlib import Path

from ..media.listing import UNREADABLE, VIDEOS, told, walk
from ..media.pictures import suffixes
from .formats import suffix_of_cartoon

Pair = tuple[Path, Path]  # a photo, and the place of its cartoon


def find(given: list[str], output: Path, style: str, overwrite: bool) -> tuple[list[Pair], list[str], list[str]]:
    """(photo, its cartoon) of all that was given; a sentence on each that cannot be taken, and on what is passed over.

    Folders keep their structure. The cartoon of `a/b.jpg` in folder `a` is `output/b-STYLE.jpg`; formats that are only
    read become PNG or Matroska; where that name is taken, `b.jpg-STYLE.jpg`. The output folder is left out, and so are
    cartoons of an earlier run that lie among the photos.
    """
    places, in_folders, problems, notes = _photos(given, output)
    targets: dict[str, Pair] = {}  # by the target's name in lower case: some disks do not tell A.png from a.png
    for file, folder in places.values():
        names = [f"{name}-{style}{suffix_of_cartoon(file)}" for name in (file.stem, file.name)]
        candidates = [place / name for place in (folder, output / file.absolute().parent.name) for name in names]
        target = next((path for path in candidates if str(path).casefold() not in targets), None)
        if target is None:
            problems.append(f"{file}: its name is taken by another photo; give another folder with -o")
        else:
            targets[str(target).casefold()] = file, target
    cartoons = {os.path.realpath(target) for _, target in targets.values()}
    pairs = []
    for file, target in targets.values():
        real_file, real_target = os.path.realpath(file), os.path.realpath(target)
        if real_file in cartoons and real_file in in_folders:
            continue  # the cartoon of an earlier run
        if real_target in places and (overwrite or real_target not in in_folders):
            problems.append(f"{file}: its cartoon would overwrite {target}, one of the photos; give a folder with -o")
        else:
            pairs.append((file, target))
    return pairs, problems, notes


def _photos(given: list[str], output: Path) -> tuple[dict[str, tuple[Path, Path]], set[str], list[str], list[str]]:
    """Every file once, by its real path, with the folder for its cartoon; which were in folders; problems; notes."""
    places, in_folders, problems, notes = {}, set(), [], []
    readable = suffixes() | VIDEOS
    for name in given:
        path = Path(os.path.expanduser(name))
        if os.path.isdir(path) and name:  # an empty name would be the current folder
            found, passed = walk(path, readable, os.path.realpath(output))
            problems += [f"{folder}: this folder cannot be read" for folder, kind in passed if kind == UNREADABLE]
            in_folders.update(os.path.realpath(file) for file in found)
            if passed:
                notes.append(f"{path}: passed over: {told(passed)}")
            if not found:
                problems.append(f"{path}: no picture or video in this folder; {', '.join(sorted(readable))} are read")
            for file in found:
                places.setdefault(os.path.realpath(file), (file, output / file.parent.relative_to(path)))
        elif os.path.isfile(path):
            places.setdefault(os.path.realpath(path), (path, output))
        else:
            problems.append(f"{name or 'an empty name'}: there is no such file or folder")
    return places, in_folders, problems, notes
