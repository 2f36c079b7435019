"""Films and pictures as users have them, drawn at random by a seed, each with what it shows; for `make soak`.

Every one shows QUARTERS: four colours, so that a turn, a mirror image or a wrong colour is seen.
"""

import io
import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageCms

from cartoonlib.dataset import catalogue, origins
from cartoonlib.files import InputError
from cartoonlib.media import films
from cartoonlib.media.pictures import read_picture
from cartoonlib.photos import video

# (x, y) -> colour of a quarter, from the middle: -1 is left or above.
QUARTERS = {(-1, -1): (200, 60, 60), (1, -1): (60, 180, 60), (-1, 1): (60, 60, 200), (1, 1): (200, 200, 60)}
KINDS = [  # suffix, codec, pixel format, codec of the sound, codec of the subtitles
    ("mp4", "libx264", "yuv420p", "aac", "mov_text"), ("mp4", "mpeg4", "yuv420p", "mp3", ""),
    ("mp4", "libx265", "yuv420p10le", "aac", ""), ("mov", "libx264", "yuv422p", "pcm_s16le", ""),
    ("mov", "mjpeg", "yuvj420p", "pcm_s16le", ""), ("m4v", "libx264", "yuv420p", "aac", ""),
    ("mkv", "libx264", "yuv444p", "flac", "subrip"), ("mkv", "libvpx-vp9", "yuv420p", "libopus", "ass"),
    ("mkv", "ffv1", "bgr0", "ac3", ""), ("webm", "libvpx", "yuv420p", "libopus", ""), ("avi", "mpeg4", "yuv420p", "mp3", ""),
    ("avi", "mjpeg", "yuvj422p", "pcm_s16le", ""), ("mpg", "mpeg2video", "yuv420p", "mp2", ""),
    ("ts", "libx264", "yuv420p", "mp2", ""), ("mts", "libx264", "yuv420p", "ac3", ""),
    ("3gp", "mpeg4", "yuv420p", "aac", ""), ("wmv", "wmv2", "yuv420p", "wmav2", ""), ("flv", "flv", "yuv420p", "mp3", ""),
]  # fmt: skip
FORMATS_OF = {"mts": "mpegts", "ts": "mpegts", "wmv": "asf", "m4v": "mp4"}
TURNS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


class Film(NamedTuple):
    """How a film is made."""

    suffix: str
    codec: str
    pixels: str
    sound: str
    subtitles: str
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
    suffix, codec, pixels, sound, subtitles = rng.choice(KINDS)
    movable = suffix in ("mp4", "mov")  # its matrix and cover stand where they can be set here
    slow = codec in ("libx265", "libvpx-vp9")
    rates = [Fraction(25), Fraction(30000, 1001)] if codec in ("mpeg2video", "wmv2") else [
        Fraction(10), Fraction(25), Fraction(30000, 1001), Fraction(50)]  # fmt: skip
    return Film(
        suffix, codec, pixels, rng.choice([sound, ""]), rng.choice([subtitles, ""]),
        rng.choice([(96, 64), (128, 96), (64, 96), (98, 66)] if codec != "libvpx" else [(96, 64)]), rng.choice(rates),
        rng.choice([12, 20] if slow else [30, 60, 75]), rng.choice([0, 0, 3, 100]) if suffix in ("mkv", "ts", "mp4") else 0,
        Fraction(rng.choice(["1", "1", "4/3", "16/11"])) if codec == "libx264" else Fraction(1),
        rng.choice(TURNS) if movable else TURNS[0], movable and rng.random() < 0.3,
        rng.choice([1, 1, 2, 3]) if suffix in ("mkv", "mp4", "mov") else 1,
        suffix in ("mkv", "mp4") and rng.random() < 0.3, rng.choice([1, 1, 1, 0.3, 0.6, 0.85]),
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
        wide = film.codec in ("mjpeg",)
        frame = frame.reformat(format=film.pixels, dst_colorspace=5, dst_color_range=2 if wide else 1)
        place = number + (number // 3 if film.gaps else 0)
        frame.pts, frame.time_base = round(film.start * film.rate) + place, 1 / film.rate
        output.mux(stream.encode(frame))
        for index, tone in enumerate(tones):
            while played[index] < (place + 1) / film.rate * tone.rate:
                samples = tone.codec_context.frame_size or 1024
                tone_frame = av.AudioFrame.from_ndarray(np.zeros((2, samples), np.float32), format="fltp", layout="stereo")
                tone_frame.sample_rate, tone_frame.pts = tone.rate, played[index] + film.start * tone.rate
                tone_frame.time_base = Fraction(1, tone.rate)
                output.mux(tone.encode(tone_frame))
                played[index] += samples
    for one in (stream, *tones):
        output.mux(one.encode(None))


SILENT = ("ts", "mts", "mpg", "flv")  # containers that do not state how long a film is, or only at its end


def end_of_film(path: Path, film: Film) -> tuple[str, str]:
    """("right", "sentence" or "wrong", and why) of a film that `cartoonize` and a training set read."""
    frames, target = [], path.with_name("copy.mkv" if film.suffix not in ("mp4", "mov", "m4v") else f"copy.{film.suffix}")
    try:
        notes = video.convert(path, target, lambda pixels: frames.append(pixels) or pixels)
    except InputError as problem:
        return ("sentence" if film.cut < 1 else "wrong"), str(problem)
    finally:
        target.unlink(missing_ok=True) if film.cut < 0 else None
    if wrong := shown_wrongly(frames[0], film.turn) or shown_wrongly(frames[-1 if film.cut == 1 else 0], film.turn):
        return "wrong", wrong
    with av.open(str(target)) as copy:
        if (count := sum(1 for _ in copy.decode(video=0))) != len(frames):
            return "wrong", f"{count} frames written of {len(frames)}"
        sounds = len(copy.streams.audio)
    if film.cut == 1 and sounds != (film.sounds if film.sound else 0) and "sound" not in " ".join(notes):
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
