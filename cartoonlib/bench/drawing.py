"""How long drawing a photo takes, and how much memory, from 128 px to 24 megapixels: a table of notebook 06."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from skimage.data import astronaut

from .. import files
from ..images import to_tensor, to_uint8
from ..photos import shipped
from ..photos.draw import cartoonize
from ..photos.onnx import OnnxGenerator, to_onnx
from ..profile import Profile
from ..report.tables import number
from . import timing

COMMAND = "the command"  # `cartoonize photo.jpg` from its start to its end, Python's start and the JPEG among it
USUAL = "usual scale"  # what it does with the photo once that is read, the network looking at 512 px
WHOLE = "whole"  # the generator alone on all pixels at once, float32: no tiles, no bytes, no mixing
# The others look at all pixels too (`--scale 1`), in tiles.
WAYS = (COMMAND, USUAL, "float32", "bfloat16", "ONNX Runtime", WHOLE)
ONLY_THE_COMMAND = """
import sys
from cartoonlib.photos.cli import main
main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print('{"peak_mb": %f}' % (int(peak) * 1024 / 1e6))
"""  # and what it takes of memory, which only Linux tells; nothing else is imported
MOST_WHOLE = 4.2e6  # px that are tried whole, for each takes some 900 bytes
PHONE, CAMERA, SMALL = (3000, 4000), (4000, 6000), (512, 512)  # heights and widths that goals are set for
# On two CPU cores: what is asked of which size, drawn in which way, in at most so many seconds and MB.
GOALS = (
    ("12 megapixels, once read", PHONE, USUAL, 20.0, 2000.0),
    ("24 megapixels in tiles, on all pixels", CAMERA, "float32", None, 2000.0),
    ("512 x 512, once read", SMALL, USUAL, 0.5, None),
    ("512 x 512, from the command's start to its end", SMALL, COMMAND, 6.0, None),
)


def sizes(p: Profile) -> list[tuple[int, int]]:
    """Heights and widths to measure, up to a telephone's 12 and a camera's 24 megapixels where there is time."""
    all_sizes = [(128, 128), SMALL, (1024, 1024), (2048, 2048), PHONE, CAMERA]
    return all_sizes[: 1 if p.bench_repeats == 1 else 2 if p.bench_repeats < 5 else None]


def measure(p: Profile, progress: Callable[[str], None] = print) -> list[dict]:
    """By size and way of drawing: seconds, and the peak memory of a process that does nothing else, libraries included."""
    rows, style = [], shipped.styles()[0]
    with tempfile.TemporaryDirectory() as folder:
        exported = f"{folder}/{style}.onnx"
        Path(exported).write_bytes(to_onnx(shipped.load(style)))
        for height, width in sizes(p):
            photo = Path(folder) / f"{height}x{width}.jpg"
            _photo(height, width).save(photo, quality=92)
            for way in WAYS:
                if way == WHOLE and height * width > MOST_WHOLE:
                    continue
                progress(f"{width} x {height} px, {way}")
                if way == COMMAND:
                    turns = [_timed("-c", ONLY_THE_COMMAND, str(photo), "-o", f"{folder}/{turn}") for turn in range(p.bench_repeats)]
                    failed = [found for found, _ in turns if "failed" in found]
                    found = failed[0] if failed else turns[0][0] | {"seconds": timing.spread(seconds for _, seconds in turns)}
                else:
                    generator = exported if way == "ONNX Runtime" else style
                    module = ("-m", "cartoonlib.bench", "draw", way, generator, str(height), str(width), str(p.bench_repeats))
                    found, _ = _timed(*module)
                rows.append({"height": height, "width": width, "way": way, **found})
    return rows


def _photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def _timed(*arguments: str) -> tuple[dict, float]:
    """What a Python process printed at its end, and its seconds from start to end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=files.ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode < 0:
        return {"failed": "it was killed, most likely for want of memory"}, seconds
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason"])[-1].replace("|", "/")}, seconds
    return json.loads(done.stdout.splitlines()[-1]), seconds


def _draw(way: str, generator: str, height: int, width: int, repeats: int) -> dict:
    generator, photo = shipped.load(generator), np.array(_photo(height, width))
    draw = partial(cartoonize, generator, photo, scale=None if way == USUAL else 1.0)
    if way == WHOLE:
        draw = partial(generator, to_tensor(photo[None]))
    lower = torch.autocast("cpu", torch.bfloat16) if way == "bfloat16" else contextlib.nullcontext()
    with torch.no_grad(), lower:
        seconds = timing.timed({way: draw}, repeats, time.perf_counter)[way]
    return {"seconds": timing.spread(seconds), "peak_mb": timing.peak_memory(torch.device("cpu"))}


