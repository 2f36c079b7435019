"""How long drawing a photo takes, and how much memory, from 128 px to 24 megapixels: tables of notebook 06."""

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
from .measuring import peak_memory, spread, timed

COMMAND = "the command"  # `cartoonize photo.jpg` from its start to its end, Python's start and the JPEG among it
USUAL = "usual scale"  # what it does with the photo once that is read, the network looking at 512 px
WHOLE = "whole"  # the generator alone on all pixels at once, float32: no tiles, no bytes, no mixing
TILES = ("float32", "bfloat16", "ONNX Runtime")  # on all pixels too (`--scale 1`), in tiles
WAYS = (COMMAND, USUAL, *TILES, WHOLE)
# The command, and what it takes of memory, which only Linux tells; nothing else is imported.
COMMAND_AND_ITS_PEAK = """
import sys
from cartoonlib.photos.cli import main
main()
peak = next(line.split()[1] for line in open("/proc/self/status", encoding="utf-8") if line.startswith("VmHWM"))
print('{"peak_mb": %f}' % (int(peak) * 1024 / 1e6))
"""
MOST_WHOLE = 4.2e6  # px that are tried whole, for each takes some 900 bytes
PHONE, CAMERA, SMALL = (3000, 4000), (4000, 6000), (512, 512)  # heights and widths that goals are set for
# On two CPU cores: what is asked of which size, drawn in which way, in less than so many seconds and GB.
GOALS = (
    ("12 megapixels, once read", PHONE, USUAL, {"seconds": 20.0, "gb": 2.0}),
    ("24 megapixels in tiles, on all pixels", CAMERA, "float32", {"gb": 2.0}),
    ("512 x 512, once read", SMALL, USUAL, {"seconds": 0.5}),
    ("512 x 512, from the command's start to its end", SMALL, COMMAND, {"seconds": 6.0}),
)
UNITS = {"seconds": "s", "gb": "GB"}


def sizes(p: Profile) -> list[tuple[int, int]]:
    """Heights and widths to measure, up to a telephone's 12 and a camera's 24 megapixels where there is time."""
    all_sizes = [(128, 128), SMALL, (1024, 1024), (2048, 2048), PHONE, CAMERA]
    return all_sizes[: 1 if p.bench_repeats == 1 else 2 if p.bench_repeats < 5 else None]


def measure(p: Profile, progress: Callable[[str], None] = print) -> list[dict]:
    """By size and way of drawing: seconds, and peak memory of a process that does nothing else, libraries included."""
    rows, style = [], shipped.styles()[0]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{style}.onnx"
        exported.write_bytes(to_onnx(shipped.load(style)))
        for height, width in sizes(p):
            photo = Path(folder) / f"{height}x{width}.jpg"
            _photo(height, width).save(photo, quality=92)
            for way in WAYS:
                if way == WHOLE and height * width > MOST_WHOLE:
                    continue
                progress(f"{width} x {height} px, {way}")
                if way == COMMAND:
                    found = _time_command(photo, p.bench_repeats)
                else:
                    generator = str(exported) if way == "ONNX Runtime" else style
                    numbers = map(str, (height, width, p.bench_repeats))
                    found, _ = _run_python("-m", "cartoonlib.bench", "draw", way, generator, *numbers)
                rows.append({"height": height, "width": width, "way": way, **found})
    return rows


def _photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def _time_command(photo: Path, repeats: int) -> dict:
    """Seconds and peak memory of `cartoonize` on a photo; `failed` instead, with the reason, when one turn fails."""
    targets = [photo.with_name(f"turn{turn}") for turn in range(repeats)]
    turns = [_run_python("-c", COMMAND_AND_ITS_PEAK, str(photo), "-o", str(target)) for target in targets]
    failed = next((found for found, _ in turns if "failed" in found), None)
    return failed or turns[0][0] | {"seconds": spread(seconds for _, seconds in turns)}


