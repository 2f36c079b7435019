"""Films: the one place where a film is opened, its picture chosen, and a frame becomes upright RGB pixels."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av  # whose loading takes time, so that who draws photos alone does not import this module
import numpy as np
from av.stream import Disposition

from ..files import InputError

# Numbers of ITU-T H.273: matrices and primaries, `not said` for both, matrices that FFmpeg cannot undo (constant
# luminance, ICtCp), transfer curves of HDR.
BT709, BT601, BT2020, NOT_SAID, UNUSUAL, PQ, HLG = 1, 5, 9, 2, (10, 14), 16, 18
TO_709 = np.float32([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])  # BT.2087
STILLS = ("mjpeg", "png", "bmp", "gif", "webp", "tiff")  # codecs of covers, and of films that have no other picture
SHORT = 0.5  # seconds that a film may be shorter than its file states


class Span(NamedTuple):
    """Seconds at which a film's first frame begins and its last one ends; and a sentence when its end is missing."""

    begin: Fraction
    end: Fraction
    note: str


@contextlib.contextmanager
def open_film(path: Path) -> Iterator[tuple]:
    """PyAV's container of a film and its picture's stream, which no cover is. InputError when it cannot be read."""
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


def read(container, stream, broken: list, *others) -> Iterator:
    """A film's frames, and the packets of other streams, as far as it can be read; `broken` gets pieces that cannot."""
    with contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux(stream, *others):
            if packet.stream.index != stream.index:
                yield packet
                continue
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                broken.append(packet.pos)


def span(path: Path) -> Span:
    """When a film begins and ends, by its packets, for headers may be wrong; and whether they state more than there is.

    What they state is the length of the picture, or, where they are silent about that, the end of all streams.
    """
    shown, decoded, furthest = [], [], Fraction(0)  # (begin, end) of the picture's packets, as seen and as stored
    with open_film(path) as (container, stream):
        with contextlib.suppress(av.error.FFmpegError):
            for packet in container.demux():
                seen = packet.dts if packet.pts is None else packet.pts
                if seen is None or packet.is_discard:
                    continue
                pairs = [(time, time + (packet.duration or 0)) for time in (seen, packet.dts) if time is not None]
                pairs = [(begin * packet.time_base, end * packet.time_base) for begin, end in pairs]
                furthest = max(furthest, pairs[0][1])
                if packet.stream.index == stream.index:
                    shown.append(pairs[0])
                    decoded.append(pairs[-1])
        found, stated = furthest, Fraction(container.duration or 0, 10**6)
        if stream.duration:  # where some are missing, those that are shown leave gaps, but not those that are stored
            found = decoded[-1][1] - decoded[0][0] if decoded else Fraction(0)
            stated = stream.duration * stream.time_base
            if container.format.name == "avi" and stream.average_rate:  # whose length FFmpeg shortens by the file's
                stated = stream.frames / stream.average_rate
    note = f"it breaks off after {float(found):.1f} of the {float(stated):.1f} s that its file states"
    begin, end = min(shown, default=(Fraction(0),))[0], max((end for _, end in shown), default=Fraction(0))
    return Span(begin, end, note if stated - found > SHORT else "")


def matrix(frame) -> int:
    """The matrix between a frame's colours and RGB, BT709, BT601 or BT2020; InputError for one that is UNUSUAL."""
    if frame.colorspace in UNUSUAL:
        raise InputError("its colours have an unusual matrix (ICtCp or constant luminance): convert it to BT.709 first")
    if frame.colorspace == NOT_SAID:  # of HDR that is BT.2020, of high definition BT.709, of all others BT.601
        return BT2020 if frame.color_trc in (PQ, HLG) else BT709 if frame.height >= 720 else BT601
    return frame.colorspace if frame.colorspace in (BT709, BT2020) else BT601


def as_bt709(rgb: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Uint16 (H, W, 3) of HDR, or in BT.2020 -> uint8 in BT.709; reference white of HDR becomes 75 %.

    HLG is made to be shown as it is where there is no HDR, so PQ becomes HLG of 1,000 cd/m², both as in ITU-R BT.2100,
    HLG's gamma of 1.2 channel by channel; primaries, unless others than BT.2020's are named, change in the light of
    BT.1886.
    """
    signal = np.linspace(0, 1, 65536)
    if transfer == PQ:
        power = signal ** (32 / 2523)
        light = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)  # to a power, of 10,000 cd/m²
        scene = np.minimum(10 * light ** (16384 / 2610), 1) ** (1 / 1.2)
        high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)
    light = (signal**2.4).astype(np.float32)[rgb]
    if primaries in (BT2020, NOT_SAID):
        light = np.clip(light @ TO_709.T, 0, 1)
    return np.rint(255 * light ** (1 / 2.4)).astype(np.uint8)


def pixels(frame, stream) -> tuple[np.ndarray, Fraction]:
    """A frame as it is to be seen, uint8 (H, W, 3) RGB, turned and mirrored; and the width of a pixel by its height."""
    colours, shape = matrix(frame), stream.sample_aspect_ratio
    deep = colours == BT2020 or frame.color_trc in (PQ, HLG)
    rgb = frame.to_ndarray(format="rgb48le" if deep else "rgb24", src_colorspace=colours)
    rgb = as_bt709(rgb, frame.color_trc, frame.color_primaries) if deep else rgb
    shape = shape if shape and 1 / 8 <= shape <= 8 else Fraction(1)  # others are nonsense
    display = frame.side_data.get("DISPLAYMATRIX")
    if display is not None:  # a point (x, y) is seen at (a x + c y, b x + d y)
        a, b, _, c, d = np.frombuffer(bytes(display), np.int32)[:5].tolist()
        if abs(b) > abs(a):
            rgb, shape, a, d = rgb.transpose(1, 0, 2), 1 / shape, c, b
        rgb = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(rgb), shape
