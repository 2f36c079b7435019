"""Picture files, read in one way for all: as sRGB, upright, 8 bits, whatever the file is."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..files import InputError

with contextlib.suppress(ImportError):  # a package of the group `photos`
    import pillow_heif

    pillow_heif.register_heif_opener()  # HEIC, what phones write

Picture = tuple[np.ndarray, np.ndarray | None]  # RGB, and alpha where there is some, see read_picture
SMALLEST = 16  # px, side of a photo
LARGEST = 400_000_000  # px in all: more is taken for a trap, a small file that says that it is huge
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".jif": "JPEG", ".png": "PNG", ".webp": "WEBP",
    ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
ONLY_READ = {
    ".gif": "GIF", ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".apng": "PNG", ".mpo": "MPO",
    ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".jpx": "JPEG2000", ".jpf": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip


def suffixes() -> set[str]:
    """The suffixes, in lower case, of the picture files that can be read here."""
    Image.init()
    return {suffix for suffix, name in (FORMATS | ONLY_READ).items() if name in Image.OPEN}


def read_picture(path: Path | io.BytesIO, smallest: int = SMALLEST, notes: list[str] | None = None) -> Picture:
    """A picture file as sRGB, uint8 (H, W, 3), turned as its EXIF says; and its alpha, uint8 (H, W), or None.

    Grey, palette, CMYK and 16 bit become RGB of 8 bit, colours of an embedded ICC profile, or of a PNG that names its
    gamma, those of sRGB. smallest: px, of the shorter side. notes: gets a sentence when only the first of several
    frames is taken. InputError says what is wrong with a file.
    """
    names = list({(FORMATS | ONLY_READ)[suffix] for suffix in suffixes()})
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # Pillow's own is less than some telephones take
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # of odd metadata, which is not needed
            file = path.open("rb") if isinstance(path, Path) else path  # Pillow mixes up turned TIFF files that it maps
            with file, Image.open(file, formats=names) as image:
                if min(image.size) < smallest:
                    raise InputError(f"it is {image.width} x {image.height} px, and {smallest} each way are needed")
                if image.width * image.height > LARGEST:
                    raise InputError(f"it is {image.width} x {image.height} px, more than {LARGEST // 10**6} million")
                if image.format == "PNG":
                    _refuse_hdr(image)
                count = getattr(image, "n_frames", 1)
                image.load()
                if notes is not None and count > 1 and image.format != "MPO":  # whose others are for screens in 3D
                    notes.append(f"it has {count} frames or pages, of which the first is taken")
                return as_rgb(image)
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise InputError("it cannot be read as a picture (none of the formats that are known)") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"it cannot be read as a picture ({said})") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def as_rgb(image: Image.Image) -> Picture:
    """An image of Pillow's, of any mode, as read_picture gives it."""
    try:
        turned, alpha = ImageOps.exif_transpose(image), None
    except Exception:  # broken EXIF does not make a broken picture
        turned, alpha = image.copy(), None
    clear = turned.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, where Pillow has made 8 of the pixels
        turned.info["transparency"] = tuple(value >> 8 for value in clear)
    if turned.mode.startswith("I") or turned.mode == "F":
        turned, alpha = _eight_bits(turned)
    elif turned.has_transparency_data:
        alpha = np.asarray(turned.convert("RGBA").getchannel("A"))
    return np.asarray(_srgb(turned)), alpha


def _refuse_hdr(image: Image.Image) -> None:
    """InputError when a PNG that has just been opened says, in its chunk cICP, that its curve is PQ or HLG."""
    begin = image.fp.tell()  # of the pixels
    image.fp.seek(0)
    _, found, chunk = image.fp.read(begin).partition(b"cICP")
    image.fp.seek(begin)
    if found and chunk[1] in (16, 18):  # as H.273 numbers them
        raise InputError("it is HDR, whose colours would be wrong: convert it to sRGB first")


def _eight_bits(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """Grey of 16 or 32 bits, or of floats, as grey of 8 bits; and its alpha, when one of its values is transparent.

    White is 1 or 255 for floats, by their largest value.
    """
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0)
    if image.mode == "F":
        white = 1.0 if values.max() <= 2 else 255.0
    else:
        white = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
    grey = Image.fromarray(np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key in ("icc_profile", "gamma", "srgb")}
    clear = image.info.get("transparency")
    return grey, None if clear is None else np.where(values == clear, 0, 255).astype(np.uint8)


def _srgb(image: Image.Image) -> Image.Image:
    """RGB out of any mode; through the embedded profile, when there is a sound one for that mode, or the gamma."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    plain = {"P": "RGB", "PA": "RGB", "RGBA": "RGB", "RGBX": "RGB", "RGBa": "RGB", "LA": "L", "1": "L"}
    if profile:
        image = image.convert(plain.get(image.mode, image.mode))
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a broken profile, or one for another mode: the plain numbers are the best guess
    rgb = image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA", "LA") else image.convert("RGB")
    if profile or not gamma or "srgb" in image.info or abs(gamma - 1 / 2.2) < 0.02:  # that of sRGB, or nearly
        return rgb
    light = (np.arange(256) / 255) ** (1 / gamma)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return rgb.point(np.rint(255 * curve).astype(int).tolist() * 3)
