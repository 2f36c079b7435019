"""How long drawing a photo takes, and how much memory, from 128 px to 24 megapixels."""

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import torch
from PIL import Image
from skimage.data import astronaut

from .. import files
from ..images import to_tensor, to_uint8
from ..photos import Cartoonizer, shipped
from ..photos.draw import cartoonize
from ..photos.onnx import OnnxGenerator, to_onnx
from ..photos.steady import Steady
from ..profile import Profile
from .measuring import KILLED, Process, peak_memory, spread, timed

COMMAND = "the command"  # `cartoonize photo.jpg` from its start to its end, Python's start and the JPEG among it
USUAL = "usual scale"  # what it does with the photo once that is read: the scale by the face, 512 px without one
WHOLE = "whole"  # the generator alone on all pixels at once, float32: no tiles, no bytes, no mixing
FILM = "a film's frame"  # of that size, drawn at that scale and made steady; its reading and writing apart
TILES = ("float32", "bfloat16", "ONNX Runtime")  # on all pixels too (`--scale 1`), in tiles
WAYS = (COMMAND, USUAL, FILM, *TILES, WHOLE)
# The command, and what it takes of memory, which only Linux tells; nothing else is imported.
COMMAND_AND_ITS_PEAK = """
import sys
from cartoonlib.photos.cli import main
main()
peak = next(line.split()[1] for line in open("/proc/self/status", encoding="utf-8") if line.startswith("VmHWM"))
print(int(peak) * 1024 / 1e6)
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


def sizes(p: Profile) -> list[tuple[int, int]]:
    """Heights and widths to measure, up to a telephone's 12 and a camera's 24 megapixels where there is time."""
    all_sizes = [(128, 128), SMALL, (720, 1280), (2048, 2048), PHONE, CAMERA]
    return all_sizes[: 1 if p.bench_repeats == 1 else 2 if p.bench_repeats < 5 else None]


def measure(p: Profile, progress: Callable[[str], None] = print) -> list[dict]:
    """By size and way of drawing: seconds, and peak memory of a process that does nothing else, libraries included."""
    rows, style = [], shipped.styles()[0]
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{style}.onnx"
        exported.write_bytes(to_onnx(shipped.load(style)))
        for (height, width), way in itertools.product(sizes(p), WAYS):
            if way == WHOLE and height * width > MOST_WHOLE:
                continue
            progress(f"{width} x {height} px, {way}")
            try:
                if way == COMMAND:
                    found = time_command(_photo(height, width), p.bench_repeats)
                else:
                    generator = str(exported) if way == "ONNX Runtime" else style
                    with Process() as process:
                        found = process(draw_here, way, generator, height, width, p.bench_repeats)
            except files.InputError as problem:
                found = {"failed": str(problem).replace("|", "/")}
            rows.append({"height": height, "width": width, "way": way, **found})
    return rows


def _photo(height: int, width: int) -> Image.Image:
    return Image.fromarray(astronaut()).resize((width, height), Image.Resampling.BICUBIC)


def time_command(photo: Image.Image, repeats: int) -> dict:
    """Seconds and peak memory of `cartoonize` on a JPEG of a photo; InputError, with the reason, when it fails."""
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        photo.save(path, quality=92)
        for turn in range(repeats):
            command = [sys.executable, "-c", COMMAND_AND_ITS_PEAK, path, "-o", Path(folder) / f"turn{turn}"]
            start = time.perf_counter()
            done = subprocess.run(command, cwd=files.ROOT, capture_output=True, encoding="utf-8")
            seconds.append(time.perf_counter() - start)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
                raise files.InputError(KILLED if done.returncode < 0 else reason)
            peaks.append(float(done.stdout.splitlines()[-1]))
    return {"seconds": spread(seconds), "peak_mb": peaks[0]}


def draw_here(way: str, generator: str, height: int, width: int, repeats: int) -> dict:
    """Seconds and peak memory of drawing one photo in this process, which should do nothing else."""
    generator, photo = shipped.load(generator), np.array(_photo(height, width))
    draw = partial(cartoonize, generator, photo, scale=None if way == USUAL else 1.0)
    if way == FILM:
        draw = partial(lambda film, mix: mix(photo, film(photo)), Cartoonizer(generator).for_film([photo]), Steady())
    elif way == WHOLE:
        draw = partial(generator, to_tensor(photo[None]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
        seconds = timed({way: draw}, repeats, time.perf_counter)[way]
    return {"seconds": spread(seconds), "peak_mb": peak_memory(torch.device("cpu"))}


def flicker(generator: Callable, frames: int = 12) -> dict[str, float]:
    """Mean change between frames once their motion is taken out, in steps of 255: of a film, and of its cartoon.

    The film is a camera that moves over a photo by one and two px a frame, with a sensor's noise of deviation 2, so
    that the motion is known exactly; its middle is compared, for the borders come and go. `alone`: each frame drawn by
    itself. `_squares`: of means of 4 x 4 px, which keep a quarter of the noise, and whatever larger parts change.
    """
    photo, noise = np.asarray(_photo(512, 512)).astype(np.float32), np.random.default_rng(0)
    film = [photo[2 * t : 2 * t + 384, t : t + 384] for t in range(frames)]
    film = [np.clip(frame + noise.normal(0, 2, frame.shape), 0, 255).round().astype(np.uint8) for frame in film]
    alone = [cartoonize(generator, frame, scale=1.0) for frame in film]
    films = {"film": film, "alone": alone, "cartoon": list(map(Steady(), film, alone))}
    return {name + end: _change(films[name], px) for end, px in (("", 1), ("_squares", 4)) for name in films}


def _change(film: list[np.ndarray], square: int) -> float:
    """Mean difference of neighbouring frames of `flicker`, each moved back to where the first one stood, in squares."""
    still = [frame[64 - 2 * t : 320 - 2 * t, 64 - t : 320 - t].astype(np.float32) for t, frame in enumerate(film)]
    still = [frame.reshape(256 // square, square, -1, square, 3).mean(axis=(1, 3)) for frame in still]
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
        row, goal = by_way.get((*size, way)), {"goal": title, "limits": limits}
        if row and "failed" in row:
            table.append({**goal, "failed": row["failed"], "met": False})
        elif row:
            found = {"seconds": row["seconds"]["median"], "gb": row["peak_mb"] / 1000}
            met = all(found[quantity] < limit for quantity, limit in limits.items())
            table.append({**goal, "found": found, "met": met})
    whole = [row for row in rows if row["way"] == WHOLE and "failed" not in row]
    for way in (USUAL, *TILES) if whole else ():
        row = by_way[whole[-1]["height"], whole[-1]["width"], way]
        if "failed" not in row:
            ratio = row["seconds"]["median"] / whole[-1]["seconds"]["median"]
            title = f"{row['width']} x {row['height']}, {way} / the whole picture at once, time"
            table.append({"goal": title, "limits": {"ratio": 1.0}, "found": {"ratio": ratio}, "met": ratio <= 1})
    return table


def variants(style: str, repeats: int, side: int = 512) -> list[dict]:
    """ONNX models of a generator in float32, float16 and int8: MB, seconds, and differences from float32, of 255.

    By ONNX Runtime's own converters; int8 for activations and weights of the convolutions, calibrated on a small copy.
    """
    from onnxruntime.quantization import QuantFormat, quant_pre_process, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_model_from_string(to_onnx(shipped.load(style)))
    photo, small = (to_tensor(np.array(_photo(size, size))[None]) for size in (side, side // 2))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "float16", "int8")}
        onnx.save(model, paths["float32"])
        inputs = iter([{"photo": small.numpy()}])
        reader = SimpleNamespace(get_next=lambda: next(inputs, None))
        quant_pre_process(paths["float32"], paths["int8"], skip_symbolic_shape=True)
        quantize_static(paths["int8"], paths["int8"], reader, QuantFormat.QDQ, ["Conv"], per_channel=True)
        onnx.save(convert_float_to_float16(model, keep_io_types=True), paths["float16"])
        models = {name: OnnxGenerator(path.read_bytes()) for name, path in paths.items()}
        sizes = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
    seconds = timed({name: partial(draw, photo) for name, draw in models.items()}, repeats, time.perf_counter)
    exact, rows = to_uint8(models["float32"](photo)).astype(np.int16), []
    for name, draw in models.items():
        off = np.abs(to_uint8(draw(photo)) - exact)
        row = {"model": name, "mb": sizes[name], "seconds": spread(seconds[name])["median"]}
        rows.append(row | {"mean_difference": float(off.mean()), "largest_difference": int(off.max())})
    return rows
