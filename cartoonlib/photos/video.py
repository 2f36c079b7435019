"""A video in, its cartoon out: frame by frame, with its sound, its timing and its size."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange

from ..files import InputError
from ..media import films
from ..media.pictures import SMALLEST

ENCODER = {"crf": "17", "preset": "fast"}
LOOKS = 10  # for a face, half a second apart


def first_frames(path: Path) -> Iterator[np.ndarray]:
    """Upright frames, uint8 (H, W, 3), of a film's first seconds, LOOKS at most; none after a broken one."""
    with films.open_film(path) as (source, picture), contextlib.suppress(av.error.FFmpegError, ValueError):
        step = max(1, round(min(60, picture.average_rate or 25) / 2))
        for frame in itertools.islice(source.decode(picture), 0, LOOKS * step, step):
            yield films.pixels(frame, picture)[0]


def convert(
    path: Path, target: Path, draw: Callable[[np.ndarray], np.ndarray], progress: Callable[[float], None] | None = None
) -> list[str]:
    """Write a copy of a video with every frame drawn anew, whole or not at all; a run that is stopped begins again.

    Frames keep their times, also at a variable rate, and are turned upright as the file says. The sound is copied.

    Args:
        draw: a frame, uint8 (H, W, 3) RGB -> the same.
        progress: is told the part of the whole that each frame is.

    Returns sentences on what was left out: sound that cannot be copied, frames that cannot be read.
    """
    part = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        with films.open_film(path) as (source, picture):
            target.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(part.absolute()), "w") as output:
                copy = _Copy(source, picture, output, films.span(path), draw, progress)
                copy.run()
        if not copy.frames:
            raise InputError("no frame of this video can be read")
        os.replace(part, target)
    except (av.error.InvalidDataError, ValueError) as error:
        raise InputError(f"it cannot be read as a video ({_said(error)})") from None
    finally:
        part.unlink(missing_ok=True)
    if copy.broken:
        copy.notes.append(f"pieces left out because they cannot be read: {copy.broken}")
    return copy.notes


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _Copy:
    """What is known while a video is copied: the encoder, which needs the first frame, and the time of the last one."""

    def __init__(self, source, picture, output, span: tuple, draw: Callable, progress: Callable | None):
        self.source, self.picture, self.output, self.draw, self.progress = source, picture, output, draw, progress
        self.begin, self.end = span
        self.encoder, self.waiting, self.notes = None, [], []
        self.rate = picture.average_rate or 25
        self.frames, self.broken, self.last, self.told = 0, 0, None, 0.0
        self.sounds = {}
        for stream in source.streams.audio:
            try:
                self.sounds[stream.index] = output.add_stream_from_template(stream)
            except (av.error.FFmpegError, ValueError) as error:
                self.notes.append(f"its sound cannot be copied ({_said(error)}) and is left out")

    def run(self) -> None:
        streams = [self.picture, *(stream for stream in self.source.streams.audio if stream.index in self.sounds)]
        for packet in self.source.demux(streams):
            if packet.stream.index in self.sounds:
                if packet.dts is not None:
                    packet.stream = self.sounds[packet.stream.index]
                    self.waiting.append(packet)
                if self.encoder is not None:  # all streams must be there before the first packet
                    self.output.mux(self.waiting)
                    self.waiting.clear()
                continue
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.broken += 1
                continue
            for frame in frames:
                self._frame(frame)
        if self.encoder is not None:
            self.output.mux([*self.waiting, *self.encoder.encode(None)])

    def _frame(self, frame) -> None:
        """Draw a frame and write it at its own time, the first of two that have the same."""
        pixels, pixel_shape = films.pixels(frame, self.picture)
        if self.encoder is None:
            self._start(*pixels.shape[:2], films.matrix(frame), pixel_shape)
        length = frame.duration or round(1 / (self.rate * self.picture.time_base))
        time = frame.pts
        if time is None:
            time = 0 if self.last is None else self.last + length
        if self.last is not None and time <= self.last:
            return
        drawn = av.VideoFrame.from_ndarray(self.draw(pixels), format="rgb24")
        matrix = self.encoder.codec_context.colorspace
        drawn = drawn.reformat(format=self.encoder.pix_fmt, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)
        drawn.pts, drawn.time_base, drawn.duration = time, self.picture.time_base, length
        self.output.mux(self.encoder.encode(drawn))
        self.frames, self.last = self.frames + 1, time
        if self.progress and self.end > self.begin:
            share = (time * self.picture.time_base - self.begin) / (self.end - self.begin)
            share = max(self.told, min(1.0, float(share)))
            self.progress(share - self.told)
            self.told = share

    def _start(self, height: int, width: int, matrix: int, pixel_shape: Fraction) -> None:
        """Add the encoder of a film of that size."""
        if min(height, width) < SMALLEST:
            raise InputError(f"it is {width} x {height} px, and {SMALLEST} each way are needed")
        self.encoder = self.output.add_stream("libx264", rate=self.rate, options=ENCODER)
        self.encoder.width, self.encoder.height = width, height
        self.encoder.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        context = self.encoder.codec_context
        context.time_base, context.sample_aspect_ratio = self.picture.time_base, pixel_shape
        context.colorspace, context.color_range = matrix, ColorRange.MPEG
