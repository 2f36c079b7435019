"""Films and pictures as users have them, drawn at random by a seed, each with what it shows; for `make soak`.

Every one shows QUARTERS: four colours, so that a turn, a mirror image or a wrong colour is seen.
"""

import io
import random
import zlib
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageCms

from cartoonlib.dataset import catalogue, origins
from cartoonlib.files import InputError
from cartoonlib.media.pictures import read_picture
from cartoonlib.photos import video

# (x, y) -> colour of a quarter, from the middle: -1 is left or above.
QUARTERS = {(-1, -1): (200, 60, 60), (1, -1): (60, 180, 60), (-1, 1): (60, 60, 200), (1, 1): (200, 200, 60)}
KINDS = [  # suffix, codec, pixel format, codec of the sound
    ("mp4", "libx264", "yuv420p", "aac"), ("mp4", "mpeg4", "yuv420p", "mp3"), ("mp4", "libx265", "yuv420p10le", "aac"),
    ("mov", "libx264", "yuv422p", "pcm_s16le"), ("mov", "mjpeg", "yuvj420p", "pcm_s16le"),
    ("m4v", "libx264", "yuv420p", "aac"), ("mkv", "libx264", "yuv444p", "flac"),
    ("mkv", "libvpx-vp9", "yuv420p", "libopus"), ("mkv", "ffv1", "bgr0", "ac3"),
    ("webm", "libvpx", "yuv420p", "libopus"), ("avi", "mpeg4", "yuv420p", "mp3"),
    ("avi", "mjpeg", "yuvj422p", "pcm_s16le"),
    ("mpg", "mpeg2video", "yuv420p", "mp2"), ("ts", "libx264", "yuv420p", "mp2"), ("mts", "libx264", "yuv420p", "ac3"),
    ("3gp", "mpeg4", "yuv420p", "aac"), ("wmv", "wmv2", "yuv420p", "wmav2"), ("flv", "flv", "yuv420p", "mp3"),
]  # fmt: skip
FORMATS_OF = {"mts": "mpegts", "ts": "mpegts", "wmv": "asf", "m4v": "mp4"}
TURNS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


class Film(NamedTuple):
    """How a film is made."""

    suffix: str
    codec: str
    pixels: str
    sound: str
    size: tuple[int, int]
    rate: Fraction
    frames: int
    start: int
    shape: Fraction
    turn: tuple[int, int, int, int]
    cover: bool
    sounds: int
    gaps: bool
    cut: float  # 1: whole


