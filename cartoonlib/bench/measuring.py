"""Clocks, peaks of memory and spreads: the least, the median and the largest of a measurement's repeats."""

import gc
import math
import multiprocessing
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from timeit import Timer

import torch

from ..device import EAGER_STEPS
from ..files import InputError
from ..report.book import processor

LEAST = 0.2  # seconds: a shorter call is repeated until one measurement takes so long


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def warm_up(device: torch.device) -> int:
    """Calls before the clock counts: one, and on a GPU those that end with a CUDA graph that has been replayed."""
    return EAGER_STEPS + 3 if device.type == "cuda" else 1


def timed(calls: dict[str, Callable], repeats: int, clock: Callable[[], float], before: int = 1) -> dict[str, list]:
    """Seconds a call of each, in turns (A B A B ...), after `before` calls of each that do not count.

    One measurement is the mean over as many calls as take LEAST.
    """
    timers = {name: Timer(call, gc.enable, clock) for name, call in calls.items()}  # else it keeps the collector off
    times, counts = {name: [] for name in calls}, {}
    for name, timer in timers.items():
        for _ in range(before):
            counts[name] = max(1, math.ceil(LEAST / max(timer.timeit(1), 1e-6)))
    for _ in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.timeit(counts[name]) / counts[name])
    return times


def rates(seconds: list[float], batch: int) -> dict[str, dict]:
    """Spreads of the seconds a step, and of the images a second."""
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
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text(encoding="utf-8"))[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


KILLED = "it was killed, most likely for want of memory"


class Process(ProcessPoolExecutor):
    """A fresh process that calls functions one after the other, and has malloc's settings and a peak of its own."""

    def __init__(self):
        super().__init__(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def __call__(self, function: Callable, *arguments):
        """What a function of a module returns there; InputError, with the reason, when it fails."""
        try:
            return self.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise InputError(KILLED) from None
        except Exception as problem:
            raise InputError((str(problem).splitlines() or [repr(problem)])[-1]) from problem


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: one that is killed cannot end it."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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
