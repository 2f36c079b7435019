"""How fast a training step is: beside the original's step, part by part, as it grows, and against the machine's floor.

A figure is a spread: the least, the median and the largest of its repeats.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from .. import files
from ..dataset.prepare import MARGIN, ImageSet
from ..device import EAGER_STEPS, pick_device
from ..images import center_crop
from ..profile import Profile, profile_of
from ..report.book import Report, processor
from ..runs import training
from ..step import PretrainStep, TrainStep
from .original import OriginalImages, OriginalStep, vgg19_without_download

LEAST = 0.2  # seconds: a shorter call is repeated until one measurement takes so long


def at_size(images: ImageSet, size: int, count: int) -> ImageSet:
    """The first `count` training images as if prepared at another size; a step costs the same on enlarged ones."""
    side, rows = round(size * MARGIN), np.flatnonzero(images.split == "train")[:count]
    arrays = [np.asarray(Image.fromarray(images.images[row]).resize((side, side))) for row in rows]
    manifest = [images.manifest[row] for row in rows]
    return dataclasses.replace(images, images=np.stack(arrays), points=images.points[rows], manifest=manifest)


def ours(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Callable[[], dict]:
    """Our step of a profile with its batches: each call is what the training loop does for one step."""
    accelerator = training.make_accelerator(p)
    perceptual = vgg19_without_download() if p.perceptual == "vgg19" else None  # a benchmark must not download
    update = TrainStep(p, accelerator, perceptual=perceptual)
    batches, numbers = training.train_batches(p, faces, cartoons, accelerator), itertools.count()

    def step() -> dict[str, Tensor]:
        return update(*batches(next(numbers)))

    step.update = update
    return step


def pretraining(p: Profile, faces: ImageSet) -> Callable[[], dict]:
    """The same for a step of the pretraining."""
    accelerator = training.make_accelerator(p)
    update, numbers = PretrainStep(p, accelerator), itertools.count()
    photos = training.photo_batches(p, faces, accelerator)
    return lambda: update(photos(next(numbers)))


def originals(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Callable[[], dict]:
    """The original's step on the same images, cut to the centre, for it augments nothing."""
    update = OriginalStep(p, training.make_accelerator(p).device)
    sets = [OriginalImages(center_crop(images.part("train"), p.size), p.batch) for images in (faces, cartoons)]

    def step() -> dict[str, Tensor]:
        return update(*sets)

    step.update = update
    return step


STEPS = {"ours": ours, "original": originals}


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def make_clock(device: torch.device) -> Callable[[], float]:
    """Seconds, once the device has done all it was given."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def warm_up(device: torch.device) -> int:
    """Calls before the clock counts: one, and on a GPU those that end with a CUDA graph that has been replayed."""
    return EAGER_STEPS + 3 if device.type == "cuda" else 1


def timed(calls: dict[str, Callable], repeats: int, clock: Callable[[], float], before: int = 1) -> dict[str, list]:
    """Seconds a call of each, in turns (A B A B ...), after `before` calls of each that do not count.

    One measurement is the mean over as many calls as take LEAST.
    """
    times, counts = {name: [] for name in calls}, {}
    for name, call in calls.items():
        for _ in range(before):
            start = clock()
            call()
            counts[name] = max(1, math.ceil(LEAST / max(clock() - start, 1e-6)))
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            for _ in range(counts[name]):
                call()
            times[name].append((clock() - start) / counts[name])
    return times


def rates(seconds: list[float], batch: int) -> dict[str, dict]:
    return {"seconds": spread(seconds), "images_per_second": spread(batch / value for value in seconds)}


def paired(calls: dict[str, Callable], batch: int, repeats: int, clock: Callable, before: int = 1) -> dict:
    """Steps in turns; `ratio` is how many times as many images a second each takes in as the last one, turn by turn."""
    times = timed(calls, repeats, clock, before)
    last = list(times.values())[-1]
    return {
        name: rates(values, batch) | {"ratio": spread(b / a for a, b in zip(values, last)), "turns": repeats}
        for name, values in times.items()
    }


def peak_memory(device: torch.device) -> float:
    """MB at the worst moment so far: what torch holds of the GPU's memory, or the whole process.

    Linux hands the peak of getrusage on from parent to child; VmHWM is the process's own.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


