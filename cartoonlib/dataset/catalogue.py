"""The sets that data/sources.yaml names, and the folders and films of your own."""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .. import files
from ..files import InputError
from ..media.listing import VIDEOS, told, walk
from ..media.pictures import suffixes


@dataclass(frozen=True)
class Source:
    """One entry of data/sources.yaml, or the user's own folder or video; the keys are explained in that file."""

    name: str
    kind: str
    title: str
    licence: str
    get: str
    folder: str = ""
    glob: str = "**/*"
    crop: str = "centre"
    split: str = "hash"
    packages: list[dict] = field(default_factory=list)
    wheels: list[dict] = field(default_factory=list)
    drawn: dict = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder or video of the set."""
        return files.RAW / self.folder


def sources() -> dict[str, Source]:
    """All sets that data/sources.yaml names."""
    entries = yaml.safe_load((files.ROOT / "data" / "sources.yaml").read_text(encoding="utf-8"))
    return {name: Source(name, **entry) for name, entry in entries.items()}


def find(name: str, kind: str = "") -> Source:
    """The set of that name, else the folder or video at that path, relative to the repository.

    kind: faces or cartoons, for a path only; a folder is taken for faces and a video for cartoons when it is not given.
    Raises InputError when there is neither, with the nearest names.
    """
    if kind not in ("", "faces", "cartoons"):
        raise InputError(f"A set is of faces or of cartoons, not of {kind!r}.")
    known = sources()
    if name in known:
        if kind not in ("", known[name].kind):
            raise InputError(f"{name} is a set of {known[name].kind}, not of {kind}: name another.")
        return known[name]
    path = (files.ROOT / Path(name).expanduser()).resolve()
    title = style_name(str(path))
    if path.is_dir():
        return Source(title, kind or "faces", path.name, "its owner's", f"Put images into {path}.", str(path))
    if path.is_file() and path.suffix.lower() in VIDEOS:
        if kind == "faces":
            raise InputError(f"{path} is a video, and a video becomes cartoons: name it as a cartoon set.")
        return Source(title, "cartoons", path.name, "its owner's", f"Put a video at {path}.", str(path), crop="random")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    raise InputError(f"{name!r} is neither a set of data/sources.yaml nor an existing folder or video: {hint}")


def style_name(style: str) -> str:
    """What a style is called: the name of its set, or the last part of the path of a folder or film of your own."""
    return re.sub(r"[^a-z0-9]+", "_", Path(style).stem.lower()).strip("_") or "folder"


def listing(source: Source) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The images of a set that lies in a folder, and what is passed over there. Raises InputError if there is none."""
    if not source.path.is_dir():
        raise InputError(f"{source.title}: there is no folder {source.path}. {source.get}")
    found, passed = walk(source.path, suffixes())
    found = sorted({*found} & {*source.path.glob(source.glob)})
    if not found:
        others = f"passed over: {told(passed) or 'nothing'}"
        raise InputError(f"{source.title}: the folder {source.path} holds no images ({others}). {source.get}")
    return found, passed


def fingerprint(source: Source) -> list:
    """What a prepared copy depends on beside its entry: the names, sizes and times of the user's files."""
    if source.packages or source.drawn:
        return []
    stamps = []
    for path in [source.path] if source.path.is_file() else listing(source)[0]:
        status = path.stat(follow_symlinks=path.exists())  # of a link to nothing, its own
        stamps.append([path.relative_to(source.path).as_posix(), status.st_size, status.st_mtime_ns])
    return stamps[0][1:] if source.path.is_file() else stamps
