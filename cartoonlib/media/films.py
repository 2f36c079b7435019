"""Films: the one place where a film is opened, its picture chosen, and a frame becomes upright RGB pixels."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..files import InputError

VIDEOS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg"}
HDR = (9, 10, 16, 18)  # BT.2020's matrices; the transfer curves PQ and HLG


@contextlib.contextmanager
def open_film(path: Path) -> Iterator[tuple]:
    """PyAV's container of a film and its picture's stream, which no cover is. InputError when it cannot be read."""
    import av  # here, because who draws photos alone need not load it
    from av.stream import Disposition

    try:
        container = av.open(str(path.absolute()))  # absolute, because a name with a colon is taken for a protocol
    except (OSError, ValueError) as error:
        raise InputError(f"it cannot be read as a video ({getattr(error, 'strerror', None) or error})") from None
    with container:
        still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
        stream = next((stream for stream in container.streams.video if not stream.disposition & still), None)
        if stream is None:
            raise InputError("there is no picture in this video")
        stream.thread_type = "AUTO"
        yield container, stream


def span(path: Path) -> tuple[Fraction, Fraction]:
    """Seconds at which a film's first frame begins and its last one ends, by its packets, for headers may be wrong."""
    import av

    times, last = [], 0
    with open_film(path) as (container, stream), contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and not packet.is_discard:
                times.append(time)
                last = max(last, time + (packet.duration or 0))
    return min(times, default=0) * stream.time_base, last * stream.time_base


def matrix(frame) -> int:
    """The matrix between a frame's colours and RGB, one of PyAV's Colorspace. InputError when the frame is HDR."""
    from av.video.reformatter import Colorspace

    if frame.colorspace in HDR or frame.color_trc in HDR:
        raise InputError("it is HDR, whose colours would be wrong: convert it to BT.709 first")
    # Files of high definition that do not name their matrix mean BT.709, all others BT.601.
    wide = frame.colorspace == Colorspace.ITU709 or (frame.colorspace == 2 and frame.height >= 720)
    return Colorspace.ITU709 if wide else Colorspace.ITU601


def pixels(frame, stream) -> tuple[np.ndarray, Fraction]:
    """A frame as it is to be seen, uint8 (H, W, 3) RGB, turned and mirrored; and the width of a pixel by its height."""
    rgb, shape = frame.to_ndarray(format="rgb24", src_colorspace=matrix(frame)), stream.sample_aspect_ratio
    shape = shape if shape and 1 / 8 <= shape <= 8 else Fraction(1)  # others are nonsense
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is not None:  # a point (x, y) is seen at (a x + c y, b x + d y)
        a, b, _, c, d = np.frombuffer(bytes(display), np.int32)[:5].tolist()
        if abs(b) > abs(a):
            rgb, shape, a, d = rgb.transpose(1, 0, 2), 1 / shape, c, b
        rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb), shape
