"""A video in, its cartoon out: frame by frame, with its sound, its timing and its size."""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from time import monotonic

import av
import numpy as np
from av.video.reformatter import ColorRange

from ..files import InputError
from ..media import films, pictures
from .steady import Steady

ENCODER = {"crf": "17", "preset": "fast"}
LOOKS = 10  # for a face, half a second apart


def first_frames(path: Path) -> Iterator[np.ndarray]:
    """Upright frames, uint8 (H, W, 3), of a film's first seconds, LOOKS at most."""
    with films.open_film(path) as (source, picture):
        step = max(1, round(min(60, picture.average_rate or 25) / 2))
        for frame in itertools.islice(films.read(source, picture, []), 0, LOOKS * step, step):
            yield films.pixels(frame, picture)[0]


def convert(path: Path, target: Path, draw: Callable, progress: Callable | None = None) -> list[str]:
    """Write a copy of a video with every frame drawn anew, whole or not at all; a run that is stopped begins again.

    Frames keep their times, also at a variable rate, and are turned upright as the file says. Sound, subtitles, titles
    and languages are copied.

    Args:
        draw: a frame, uint8 (H, W, 3) RGB -> the same; in a thread, while the one before is made steady and written.
        progress: is told the part of the whole that each frame is.

    Returns sentences on its speed and on what was left out: tracks that cannot be copied, broken frames, a missing end.
    """
    part = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    span, began, pool = films.span(path), monotonic(), ThreadPoolExecutor(1)
    try:
        with films.open_film(path) as (source, picture):
            target.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(part.absolute()), "w") as output:
                copy = _Copy(source, picture, output, span, lambda frame: pool.submit(draw, frame), progress)
                copy.run()
        if copy.last is None:
            raise InputError("no frame of this video can be read")
        os.replace(part, target)
    except (av.error.InvalidDataError, ValueError) as error:
        raise InputError(f"it cannot be read as a video ({getattr(error, 'strerror', None) or error})") from None
    finally:
        pool.shutdown(cancel_futures=True)  # a frame that waits need not be drawn any more
        part.unlink(missing_ok=True)
    broken = f"pieces left out because they cannot be read: {len(copy.broken)}" if copy.broken else ""
    speed = f"{copy.steady.frames} frames, {copy.steady.frames / (monotonic() - began):.2f} a second"
    return [note for note in (speed, copy.left_out, broken, span.note) if note]


class _Copy:
    """What is known while a video is copied: the encoder, which needs the first frame, and the time of the last one."""

    def __init__(self, source, picture, output, span: films.Span, submit: Callable, progress: Callable | None):
        self.source, self.picture, self.output, self.submit, self.progress = source, picture, output, submit, progress
        self.steady, self.drawing = Steady(), None  # the frame that is being drawn, as _write takes it
        self.span, self.encoder, self.waiting, self.copies = span, None, [], {}
        self.rate = picture.average_rate or 25
        self.broken, self.last = [], None
        others = [stream for stream in source.streams if stream.index != picture.index]
        self.kept = {stream.index: stream for stream in others if _can_hold(output.format.name, stream)}
        names = ", ".join(f"{stream.index} ({stream.type})" for stream in others if stream.index not in self.kept)
        self.left_out = f"tracks that its cartoon is without: {names}" if names else ""

    def run(self) -> None:
        for item in films.read(self.source, self.picture, self.broken, *self.kept.values()):
            if isinstance(item, av.VideoFrame):
                self._frame(item)
            elif item.dts is not None:
                self.waiting.append(item)
            while self.waiting and self.encoder is not None:  # all tracks must be there before the first packet
                packet = self.waiting.pop(0)
                packet.stream = self.copies[packet.stream.index]
                self.output.mux(packet)
        if self.drawing:
            self._write(*self.drawing)
            self.output.mux(self.encoder.encode(None))

    def _frame(self, frame) -> None:
        """Begin to draw a frame, the first of two that have the same time, and write the one before."""
        pixels, pixel_shape = films.pixels(frame, self.picture)
        if self.encoder is None:
            self._start(*pixels.shape[:2], films.matrix(frame), pixel_shape)
        length = frame.duration or round(1 / (self.rate * self.picture.time_base))
        time = frame.pts
        if time is None:
            time = 0 if self.last is None else self.last + length
        if self.last is not None and time <= self.last:
            return
        last, self.drawing = self.drawing, (pixels, self.submit(pixels), time, length)
        if last:
            self._write(*last)
        if self.progress and self.span.end > self.span.begin:
            before = self.span.begin if self.last is None else self.last * self.picture.time_base
            self.progress(float((time * self.picture.time_base - before) / (self.span.end - self.span.begin)))
        self.last = time

    def _write(self, pixels: np.ndarray, drawn: Future, time: int, length: int) -> None:
        """Write a frame when it is drawn, at its own time."""
        cartoon = av.VideoFrame.from_ndarray(self.steady(pixels, drawn.result()), format="rgb24")
        matrix = self.encoder.codec_context.colorspace
        cartoon = cartoon.reformat(format=self.encoder.pix_fmt, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)
        cartoon.pts, cartoon.time_base, cartoon.duration = time, self.picture.time_base, length
        self.output.mux(self.encoder.encode(cartoon))

    def _start(self, height: int, width: int, matrix: int, pixel_shape: Fraction) -> None:
        """Add the encoder of a film of that size, and the tracks that are kept."""
        if min(height, width) < pictures.SMALLEST:
            raise InputError(f"it is {width} x {height} px, and {pictures.SMALLEST} each way are needed")
        self.encoder = self.output.add_stream("libx264", rate=self.rate, options=ENCODER)
        self.encoder.width, self.encoder.height = width, height
        self.encoder.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        context = self.encoder.codec_context
        context.time_base, context.sample_aspect_ratio = self.picture.time_base, pixel_shape
        context.color_range = ColorRange.MPEG
        context.colorspace = films.BT601 if matrix == films.BT601 else films.BT709  # HDR has become that
        self.copies = {index: self.output.add_stream_from_template(stream) for index, stream in self.kept.items()}
        for index, copy in self.copies.items():
            copy.disposition = self.kept[index].disposition
        named = [(self.source, self.output), *((self.kept[index], copy) for index, copy in self.copies.items())]
        for original, copy in named:  # of what else is said there, the place may be private
            copy.metadata.update({key: text for key, text in original.metadata.items() if key in ("title", "language")})
        self.output.set_chapters(self.source.chapters())


def _can_hold(container: str, stream) -> bool:
    """Whether a track of sound or subtitles can be copied into a film of such a container."""
    if stream.type not in ("audio", "subtitle"):
        return False
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError):
        return False
