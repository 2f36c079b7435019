"""A video in, its cartoon out: frame by frame, with its sound, its timing and its size."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from .paths import InputError

ENCODER = {"crf": "17", "preset": "fast"}


def convert(
    path: Path, target: Path, draw: Callable[[np.ndarray], np.ndarray], progress: Callable[[float], None] | None = None
) -> None:
    """Write a copy of a video with every frame drawn anew, whole or not at all; a run that is stopped begins again.

    Frames keep their times, also at a variable rate, and are turned upright as the file says. The sound is copied.

    Args:
        draw: a frame, uint8 (H, W, 3) RGB -> the same.
        progress: is told the part of the whole that each frame is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        with av.open(str(path)) as source, av.open(str(part), "w") as output:
            if not source.streams.video:
                raise InputError("there is no picture in this video")
            frames = _copy(source, output, draw, progress)
        if not frames:
            raise InputError("no frame of this video can be read")
        os.replace(part, target)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, av.error.InvalidDataError):
            raise OSError(error.errno, os.strerror(error.errno)) from None  # of the disk, not of the video
        raise InputError(f"it cannot be read as a video ({error.__class__.__name__}: {error})") from None
    finally:
        part.unlink(missing_ok=True)


def _copy(source, output, draw: Callable, progress: Callable | None) -> int:
    """Draw the frames and copy the sound; how many frames there were."""
    video = source.streams.video[0]
    video.thread_type = "AUTO"
    sounds = {stream.index: output.add_stream_from_template(stream) for stream in source.streams.audio}
    duration = float(video.duration * video.time_base) if video.duration else (source.duration or 0) / av.time_base
    encoder, waiting, shown, count = None, [], 0.0, 0
    for packet in source.demux([video, *source.streams.audio]):
        if packet.stream.index in sounds:
            if packet.dts is not None:
                packet.stream = sounds[packet.stream.index]
                waiting.append(packet)
            if encoder is not None:  # all streams must be there before the first packet
                output.mux(waiting)
                waiting.clear()
            continue
        for frame in packet.decode():
            # Files of high definition that do not name their matrix mean BT.709, all others BT.601.
            wide = frame.colorspace == Colorspace.ITU709 or (frame.colorspace == 2 and frame.height >= 720)
            matrix = Colorspace.ITU709 if wide else Colorspace.ITU601
            pixels = frame.to_ndarray(format="rgb24", src_colorspace=matrix)
            pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
            height, width = pixels.shape[:2]
            if encoder is None:
                encoder = output.add_stream("libx264", rate=video.average_rate or 25, options=ENCODER)
                encoder.width, encoder.height = width, height
                encoder.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
                encoder.codec_context.time_base = video.time_base
                encoder.codec_context.colorspace, encoder.codec_context.color_range = matrix, ColorRange.MPEG
            drawn = av.VideoFrame.from_ndarray(draw(pixels), format="rgb24")
            drawn = drawn.reformat(format=encoder.pix_fmt, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)
            drawn.pts, drawn.time_base = frame.pts, video.time_base
            output.mux(encoder.encode(drawn))
            count += 1
            if progress and duration and frame.time is not None:
                share = min(1.0, frame.time / duration)
                progress(max(0.0, share - shown))
                shown = max(shown, share)
    if encoder is not None:
        output.mux([*waiting, *encoder.encode(None)])
    return count
