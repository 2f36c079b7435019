"""Films: the one place where a film is opened, its picture chosen, and a frame becomes upright RGB pixels."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import InputError

VIDEOS = {
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".wmv",
    ".asf", ".flv", ".ogv", ".mpe", ".m2v", ".vob",
}  # fmt: skip
HDR = (9, 10, 16, 18)  # BT.2020's matrices; the transfer curves PQ and HLG
STILLS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # codecs of covers, and of films that have no other picture
SHORT = 0.5  # seconds that a film may be shorter than its file states


class Span(NamedTuple):
    """Seconds at which a film's first frame begins and its last one ends; a sentence when its file ends early, or ""."""

    begin: Fraction
    end: Fraction
    note: str


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
        pictures = [s for s in container.streams.video if s.codec_context and not s.disposition & still]
        stream = min(pictures, key=lambda s: s.codec_context.name in STILLS, default=None)
        if stream is None:
            raise InputError("there is no picture in this video that can be read")
        stream.thread_type = "AUTO"
        yield container, stream


def packets(container, *streams) -> Iterator:
    """A film's packets, of some streams or all, as far as they can be read."""
    import av

    with contextlib.suppress(av.error.FFmpegError):
        yield from container.demux(*streams)


def span(path: Path) -> Span:
    """When a film begins and ends, by its packets, for headers may be wrong; and whether they state more than there is.

    What they state is the length of each stream, or, where they are silent about that, the end of the whole film.
    """
    begins, ends = {}, {}  # by stream
    with open_film(path) as (container, stream):
        for packet in packets(container):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and not packet.is_discard:
                begin, key = time * packet.time_base, packet.stream.index
                begins[key] = min(begins.get(key, begin), begin)
                ends[key] = max(ends.get(key, 0), begin + (packet.duration or 0) * packet.time_base)
        pairs = [
            (ends.get(s.index, 0) - begins.get(s.index, 0), s.duration * s.time_base)
            for s in (stream, *container.streams.audio)
            if s.duration
        ]
        if not stream.duration and container.duration:
            pairs.append((max(ends.values(), default=0), Fraction(container.duration, 10**6)))
        found, stated = min(pairs, key=lambda pair: pair[0] - pair[1], default=(0, 0))
        early = stated - found > SHORT
        note = f"it breaks off after {float(found):.1f} of the {float(stated):.1f} s that its file states" if early else ""
        return Span(begins.get(stream.index, Fraction(0)), ends.get(stream.index, Fraction(0)), note)


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