def quarters(width: int, height: int) -> np.ndarray:
    """Uint8 (H, W, 3)."""
    picture = np.empty((height, width, 3), np.uint8)
    for (x, y), colour in QUARTERS.items():
        rows = slice(None, height // 2) if y < 0 else slice(height // 2, None)
        picture[rows, slice(None, width // 2) if x < 0 else slice(width // 2, None)] = colour
    return picture


def shown_wrongly(picture: np.ndarray, turn: tuple = (1, 0, 0, 1), tolerance: int = 40) -> str:
    """What is wrong with the quarters of a picture that was turned by a matrix (a, b, c, d), or ""."""
    (a, b, c, d), (height, width) = turn, picture.shape[:2]
    for (x, y), colour in QUARTERS.items():
        right, down = a * x + c * y, b * x + d * y
        seen = picture[height * (2 + down) // 4, width * (2 + right) // 4].astype(int)
        if abs(seen - colour).max() > tolerance:
            return f"{seen.tolist()} instead of {colour}"
    return ""


def random_film(rng: random.Random) -> Film:
    """One of the kinds of films, with properties that it can have."""
    suffix, codec, pixels, sound = rng.choice(KINDS)
    movable = suffix in ("mp4", "mov")  # its matrix and cover stand where they can be set here
    rates = [Fraction(25), Fraction(30000, 1001)]
    if codec not in ("mpeg2video", "wmv2"):
        rates += [Fraction(10), Fraction(50)]
    return Film(
        suffix, codec, pixels, sound=rng.choice([sound, ""]),
        size=(96, 64) if codec == "libvpx" else rng.choice([(96, 64), (128, 96), (64, 96), (98, 66)]),
        rate=rng.choice(rates), frames=rng.choice([12, 20] if codec in ("libx265", "libvpx-vp9") else [30, 60, 75]),
        start=rng.choice([0, 0, 3, 100]) if suffix in ("mkv", "ts", "mp4") else 0,
        shape=Fraction(rng.choice(["1", "1", "4/3", "16/11"])) if codec == "libx264" else Fraction(1),
        turn=rng.choice(TURNS) if movable else TURNS[0], cover=movable and rng.random() < 0.3,
        sounds=rng.choice([1, 1, 2, 3]) if suffix in ("mkv", "mp4", "mov") else 1,
        gaps=suffix in ("mkv", "mp4") and rng.random() < 0.3, cut=rng.choice([1, 1, 1, 0.3, 0.6, 0.85]),
    )  # fmt: skip


def make_film(path: Path, film: Film) -> None:
    """Write a film; the index of an MP4 stands before its frames, so that it can be cut."""
    fast = {"movflags": "+faststart"} if film.suffix in ("mp4", "mov", "m4v") else {}
    with av.open(str(path), "w", format=FORMATS_OF.get(film.suffix), options=fast) as output:
        stream = output.add_stream(film.codec, rate=film.rate)
        stream.width, stream.height, stream.pix_fmt = *film.size, film.pixels
        stream.bit_rate = 2_000_000
        context = stream.codec_context
        context.sample_aspect_ratio, context.gop_size = film.shape, 10
        tones = [output.add_stream(film.sound, rate=44100 if film.sound != "libopus" else 48000)
                 for _ in range(film.sounds)] if film.sound else []  # fmt: skip
        for language, tone in zip(("eng", "deu", "fra"), tones):
            tone.layout, tone.bit_rate = "stereo", 128_000
            tone.metadata["language"] = language
        if film.cover:
            cover = output.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 64, "yuvj420p", Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = 0
            output.mux([*cover.encode(frame), *cover.encode(None)])
        _write(output, stream, tones, film)
    if film.turn != TURNS[0]:
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 44
        a, b, c, d = (value * 0x10000 for value in film.turn)
        content[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
        path.write_bytes(content)
    if film.cut < 1:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * film.cut)])


def _write(output, stream, tones: list, film: Film) -> None:
    """Frames and sound in turns, as recorders write them."""
    picture, played = quarters(*film.size), [0] * len(tones)
    random_noise = np.random.default_rng(0)
    for number in range(film.frames):
        noisy = np.clip(picture + random_noise.integers(-6, 7, picture.shape), 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
        frame = frame.reformat(format=film.pixels, dst_colorspace=5, dst_color_range=2 if film.codec == "mjpeg" else 1)
        place = number + (number // 3 if film.gaps else 0)
        frame.pts, frame.time_base = round(film.start * film.rate) + place, 1 / film.rate
        output.mux(stream.encode(frame))
        for index, tone in enumerate(tones):
            while played[index] < (place + 1) / film.rate * tone.rate:
                samples = tone.codec_context.frame_size or 1024
                silence = np.zeros((2, samples), np.float32)
                heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
                heard.sample_rate, heard.pts = tone.rate, played[index] + film.start * tone.rate
                heard.time_base = Fraction(1, tone.rate)
                output.mux(tone.encode(heard))
                played[index] += samples
    for one in (stream, *tones):
        output.mux(one.encode(None))


SILENT = ("ts", "mts", "mpg", "flv")  # containers that do not state how long a film is, or only at its end


def end_of_film(path: Path, film: Film) -> tuple[str, str]:
    """("right", "sentence" or "wrong", and why) of a film that `cartoonize` and a training set read."""
    frames, target = (
        [],
        path.with_name("copy.mkv" if film.suffix not in ("mp4", "mov", "m4v") else f"copy.{film.suffix}"),
    )
    try:
        _, *notes = video.convert(path, target, lambda pixels: frames.append(pixels) or pixels)
    except InputError as problem:
        return ("sentence" if film.cut < 1 else "wrong"), str(problem)
    if wrong := shown_wrongly(frames[0], film.turn) or shown_wrongly(frames[-1 if film.cut == 1 else 0], film.turn):
        return "wrong", wrong
    with av.open(str(target)) as copy:
        if (count := sum(1 for _ in copy.decode(video=0))) != len(frames):
            return "wrong", f"{count} frames written of {len(frames)}"
        sounds = len(copy.streams.audio)
    if film.cut == 1 and sounds != (film.sounds if film.sound else 0) and "audio" not in " ".join(notes):
        return "wrong", f"{sounds} tracks of sound"
    missing = (film.frames - len(frames)) / film.rate
    said = any("breaks off" in note for note in notes)
    if film.cut == 1 and (missing > 1 / film.rate or said) or missing > 0.8 and not said and film.suffix not in SILENT:
        return "wrong", f"{len(frames)} of {film.frames} frames, and it says {notes}"
    rejected: list[dict] = []
    _, raw = origins.raw_images(catalogue.find(str(path)), 64, 0, rejected)
    for item in raw:
        picture = item.decode(item.content)
        width, height = film.size if film.turn[0] else film.size[::-1]
        wide = film.shape if film.turn[0] else 1 / film.shape
        if abs(picture.shape[1] / picture.shape[0] - width * wide / height) > 0.03:
            return "wrong", f"{picture.shape} for training"
        if wrong := shown_wrongly(picture, film.turn):
            return "wrong", f"{wrong} for training"
    if said != any(item["reason"].startswith("end of the film") for item in rejected):
        return "wrong", "training does not say what cartoonize says"
    return "right", "; ".join(notes)


# --- pictures -------------------------------------------------------------------------------------------------------

PICTURES = [  # suffix, Pillow's format, modes that it holds
    ("jpg", "JPEG", "RGB L CMYK"), ("jfif", "JPEG", "RGB"), ("jpe", "JPEG", "L"), ("JPG", "JPEG", "RGB"),
    ("png", "PNG", "RGB RGBA L LA P 1 I;16"), ("tif", "TIFF", "RGB RGBA L LA P 1 I;16 F CMYK"),
    ("webp", "WEBP", "RGB RGBA"), ("bmp", "BMP", "RGB L P"), ("gif", "GIF", "P L"), ("avif", "AVIF", "RGB RGBA"),
    ("heic", "HEIF", "RGB L"), ("jp2", "JPEG2000", "RGB L"), ("ppm", "PPM", "RGB"),
]  # fmt: skip
ORIENTATIONS = {  # EXIF's number -> the matrix by which a picture is turned
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1), 5: (0, 1, 1, 0), 6: (0, 1, -1, 0),
    7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip


class Picture(NamedTuple):
    """How a picture is made."""

    suffix: str
    format: str
    mode: str
    size: tuple[int, int]
    orientation: int
    profile: bytes
    frames: int
    gamma: float  # 0: not said
    cut: float  # 1: whole; 0: empty


def random_picture(rng: random.Random) -> Picture:
    """One of the kinds of pictures, with properties that it can have."""
    suffix, name, modes = rng.choice(PICTURES)
    mode = rng.choice(modes.split())
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = name in ("JPEG", "PNG", "TIFF", "WEBP") and mode not in ("I;16", "F")
    return Picture(
        suffix, name, mode, rng.choice([(96, 64), (64, 96), (97, 65), (640, 480)]),
        orientation=rng.choice(list(ORIENTATIONS)) if turned else 1,
        profile=rng.choice([b"", b"", srgb, b"nonsense"]) if name in ("JPEG", "PNG") and mode == "RGB" else b"",
        frames=3 if name in ("GIF", "WEBP", "TIFF") and mode not in ("I;16", "F") and rng.random() < 0.3 else 1,
        gamma=rng.choice([0, 0, 1.0, 1 / 2.2]) if name == "PNG" and mode in ("RGB", "RGBA", "L") else 0,
        cut=rng.choice([1, 1, 1, 0.5, 0.1, 0]),
    )  # fmt: skip


def make_picture(path: Path, made: Picture) -> None:
    """Write a picture."""
    pixels = quarters(*made.size)
    if made.gamma == 1:  # stored as light
        value = pixels / 255
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        pixels = np.rint(255 * light).astype(np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    if made.mode in ("I;16", "F"):
        image = Image.fromarray(grey.astype(np.uint16) * 257 if made.mode == "I;16" else grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(pixels)
        image = image.quantize(16) if made.mode == "P" else image.convert(made.mode)
        if made.mode in ("RGBA", "LA"):
            image.putalpha(200)
    options: dict = {"icc_profile": made.profile} if made.profile else {}
    if made.orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = made.orientation
    if made.frames > 1:
        others = [Image.new(image.mode, image.size, number) for number in range(1, made.frames)]
        options |= {"save_all": True, "append_images": others}
    buffer = io.BytesIO()
    image.save(buffer, made.format, **options)
    content = buffer.getvalue()
    if made.gamma:  # a chunk of its own behind the header's
        chunk = b"gAMA" + round(made.gamma * 1e5).to_bytes(4, "big")
        content = content[:33] + b"\0\0\0\4" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + content[33:]
    path.write_bytes(content[: int(len(content) * made.cut)])


def end_of_picture(path: Path, made: Picture) -> tuple[str, str]:
    """("right", "sentence" or "wrong", and why) of a picture that `cartoonize` and a training set read."""
    notes: list[str] = []
    try:
        picture, alpha = read_picture(path, notes=notes)
    except InputError as problem:
        return ("sentence" if made.cut < 1 else "wrong"), str(problem)
    size = made.size if ORIENTATIONS[made.orientation][0] else made.size[::-1]
    if picture.shape != (size[1], size[0], 3) or (alpha is not None) != (made.mode in ("RGBA", "LA")):
        return "wrong", f"{picture.shape}, alpha {alpha is not None}"
    if (made.frames > 1) != bool(notes):
        return "wrong", f"{made.frames} frames, and it says {notes}"
    coloured = made.mode in ("RGB", "RGBA", "P", "CMYK")
    if coloured and (wrong := shown_wrongly(picture, ORIENTATIONS[made.orientation], 30 if made.cut == 1 else 255)):
        return "wrong", wrong
    if alpha is None and not np.array_equal(origins.decode(path.read_bytes()), picture):
        return "wrong", "other pixels for training"
    return "right", "; ".join(notes)