def _run_python(*arguments: str) -> tuple[dict, float]:
    """What a Python process printed at its end, and its seconds from start to end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=files.ROOT, capture_output=True, encoding="utf-8")
    seconds = time.perf_counter() - start
    if done.returncode < 0:
        return {"failed": "it was killed, most likely for want of memory"}, seconds
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason"])[-1].replace("|", "/")}, seconds
    return json.loads(done.stdout.splitlines()[-1]), seconds


def draw_here(way: str, generator: str, height: int, width: int, repeats: int) -> dict:
    """Seconds and peak memory of drawing one photo in this process, which should do nothing else."""
    generator, photo = shipped.load(generator), np.array(_photo(height, width))
    draw = partial(cartoonize, generator, photo, scale=None if way == USUAL else 1.0)
    if way == WHOLE:
        draw = partial(generator, to_tensor(photo[None]))
    precision = torch.autocast("cpu", torch.bfloat16) if way == "bfloat16" else contextlib.nullcontext()
    with torch.no_grad(), precision:
        seconds = timed({way: draw}, repeats, time.perf_counter)[way]
    return {"seconds": spread(seconds), "peak_mb": peak_memory(torch.device("cpu"))}


def flicker(generator: Callable, frames: int = 12) -> dict[str, float]:
    """Mean change between frames once their motion is taken out, in steps of 255: of a film, and of its cartoon.

    The film is a camera that moves over a photo by one and two px a frame, with a sensor's noise of deviation 2, so
    that the motion is known exactly; its middle is compared, for the borders come and go.
    """
    photo, noise = np.asarray(_photo(512, 512)).astype(np.float32), np.random.default_rng(0)
    film = [photo[2 * t : 2 * t + 384, t : t + 384] for t in range(frames)]
    film = [np.clip(frame + noise.normal(0, 2, frame.shape), 0, 255).round().astype(np.uint8) for frame in film]
    return {"film": _change(film), "cartoon": _change([cartoonize(generator, frame) for frame in film])}


def _change(film: list[np.ndarray]) -> float:
    """Mean difference of neighbouring frames of `flicker`, each moved back to where the first one stood."""
    still = [frame[64 - 2 * t : 320 - 2 * t, 64 - t : 320 - t].astype(np.float32) for t, frame in enumerate(film)]
    return float(np.mean([np.abs(b - a).mean() for a, b in zip(still, still[1:])]))


def goals(rows: list[dict]) -> list[dict]:
    """Whether the goals are met by the rows that `measure` returns; those whose size was not measured are left out.

    Each is a dict: `goal`, in words; `limits` and `found` by quantity ("seconds", "gb" or "ratio"); `met`; and `failed`
    with the reason, instead of what was found, when it could not be drawn. The last ones compare the time with that of
    the generator alone on the whole picture (a ratio, at most 1), for the largest photo that was drawn so too.
    """
    by_way = {(row["height"], row["width"], row["way"]): row for row in rows}
    table = []
    for title, size, way, limits in GOALS:
        row = by_way.get((*size, way))
        if row is None:
            continue
        if "failed" in row:
            table.append({"goal": title, "limits": limits, "failed": row["failed"], "met": False})
            continue
        found = {"seconds": row["seconds"]["median"], "gb": row["peak_mb"] / 1000}
        met = all(found[quantity] < limit for quantity, limit in limits.items())
        table.append({"goal": title, "limits": limits, "found": found, "met": met})
    whole = [row for row in rows if row["way"] == WHOLE and "failed" not in row]
    for way in (USUAL, *TILES) if whole else ():
        height, width, seconds = whole[-1]["height"], whole[-1]["width"], whole[-1]["seconds"]["median"]
        row = by_way[height, width, way]
        if "seconds" in row:
            ratio = row["seconds"]["median"] / seconds
            title = f"{width} x {height}, {way} / the whole picture at once, time"
            table.append({"goal": title, "limits": {"ratio": 1.0}, "found": {"ratio": ratio}, "met": ratio <= 1})
    return table


def goal_lines(goals: list[dict]) -> list[list[str]]:
    """Lines of a table: goal with its limits, what was found, whether it is met."""
    table = []
    for row in goals:
        asked = [f"under {number(limit)} {UNITS[q]}" for q, limit in row["limits"].items() if q in UNITS]
        limits = " and ".join(asked) or f"at most {number(row['limits']['ratio'])}"
        found = [f"{number(value)} {UNITS.get(q, '')}".strip() for q, value in row.get("found", {}).items()]
        table.append([f"{row['goal']}: {limits}", row.get("failed") or ", ".join(found), "yes" if row["met"] else "no"])
    return table


def lines(rows: list[dict]) -> list[list[str]]:
    """A line a size for a table: seconds and peak memory of every way."""
    table = []
    for height, width in dict.fromkeys((row["height"], row["width"]) for row in rows):
        by_way = {row["way"]: row for row in rows if (row["height"], row["width"]) == (height, width)}
        cells = [_cell(by_way.get(way)) for way in WAYS]
        table.append([f"{width} x {height}, {number(height * width / 1e6)} MP", *cells])
    return table


def _cell(row: dict | None) -> str:
    if row is None:
        return "not tried"
    return row.get("failed") or f"{number(row['seconds']['median'])} s, {number(row['peak_mb'] / 1000)} GB"


def variants(style: str, repeats: int, side: int = 512) -> list[dict]:
    """ONNX models of a generator in float32, float16 and int8: MB, seconds, and differences from float32, of 255.

    By ONNX Runtime's own converters; int8 for activations and weights of the convolutions, calibrated on a small copy.
    """
    from onnxruntime.quantization import QuantFormat, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_model_from_string(to_onnx(shipped.load(style)))
    photo, small = (to_tensor(np.array(_photo(size, size))[None]) for size in (side, side // 2))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "float16", "int8")}
        onnx.save(model, paths["float32"])
        calibration = _Calibration([small])
        quantize_static(paths["float32"], paths["int8"], calibration, QuantFormat.QDQ, ["Conv"], per_channel=True)
        onnx.save(convert_float_to_float16(model, keep_io_types=True), paths["float16"])
        models = {name: OnnxGenerator(path) for name, path in paths.items()}
        sizes = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
    seconds = timed({name: partial(draw, photo) for name, draw in models.items()}, repeats, time.perf_counter)
    exact, table = to_uint8(models["float32"](photo)).astype(np.int16), []
    for name, draw in models.items():
        off = np.abs(to_uint8(draw(photo)) - exact)
        errors = {"mean_difference": float(off.mean()), "largest_difference": int(off.max())}
        table.append({"model": name, "mb": sizes[name], "seconds": spread(seconds[name])["median"], **errors})
    return table


def variant_lines(variants: list[dict]) -> list[list[str]]:
    """A line a model: its name, MB, seconds, and its mean and largest difference."""
    columns = "mb", "seconds", "mean_difference", "largest_difference"
    return [[row["model"], *(number(row[key]) for key in columns)] for row in variants]


class _Calibration:
    """What ONNX Runtime's quantization asks for one photo after the other."""

    def __init__(self, photos: list[torch.Tensor]):
        self._rest = iter(photos)

    def get_next(self) -> dict | None:
        return next(({"photo": photo.numpy()} for photo in self._rest), None)