class Elsewhere:
    """A step in a process of its own, which makes one whenever it is called: with malloc's settings and a peak of its own.

    The original's step would else profit from what ours does to malloc. InputError, with the reason, when the process ends.

    Args:
        which: "ours" or "original".
        changes: of the profile's settings. Images come out of its own sets, enlarged or reduced for another size.
    """

    def __init__(self, p: Profile, which: str, **changes: int):
        settings = [json.dumps(p.model_dump()), json.dumps(changes)]
        command = [sys.executable, "-m", "cartoonlib.bench", "serve", which, *settings]
        self._errors, pipe = tempfile.TemporaryFile("w+"), subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=files.ROOT, stdin=pipe, stdout=pipe, stderr=self._errors, text=True
        )
        self.about = self._answer()["about"]

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no reason"]
        killed = self._process.wait() < 0
        raise files.InputError("it was killed, most likely for want of memory" if killed else lines[-1])

    def __call__(self) -> float:
        """One step; the process's peak memory so far, in MB."""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        return self._answer()["peak_mb"]

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def serve(which: str, settings: dict, changes: dict) -> None:
    """The other end of Elsewhere: a line of JSON for every line that comes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else that is printed may get between the answers
    own = Report(profile_of(settings), progress=lambda line: None)
    p, device = own.profile.replace(**changes), own.device
    sets = [at_size(images, p.size, p.batch) for images in (own.faces(), next(iter(own.cartoons().values())))]
    step, clock = STEPS[which](p, *sets), make_clock(device)
    update = step.update
    about = f"{update.perceptual.name}, {str(update.dtype).removeprefix('torch.')}"
    print(json.dumps({"about": about}), file=answers, flush=True)
    for _ in sys.stdin:
        step(), clock()
        print(json.dumps({"peak_mb": peak_memory(device)}), file=answers, flush=True)


def measured(p: Profile, **changes: int) -> dict:
    """Time and peak memory of our step in a fresh process; `failed` instead, with the reason, when it did not end well."""
    try:
        with Elsewhere(p, "ours", **changes) as step:
            times = timed({"ours": step}, p.bench_repeats, time.perf_counter, warm_up(pick_device()))["ours"]
            return rates(times, p.replace(**changes).batch) | {"peak_mb": step()}
    except files.InputError as problem:
        return {"failed": str(problem)}


def breakdown(step: Callable, device: torch.device, repeats: int) -> dict[str, dict]:
    """Seconds of the labelled parts of a step, of the rest ("other") and of the whole ("step"), by torch's profiler.

    On a GPU the time of its kernels. The backward pass stays in this thread, so that its kernels are known to be its own.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + cuda]
    rows = []
    for _ in range(repeats):
        one_thread, profiler = torch.autograd.set_multithreading_enabled(False), profile(activities=activities)
        with _no_notes(), one_thread, profiler, record_function("step"):
            step()
            make_clock(device)()
        row = {}
        for event in profiler.events():
            outer = event.name == "step" or (event.cpu_parent and event.cpu_parent.name == "step")
            # torch labels its optimizers too, with a "#" in the name.
            if outer and event.is_user_annotation and event.device_type == DeviceType.CPU and "#" not in event.name:
                seconds = (event.device_time_total if cuda else event.cpu_time_total) / 1e6
                row[event.name] = row.get(event.name, 0) + seconds
        rows.append(row | {"other": 2 * row["step"] - sum(row.values())})
    return {name: spread(row[name] for row in rows) for name in sorted(rows[0], key=lambda name: -rows[0][name])}