def flicker(generator: Callable, frames: int = 12) -> dict[str, float]:
    """Mean change from one frame to the next once their motion is taken out, in steps of 255: of a film, and its cartoon.

    The film is a camera that moves over a photo by one and two px a frame, with a sensor's noise of deviation 2, so
    that the motion is known exactly; its middle is compared, for the borders come and go.
    """
    photo, noise = np.asarray(_photo(512, 512)).astype(np.float32), np.random.default_rng(0)
    film = [photo[2 * t : 2 * t + 384, t : t + 384] for t in range(frames)]
    film = [np.clip(frame + noise.normal(0, 2, frame.shape), 0, 255).round().astype(np.uint8) for frame in film]
    drawn = [cartoonize(generator, frame) for frame in film]

    def change(images: list[np.ndarray]) -> float:
        still = [image[64 - 2 * t : 320 - 2 * t, 64 - t : 320 - t].astype(np.float32) for t, image in enumerate(images)]
        return float(np.mean([np.abs(b - a).mean() for a, b in zip(still, still[1:])]))

    return {"film": change(film), "cartoon": change(drawn)}


def lines(rows: list[dict]) -> list[list[str]]:
    """A line a size for a table: seconds and peak memory of every way."""
    table = []
    for size in dict.fromkeys((row["height"], row["width"]) for row in rows):
        own = {row["way"]: row for row in rows if (row["height"], row["width"]) == size}
        cells = [_cell(own.get(way)) for way in WAYS]
        table.append([f"{size[1]} x {size[0]}, {number(size[0] * size[1] / 1e6)} MP", *cells])
    return table


def goals(rows: list[dict]) -> list[list[str]]:
    """Lines of a table: goal, what was found, whether it is met; those whose size was not measured are left out.

    The last ones compare the time per pixel with the generator's alone on the whole picture, on the largest photo that
    was drawn so in the same run.
    """
    found = {(row["height"], row["width"], row["way"]): row for row in rows}
    table = []
    for title, size, way, seconds, mb in GOALS:
        if (row := found.get((*size, way))) is None:
            continue
        limits = [f"under {number(limit)} {unit}" for limit, unit in ((seconds, "s"), (mb and mb / 1000, "GB")) if limit]
        met = "failed" not in row and row["seconds"]["median"] < (seconds or np.inf) and row["peak_mb"] < (mb or np.inf)
        table.append([f"{title}: {' and '.join(limits)}", _cell(row), "yes" if met else "no"])
    whole = [row for row in rows if row["way"] == WHOLE and "failed" not in row]
    for way in (USUAL, "float32", "bfloat16", "ONNX Runtime") if whole else ():
        height, width = whole[-1]["height"], whole[-1]["width"]
        if "seconds" in (row := found[height, width, way]):
            ratio = row["seconds"]["median"] / whole[-1]["seconds"]["median"]
            title = f"{width} x {height}, {way} / the whole picture at once, time: at most 1"
            table.append([title, number(ratio), "yes" if ratio <= 1 else "no"])
    return table


def variants(style: str, repeats: int, side: int = 512) -> list[list[str]]:
    """ONNX models of a generator in float32, float16 and int8: size, time, and how far their pictures are from float32's.

    By ONNX Runtime's own converters; int8 for activations and weights of the convolutions, calibrated on a smaller copy.
    """
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_model_from_string(to_onnx(shipped.load(style)))
    photo, small = (to_tensor(np.array(_photo(size, size))[None]) for size in (side, side // 2))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "float16", "int8")}
        onnx.save(model, files["float32"])
        quantize_static(files["float32"], files["int8"], _Calibration([small]), QuantFormat.QDQ, ["Conv"], per_channel=True)
        onnx.save(convert_float_to_float16(model, keep_io_types=True), files["float16"])
        drawn = {name: OnnxGenerator(path) for name, path in files.items()}
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    seconds = timing.timed({name: partial(draw, photo) for name, draw in drawn.items()}, repeats, time.perf_counter)
    exact = to_uint8(drawn["float32"](photo)).astype(np.int16)
    off = {name: np.abs(to_uint8(draw(photo)) - exact) for name, draw in drawn.items()}
    return [
        [name, number(sizes[name]), number(timing.spread(seconds[name])["median"]), number(off[name].mean()), str(off[name].max())]
        for name in files
    ]


class _Calibration:
    """What ONNX Runtime's quantization asks for one photo after the other."""

    def __init__(self, photos: list[torch.Tensor]):
        self._rest = iter(photos)

    def get_next(self) -> dict | None:
        return next(({"photo": photo.numpy()} for photo in self._rest), None)


def _cell(row: dict | None) -> str:
    if row is None:
        return "not tried"
    return row.get("failed") or f"{number(row['seconds']['median'])} s, {number(row['peak_mb'] / 1000)} GB"
