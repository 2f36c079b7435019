"""Films: the same upright pixels for training and for `cartoonize`, and frames of training over the whole length."""

import io
import itertools
import re
from fractions import Fraction
from pathlib import Path

import av
import made_media
import numpy as np
import pytest
from av.stream import Disposition

from cartoonlib import files
from cartoonlib.dataset import catalogue, origins
from cartoonlib.dataset.prepare import prepare
from cartoonlib.files import InputError
from cartoonlib.media import films
from cartoonlib.photos import video


def scenes_film(path, scenes, seconds_each=2, rate=10):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for scene in range(scenes):
            coarse = np.random.default_rng(scene).integers(0, 256, (6, 10, 3), dtype=np.uint8)
            for _ in range(seconds_each * rate):
                frame = av.VideoFrame.from_ndarray(coarse.repeat(16, 0).repeat(16, 1), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_becomes_cartoons_without_repeated_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    source = scenes_film(tmp_path / "film.mp4", scenes=4)
    images = prepare(str(source), 64, test_fraction=0.25, progress=lambda message: None)
    assert images.kind == "cartoons" and len(images.images) == 4
    assert len(images.rejected) == 12 and all("duplicate: " in item["reason"] for item in images.rejected)
    few = prepare(str(source), 64, limit=2, test_fraction=0.25, progress=lambda message: None)
    assert [entry["file"] for entry in few.manifest] == ["film.mp4@0.00s", "film.mp4@4.00s"]
    with pytest.raises(InputError, match="a video becomes cartoons"):
        catalogue.find(str(source), "faces")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        prepare(str(tmp_path / "broken.mp4"), 64, test_fraction=0.25)


QUARTERS = {(-1, -1): (200, 60, 60), (1, -1): (60, 180, 60), (-1, 1): (60, 60, 200), (1, 1): (200, 200, 60)}


def film(path: Path, size=(96, 64), frames=20, start=0, aspect=1, display=None, cover=False) -> Path:
    """Quarters of four colours, ten frames a second from `start` seconds on; display: a, b, c, d of the matrix."""
    picture = np.empty((size[1], size[0], 3), np.uint8)
    for (x, y), colour in QUARTERS.items():
        half = slice(None, size[1] // 2) if y < 0 else slice(size[1] // 2, None)
        picture[half, slice(None, size[0] // 2) if x < 0 else slice(size[0] // 2, None)] = colour
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if cover:
            still = container.add_stream("mjpeg", rate=1)
            still.width, still.height, still.pix_fmt, still.disposition = *size, "yuvj420p", Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros_like(picture), format="rgb24")
            frame.pts = 0
            container.mux([*still.encode(frame), *still.encode(None)])
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            matrix = 1 if size[1] >= 720 else 5  # what players take for the matrix of such a film
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.pts, frame.time_base = start * 10 + number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if display:
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 44
        a, b, c, d = (value * 0x10000 for value in display)
        content[place : place + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
        path.write_bytes(content)
    return path


def training_frames(path: Path, limit: int = 0) -> dict[str, np.ndarray]:
    """Time, as it is named -> frame, of a film as a training set."""
    _, found = origins.raw_images(catalogue.find(str(path)), 64, limit, [])
    return {item.name.partition("@")[2]: item.decode(item.content) for item in found}


def cartoonize_frames(path: Path) -> list[np.ndarray]:
    """The frames of a film as `cartoonize` draws them."""
    found = []
    video.convert(path, path.with_name("copy.mp4"), lambda pixels: found.append(pixels) or pixels)
    return found


@pytest.mark.parametrize("display", [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)]
                         + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)])  # fmt: skip
def test_a_film_is_turned_and_mirrored_as_its_matrix_says(display, tmp_path):
    source = film(tmp_path / "film.mp4", frames=6, display=display)
    (frame,) = training_frames(source).values()
    assert np.array_equal(frame, cartoonize_frames(source)[0])
    assert frame.shape == ((64, 96, 3) if display[0] else (96, 64, 3))
    a, b, c, d = display
    height, width = frame.shape[:2]
    for (x, y), colour in QUARTERS.items():
        right, down = a * x + c * y, b * x + d * y
        assert abs(frame[height * (2 + down) // 4, width * (2 + right) // 4].astype(int) - colour).max() < 8


def test_the_frames_of_training_are_spread_over_a_film_wherever_it_begins(tmp_path):
    source = film(tmp_path / "film.mkv", frames=40, start=100)
    assert list(training_frames(source, limit=4)) == ["100.00s", "101.00s", "102.00s", "103.00s"]
    assert films.span(source) == (100, 104, "")
    shares = []
    video.convert(source, tmp_path / "copy.mkv", lambda pixels: pixels, shares.append)
    assert len(shares) == 40 and shares[1] == pytest.approx(1 / 40) and sum(shares) <= 1


def test_the_cover_of_a_film_is_not_its_picture(tmp_path):
    source = film(tmp_path / "film.mp4", cover=True)
    content = source.read_bytes()  # the cover comes first where its box does
    moov, trak, box = (content.index(name) - 4 for name in (b"moov", b"trak", b"udta"))
    assert moov < trak < box
    source.write_bytes(content[:trak] + content[box:] + content[trak:box])
    (first, *_) = training_frames(source).values()
    assert first.max() > 150 and len(cartoonize_frames(source)) == 20


def test_pixels_of_a_film_become_squares_and_its_colours_those_of_its_size(tmp_path):
    (frame, *_) = training_frames(film(tmp_path / "wide.mp4", aspect="4/3")).values()
    assert frame.shape == (64, 128, 3)
    (frame, *_) = training_frames(film(tmp_path / "high.mp4", aspect="2/3", display=(0, 1, -1, 0))).values()
    assert frame.shape == (96, 96, 3)  # 64 x 96 when it is upright, its pixels half as wide again as high
    source = film(tmp_path / "large.mp4", size=(1280, 720), frames=5)
    (frame,) = training_frames(source).values()
    assert np.array_equal(frame, cartoonize_frames(source)[0])
    for (x, y), colour in QUARTERS.items():
        assert abs(frame[180 * (2 + y), 320 * (2 + x)].astype(int) - colour).max() < 8


PQ_100, PQ_203, HLG_203 = 0.5081, 0.5807, 0.75  # signals of so much light in cd/m²: ITU-R BT.2408


def hdr_film(path: Path, transfer: int, signal: float, matrix=9, primaries=9, chroma=(512, 512)) -> Path:
    """Five frames of a grey, or with Cb and Cr of a colour, 10 bit."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.colorspace = transfer, matrix
        stream.codec_context.color_primaries, stream.codec_context.color_range = primaries, 1
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for plane, value in zip(frame.planes, (round(64 + 876 * signal), *chroma)):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("transfer", "signal", "grey"), [
    (films.PQ, PQ_203, 0.75 * 255), (films.HLG, HLG_203, 0.75 * 255), (films.PQ, PQ_100, 0.63 * 255),
    (14, 0.5, 0.5 * 255), (films.PQ, 0.0, 0), (films.PQ, 0.7518, 255), (films.PQ, 1.0, 255),
])  # fmt: skip
def test_an_hdr_film_is_shown_as_other_films_are(transfer, signal, grey, tmp_path):
    """Reference white is 75 %, as HLG has it, below the highlights; BT.2020 that is not HDR keeps its greys."""
    source = hdr_film(tmp_path / "hdr.mkv", transfer, signal)
    (frame,) = training_frames(source).values()
    assert abs(frame.astype(int) - grey).max() <= 2 and np.array_equal(frame, cartoonize_frames(source)[0])
    with av.open(str(tmp_path / "copy.mp4")) as copy:
        written = next(copy.decode(video=0))
        assert written.colorspace == 1 and written.color_trc not in (films.PQ, films.HLG)
        assert abs(written.to_ndarray(format="rgb24").astype(int) - frame).max() <= 3


def test_colours_of_hdr_are_those_of_bt_709(tmp_path):
    for colour in np.eye(3):
        wide = np.linalg.inv(films.TO_709) @ colour / 10  # a dark primary of BT.709
        signal = np.rint(65535 * np.maximum(wide, 0) ** (1 / 2.4)).astype(np.uint16)
        shown = films.as_bt709(signal[None, None], 1, primaries=9)[0, 0]
        assert abs(shown - 255 * (colour / 10) ** (1 / 2.4)).max() <= 12 and shown.argmax() == colour.argmax()
    with pytest.raises(InputError, match="unusual.mkv: its colours have an unusual matrix"):
        training_frames(hdr_film(tmp_path / "unusual.mkv", films.PQ, 0.5, matrix=10))


@pytest.mark.parametrize(("matrix", "red"), [(9, 1.4746), (1, 1.5748), (5, 1.402), (6, 1.402), (2, 1.4746)])
@pytest.mark.parametrize("primaries", [1, 2, 9])
def test_hdr_is_decoded_by_the_matrix_and_the_primaries_that_its_header_states(matrix, red, primaries, tmp_path):
    """HLG keeps its signal; red: of ITU-T H.273, R = Y + red * Cr, in which the matrices differ."""
    source = hdr_film(tmp_path / "hdr.mkv", films.HLG, 0.5, matrix, primaries, chroma=(512, 512 + 90))
    (frame,) = training_frames(source).values()
    share = {9: (0.2627, 0.0593), 1: (0.2126, 0.0722), 5: (0.299, 0.114)}[{2: 9, 6: 5}.get(matrix, matrix)]
    green = red * share[0] / (1 - sum(share))
    signal = 0.5 + 90 / 896 * np.array([red, -green, 0])
    light = signal**2.4 if primaries == 1 else films.TO_709 @ signal**2.4
    assert abs(frame - 255 * light ** (1 / 2.4)).max() <= 2


def test_a_film_that_breaks_off_gives_what_came_before(tmp_path):
    source = film(tmp_path / "film.mkv", frames=100)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    begin, end, note = films.span(source)
    assert begin == 0 and 3 < end < 9 and note.startswith("it breaks off after")
    times = [float(time.rstrip("s")) for time in training_frames(source, limit=4)]
    assert len(times) == 4 and np.diff(times) == pytest.approx(float(end) / 4, abs=0.11)


# --- faults that users of such tools meet ---------------------------------------------------------------------------

PLAIN = made_media.Film(
    "mp4", "libx264", "yuv420p", "", (96, 64), Fraction(25), 50, start=0, shape=Fraction(1), turn=(1, 0, 0, 1),
    cover=False, sounds=1, gaps=False, cut=1,
)  # fmt: skip
SUBTITLES = b"1\n00:00:00,000 --> 00:00:01,000\nhello\n\n2\n00:00:01,000 --> 00:00:01,500\nbye\n\n"


def made(folder: Path, **changes) -> Path:
    """A film of made_media.py, like PLAIN but for some changes."""
    film = PLAIN._replace(**changes)
    path = folder / f"film.{film.suffix}"
    made_media.make_film(path, film)
    return path


def test_cover_art_that_nothing_marks_is_not_the_picture(tmp_path):
    """As some programs write it: a picture track like any other, the first, with one frame."""
    with av.open(str(tmp_path / "film.mkv"), "w") as output, av.open(str(made(tmp_path))) as source:
        still = output.add_stream("mjpeg", rate=1)
        still.width, still.height, still.pix_fmt = 64, 64, "yuvj420p"
        copy = output.add_stream_from_template(source.streams.video[0])
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        frame.pts = 0
        output.mux([*still.encode(frame), *still.encode(None)])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                output.mux(packet)
    frames = cartoonize_frames(tmp_path / "film.mkv")
    assert len(frames) == 50 and not made_media.shown_wrongly(frames[0])
    assert not made_media.shown_wrongly(next(iter(training_frames(tmp_path / "film.mkv").values())))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_truncated_film_is_not_silent(suffix, tmp_path, monkeypatch):
    kind = {"avi": {"codec": "mjpeg", "pixels": "yuvj420p"}}.get(suffix, {})
    whole = made(tmp_path, suffix=suffix, **kind)
    assert films.span(whole).note == "" and video.convert(whole, tmp_path / "copy.mkv", lambda pixels: pixels)[1:] == []
    cut = made(tmp_path, suffix=suffix, **kind, cut=0.5)
    *_, note = video.convert(cut, tmp_path / "copy.mkv", lambda pixels: pixels)  # perhaps behind half a frame
    found = re.fullmatch(r"it breaks off after (.*) of the 2.0 s that its file states", note)
    with av.open(str(tmp_path / "copy.mkv")) as copy:
        assert float(found[1]) == pytest.approx(sum(1 for _ in copy.decode(video=0)) / 25, abs=0.2)
    monkeypatch.setattr(files, "PROCESSED", tmp_path / "processed")
    said = []
    images = prepare(str(cut), 48, test_fraction=0.0, progress=said.append)
    assert {"file": cut.name, "reason": f"end of the film, for {note}"} in images.rejected and note in said[-1]


def test_tracks_keep_their_languages_and_titles_and_what_is_left_out_is_named(tmp_path):
    source, film = made(tmp_path, sound="aac", sounds=3), tmp_path / "film.mkv"
    subtitles = io.BytesIO(SUBTITLES)
    with av.open(str(source)) as a, av.open(subtitles, format="srt") as b, av.open(str(film), "w") as output:
        output.metadata["title"] = "Holiday"
        copies = {stream: output.add_stream_from_template(stream) for stream in (*a.streams, *b.streams)}
        for stream, language in zip(a.streams.audio, ("eng", "deu", "fra")):
            copies[stream].metadata["language"] = language
        copies[b.streams[0]].metadata.update(language="fra", title="for the deaf")
        output.add_attachment("font.ttf", "application/x-truetype-font", b"font")
        half = {"start": 0, "end": 1000, "time_base": Fraction(1, 1000)}
        output.set_chapters([{"id": 1, **half, "metadata": {"title": "the sea"}}])
        for packet in (*a.demux(), *b.demux()):
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                output.mux(packet)
    notes = video.convert(film, tmp_path / "copy.mkv", lambda pixels: pixels)
    assert notes[1:] == ["tracks that its cartoon is without: 5 (attachment)"]
    with av.open(str(tmp_path / "copy.mkv")) as copy:
        assert copy.metadata["title"] == "Holiday" and copy.chapters()[0]["metadata"] == {"title": "the sea"}
        tracks = [(stream.type, stream.language, stream.metadata.get("title")) for stream in copy.streams]
        sounds = [("audio", language, None) for language in ("eng", "deu", "fra")]
        assert tracks == [("video", None, None), *sounds, ("subtitle", "fra", "for the deaf")]
        assert [bytes(packet) for packet in copy.demux(subtitles=0) if packet.size] == [b"hello", b"bye"]


WEBVTT = b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n\n00:01.000 --> 00:01.500\nbye\n"
ASS = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,hello
Dialogue: 0,0:00:01.00,0:00:01.50,Default,,0,0,0,,bye
"""


@pytest.mark.parametrize(("suffix", "sound", "kind", "text"), [
    ("mkv", "ac3", "ass", ASS), ("mkv", "flac", "srt", SUBTITLES), ("webm", "libopus", "webvtt", WEBVTT),
    ("mp4", "aac", "", b""), ("mov", "pcm_s16le", "", b""),
])  # fmt: skip
def test_all_tracks_of_sound_and_subtitles_are_kept(suffix, sound, kind, text, tmp_path):
    webm = {"codec": "libvpx"} if suffix == "webm" else {}
    source, film = made(tmp_path, suffix=suffix, sound=sound, sounds=2, **webm), tmp_path / f"both.{suffix}"
    with av.open(str(source)) as a, av.open(str(film), "w") as output:
        subtitles = [av.open(io.BytesIO(text), format=kind) for _ in range(2)] if kind else []
        copies = {stream: output.add_stream_from_template(stream) for one in (a, *subtitles) for stream in one.streams}
        for packet in itertools.chain(*(one.demux() for one in (a, *subtitles))):
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                output.mux(packet)
    target = tmp_path / f"copy.{'mkv' if suffix == 'webm' else suffix}"
    assert video.convert(film, target, lambda pixels: pixels)[1:] == []
    found = []
    for path in (film, target):
        with av.open(str(path)) as container:
            others = list(container.streams)[1:]
            tracks = {s.index: (s.codec_context.name, s.codec_context.extradata, []) for s in others}
            for packet in container.demux(*others):
                if packet.size:
                    tracks[packet.stream.index][2].append((round(packet.pts * packet.time_base, 2), bytes(packet)))
        found.append(tracks)
    assert found[0] == found[1] and len(found[0]) == (4 if kind else 2)


def test_a_film_that_changes_its_size_is_drawn_to_its_end(tmp_path):
    kinds = ({"size": (96, 64)}, {"size": (128, 96), "start": 10})
    parts = [made(tmp_path, suffix="ts", **kind).read_bytes() for kind in kinds]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    assert len(cartoonize_frames(tmp_path / "both.ts")) == 100


def test_the_makers_of_soak_find_what_is_wrong(tmp_path, monkeypatch):
    path = made(tmp_path, turn=(0, 1, -1, 0))
    assert made_media.end_of_film(path, PLAIN._replace(turn=(0, 1, -1, 0))) == ("right", "")
    end, why = made_media.end_of_film(path, PLAIN)
    assert end == "wrong" and "instead of" in why
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    assert made_media.end_of_film(tmp_path / "broken.mp4", PLAIN._replace(cut=0.5))[0] == "sentence"
    picture = made_media.Picture("png", "PNG", "RGB", (96, 64), 6, b"", 1, 1.0, 1)
    made_media.make_picture(tmp_path / "a.png", picture)
    assert made_media.end_of_picture(tmp_path / "a.png", picture) == ("right", "")
    assert made_media.end_of_picture(tmp_path / "a.png", picture._replace(orientation=8))[0] == "wrong"
