"""Your own pictures: reading any kind of file as sRGB, writing it whole or not at all, and what is where in folders."""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps

from . import sources
from .paths import InputError, write_atomic

pillow_heif.register_heif_opener()

SMALLEST = 16  # px, side of a photo
LARGEST = 400_000_000  # px in all: more is taken for a trap, a small file that says that it is huge
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
CONTAINERS = (".mp4", ".mov", ".m4v", ".mkv")  # of videos, that are written
ONLY_READ = {".gif": "GIF", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}
SAVE = {"JPEG": {"quality": 92, "subsampling": 0}, "WEBP": {"quality": 92}, "TIFF": {"compression": "tiff_lzw"}}


def readable() -> set[str]:
    """Suffixes of the pictures and videos that can be read here."""
    Image.init()
    return {s for s, name in (FORMATS | ONLY_READ).items() if name in Image.OPEN} | sources.VIDEOS


def read(path: Path | io.BytesIO) -> tuple[np.ndarray, np.ndarray | None]:
    """A picture file as sRGB, uint8 (H, W, 3), turned as its EXIF says; and its alpha, uint8 (H, W), or None.

    Grey, palette, CMYK and 16 bit become RGB of 8 bit, colours of an embedded ICC profile those of sRGB; of several
    frames the first is taken. InputError says in one sentence what is wrong with a file.
    """
    Image.init()
    names = [name for name in {*FORMATS.values(), *ONLY_READ.values(), "MPO"} if name in Image.OPEN]
    try:
        with warnings.catch_warnings(), _no_limit():
            warnings.filterwarnings("ignore", category=UserWarning)  # of odd metadata, which is not needed
            with Image.open(path, formats=names) as image:
                if min(image.size) < SMALLEST:
                    raise InputError(f"it is {image.width} x {image.height} px, and {SMALLEST} each way are needed")
                if image.width * image.height > LARGEST:
                    raise InputError(f"it is {image.width} x {image.height} px, more than {LARGEST // 10**6} million")
                image.load()
                turned = _turned(image)
        alpha = None
        if turned.mode.startswith("I") or turned.mode == "F":
            turned = _eight_bits(turned)
        elif turned.has_transparency_data:
            alpha = np.asarray(turned.convert("RGBA").getchannel("A"))
        return np.asarray(_srgb(turned)), alpha
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"it cannot be read as a picture ({said})") from None


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    """Pillow's own limit is 89 million pixels, less than some telephones take."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF does not make a broken picture
        return image.copy()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of floats up to 1, as grey of 8 bits."""
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F":
        white = 1.0 if values.max() <= 2 else 255.0
    else:
        white = 65535.0 if values.max() > 255 else 255.0
    grey = Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return grey


def _srgb(image: Image.Image) -> Image.Image:
    """RGB out of any mode; through the embedded profile, when there is a sound one for that mode."""
    profile = image.info.get("icc_profile")
    plain = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB", "RGBa": "RGB", "LA": "L", "1": "L"}
    if profile:
        image = image.convert(plain.get(image.mode, image.mode))
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile, or one for another mode: the plain numbers are the best guess
    return image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA", "LA") else image.convert("RGB")


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
            suffix = file.suffix if kept else ".mkv" if kind in sources.VIDEOS else ".png"
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
