"""A video in, its cartoon out: frame by frame, with its sound, its timing and its size."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from ..files import InputError
from ..images import SMALLEST

ENCODER = {"crf": "17", "preset": "fast"}
HDR = (9, 10, 16, 18)  # BT.2020's matrices; the transfer curves PQ and HLG


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
        source = av.open(str(path.absolute()))  # absolute, because a name with a colon is taken for a protocol
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read as a video ({_said(error)})") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source, av.open(str(part.absolute()), "w") as output:
            if not source.streams.video:
                raise InputError("there is no picture in this video")
            copy = _Copy(source, output, draw, progress)
            copy.run()
        if not copy.frames:
            raise InputError("no frame of this video can be read")
        os.replace(part, target)
    except (av.error.InvalidDataError, ValueError) as error:
        raise InputError(f"it cannot be read as a video ({_said(error)})") from None
    finally:
        part.unlink(missing_ok=True)
    return copy.notes + [f"pieces left out because they cannot be read: {copy.broken}"] * bool(copy.broken)


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _Copy:
    """What is known while a video is copied: the encoder, which needs the first frame, and the time of the last one."""

    def __init__(self, source, output, draw: Callable, progress: Callable | None):
        self.source, self.output, self.draw, self.progress = source, output, draw, progress
        self.video, self.encoder, self.waiting, self.notes = source.streams.video[0], None, [], []
        self.video.thread_type = "AUTO"
        self.frames, self.broken, self.last, self.shown = 0, 0, None, 0.0
        known = self.video.duration is not None
        self.seconds = float(self.video.duration * self.video.time_base) if known else (source.duration or 0) / 1e6
        self.sounds = {}
        for stream in source.streams.audio:
            try:
                self.sounds[stream.index] = output.add_stream_from_template(stream)
            except (av.error.FFmpegError, ValueError) as error:
                self.notes.append(f"its sound cannot be copied ({_said(error)}) and is left out")

    def run(self) -> None:
        streams = [self.video, *(stream for stream in self.source.streams.audio if stream.index in self.sounds)]
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
        if frame.colorspace in HDR or frame.color_trc in HDR:
            raise InputError("it is HDR, whose colours would be wrong: convert it to BT.709 first")
        # Files of high definition that do not name their matrix mean BT.709, all others BT.601.
        wide = frame.colorspace == Colorspace.ITU709 or (frame.colorspace == 2 and frame.height >= 720)
        matrix = Colorspace.ITU709 if wide else Colorspace.ITU601
        pixels = frame.to_ndarray(format="rgb24", src_colorspace=matrix)
        pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
        if self.encoder is None:
            self._start(*pixels.shape[:2], matrix, turned=frame.rotation % 180 != 0)
        drawn = av.VideoFrame.from_ndarray(self.draw(pixels), format="rgb24")
        drawn = drawn.reformat(format=self.encoder.pix_fmt, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)
        length = frame.duration or round(1 / (self.rate * self.video.time_base))
        drawn.pts = frame.pts if frame.pts is not None else 0 if self.last is None else self.last + length
        if self.last is not None and drawn.pts <= self.last:
            return  # two frames at one time: the first is seen
        self.last, drawn.time_base, drawn.duration = drawn.pts, self.video.time_base, length
        self.output.mux(self.encoder.encode(drawn))
        self.frames += 1
        if self.progress and self.seconds:
            share = min(1.0, float(drawn.pts * self.video.time_base) / self.seconds)
            self.progress(max(0.0, share - self.shown))
            self.shown = max(self.shown, share)

    def _start(self, height: int, width: int, matrix: Colorspace, turned: bool) -> None:
        if min(height, width) < SMALLEST:
            raise InputError(f"it is {width} x {height} px, and {SMALLEST} each way are needed")
        self.encoder = self.output.add_stream("libx264", rate=self.rate, options=ENCODER)
        self.encoder.width, self.encoder.height = width, height
        self.encoder.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        context, aspect = self.encoder.codec_context, self.video.sample_aspect_ratio
        context.time_base = self.video.time_base
        context.colorspace, context.color_range = matrix, ColorRange.MPEG
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if turned else aspect

    @property
    def rate(self):
        return self.video.average_rate or 25