@contextlib.contextmanager
def _no_notes() -> Iterator[None]:
    """Nothing is written to the terminal: torch's profiler notes there, from C++, that it starts, and that a GPU is missing."""
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def axes(p: Profile) -> dict[str, tuple[int, ...]]:
    """Points to measure: all of them with five repeats or more, every second one with fewer, two small ones with one."""
    if p.bench_repeats == 1:
        return {"size": (32, 48), "batch": (2, 4), "segments": (30, 60)}
    every = 1 if p.bench_repeats >= 5 else 2
    points = {
        "size": (64, 96, 128, 192, 256, 384, 512),
        "batch": (1, 2, 4, 8, 16, 32, 64),
        "segments": (50, 100, 200, 400, 800),
    }
    return {axis: values[::every] for axis, values in points.items()}


def growth(p: Profile, progress: Callable[[str], None] = print) -> list[dict]:
    """How a step grows along each axis, the others as in the profile; resolution at batch 4."""
    rows, known = [], {}
    for axis, values in axes(p).items():
        for value in values:
            changes = {"size": p.size, "batch": p.batch, "segments": p.segments}
            changes |= {axis: value} | ({"batch": 4} if axis == "size" else {})
            key = tuple(changes.values())
            progress(f"size {key[0]}, batch {key[1]}, {key[2]} segments")
            known[key] = known.get(key) or measured(p, **changes)
            rows.append({"axis": axis, **changes, **known[key]})
    return rows


def memory_fit(rows: list[dict]) -> dict[str, float]:
    """Peak memory as a line over the megapixels of a batch: MB per megapixel, MB at none, and R^2."""
    points = [(row["batch"] * row["size"] ** 2 / 1e6, row["peak_mb"]) for row in rows if "peak_mb" in row]
    if len({*points}) < 2:
        raise files.InputError("Memory was measured at fewer than two sizes: all the others failed.")
    x, y = np.array(sorted({*points})).T
    slope, intercept = np.polyfit(x, y, 1)
    left = np.square(y - intercept - slope * x).sum() / np.square(y - y.mean()).sum()
    return {"mb_per_megapixel": float(slope), "mb_at_none": float(intercept), "r2": float(1 - left), "points": len(x)}


def memory_at(rows: list[dict], fit: dict, size: int = 512, batch: int = 4) -> dict:
    """Peak memory at a size and batch, in MB: as measured where there is such a row, else by the fit; and which."""
    found = [row for row in rows if (row["size"], row["batch"]) == (size, batch)]
    for row in found:
        if "peak_mb" in row:
            return {"mb": row["peak_mb"], "how": "measured"}
    by_fit = fit["mb_at_none"] + fit["mb_per_megapixel"] * batch * size**2 / 1e6
    return {"mb": by_fit, "how": "extrapolated, for the step itself failed" if found else "extrapolated"}


def operations(call: Callable) -> int:
    """Floating-point operations of the convolutions and matrix products in a call, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, dict]:
    """Operations a second of a large matrix product and of a 3 x 3 convolution 128 -> 128 (float32 may be TF32 on a GPU)."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    layer = nn.Conv2d(128, 128, 3, padding=1, bias=False, device=device, dtype=dtype)
    x = torch.randn(256 if device.type == "cuda" else 16, 128, 32, 32, device=device, dtype=dtype)
    layer, x = (value.to(memory_format=torch.channels_last) for value in (layer, x))
    calls = {"matrix product": lambda: a @ b, "convolution 128 to 128": lambda: layer(x)}
    times = timed(calls, max(3, repeats), make_clock(device), before=warm_up(device) + 1)
    return {name: spread(operations(call) / value for value in times[name]) for name, call in calls.items()}


def floor(step: Callable, seconds: dict, rate: dict[str, dict]) -> dict[str, float]:
    """The least time of a step: its operations at the machine's best rate; and how many times as long it takes."""
    flops, best = operations(step), max(value["median"] for value in rate.values())
    least = flops / best
    return {"flop": flops, "flop_per_second": best, "seconds": least} | {
        "distance": {name: value / least for name, value in seconds.items()}
    }


def hardware() -> dict:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpu": gpu and gpu.name,
        "gpu_memory_gb": gpu and round(gpu.total_memory / 1e9, 1),
        "system": platform.platform(),
    }
