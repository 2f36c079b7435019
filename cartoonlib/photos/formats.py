"""Your own pictures: writing them whole or not at all, and what is where in folders."""

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset import catalogue
from ..files import InputError, write_atomic
from ..images import FORMATS, ONLY_READ

CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")  # of videos, that are written
SAVE = {"JPEG": {"quality": 92, "subsampling": 0}, "WEBP": {"quality": 92}, "TIFF": {"compression": "tiff_lzw"}}


def readable() -> set[str]:
    """Suffixes of the pictures and videos that can be read here."""
    Image.init()
    return {s for s, name in (FORMATS | ONLY_READ).items() if name in Image.OPEN} | catalogue.VIDEOS


def with_alpha(path: Path) -> Path:
    """Where a picture with alpha goes whose own format cannot hold it: beside its place, as a PNG."""
    name = FORMATS[path.suffix.lower()]
    return path.with_name(f"{path.name}.png") if name in ("JPEG", "BMP") else path


def write(path: Path, picture: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Write a picture in the format of the path's suffix, whole or not at all, without metadata.

    uint8 (H, W, 3), and (H, W) for alpha. InputError when the format cannot hold it.
    """
    image = Image.fromarray(picture if alpha is None else np.dstack([picture, alpha]))
    name, buffer = FORMATS[path.suffix.lower()], io.BytesIO()
    try:
        image.save(buffer, name, **SAVE.get(name, {}))
    except (ValueError, OSError) as error:
        raise InputError(f"{name} cannot hold its cartoon ({error}); convert it to PNG first") from None
    write_atomic(path, buffer.getbuffer())


def find(given: list[str], output: Path, style: str, overwrite: bool) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(photo, its cartoon) of all files and folders that were given; and a sentence on each that cannot be taken.

    Folders keep their structure. The cartoon of `a/b.jpg` in folder `a` is `output/b-STYLE.jpg`; formats that are only
    read become PNG or Matroska; where that name is taken, `b.jpg-STYLE.jpg`. Links to folders are not followed, hidden
    files and the output folder are left out, and so are cartoons of an earlier run that lie among the photos.
    """
    targets, seen, walked, problems = {}, set(), {}, []
    for name in given:
        path = Path(os.path.expanduser(name))
        files = [path]
        if os.path.isdir(path):
            files = sorted(_pictures(path, os.path.realpath(output), problems))
            walked |= {os.path.realpath(file): file for file in files}
            if not files:
                kinds = ", ".join(sorted(readable()))
                problems.append(f"{path}: no picture or video in this folder; {kinds} are read")
        elif not os.path.isfile(path):
            problems.append(f"{path}: there is no such file or folder")
            continue
        for file in files:
            if os.path.realpath(file) in seen:
                continue
            seen.add(os.path.realpath(file))
            inside = output / (file.parent.relative_to(path) if os.path.isdir(path) else "")
            kind = file.suffix.lower()
            kept = kind in (*FORMATS, *CONTAINERS)
            suffix = file.suffix if kept else ".mkv" if kind in catalogue.VIDEOS else ".png"
            names = [f"{file.stem}-{style}{suffix}", f"{file.name}-{style}{suffix}"]
            places = [*(inside / n for n in names), *(output / file.absolute().parent.name / n for n in names)]
            free = [place for place in places if str(place).casefold() not in targets]
            if free:
                targets[str(free[0]).casefold()] = file, free[0]
            else:
                problems.append(f"{file}: its name is taken by another photo; give another folder with -o")
    pairs = list(targets.values())
    made = {os.path.realpath(target) for _, target in pairs}
    pairs = [(file, target) for file, target in pairs if not (made & {os.path.realpath(file)} & walked.keys())]
    kept = []
    for file, target in pairs:
        real = os.path.realpath(target)
        if real in seen and (overwrite or real not in walked):
            problems.append(f"{file}: its cartoon would overwrite {target}, one of the photos; give a folder with -o")
        else:
            kept.append((file, target))
    return kept, problems


def _pictures(folder: Path, output: str, problems: list[str]) -> Iterator[Path]:
    """All files below a folder that look like pictures or videos; dangling links too, so that they are named."""
    kinds = readable()

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: this folder cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        shown = [folder for folder in folders if not folder.startswith(".")]
        folders[:] = [folder for folder in shown if os.path.realpath(os.path.join(place, folder)) != output]
        for file in files:
            path = Path(place, file)
            if not file.startswith(".") and path.suffix.lower() in kinds and _is_file(path):
                yield path


def _is_file(path: Path) -> bool:
    """False for what would make a reader wait, like a pipe."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True  # a dangling link, say: reading it says what is wrong
