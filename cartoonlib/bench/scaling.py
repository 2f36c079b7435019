"""How a step grows with its settings, and the least time that the machine needs for its operations."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from scipy.stats import linregress
from torch.utils.flop_counter import FlopCounterMode

from ..files import InputError
from ..profile import Profile
from .measuring import now, spread, timed, warm_up
from .steps import measured


def axes(p: Profile) -> dict[str, tuple[int, ...]]:
    """Points to measure: all with five repeats or more, every second one with fewer, two small ones with one."""
    if p.bench_repeats == 1:
        return {"size": (32, 48), "batch": (2, 4), "segments": (30, 60)}
    points = {"size": (64, 96, 128, 192, 256, 384, 512), "batch": (1, 2, 4, 8, 16, 32, 64)}
    points["segments"] = (50, 100, 200, 400, 800)
    return {axis: values[:: 1 if p.bench_repeats >= 5 else 2] for axis, values in points.items()}


def growth(p: Profile, progress: Callable[[str], None] = print) -> list[dict]:
    """How a step grows along each axis, the others as in the profile; resolution at batch 4."""
    rows, measured_once = [], cache(partial(measured, p))
    for axis, values in axes(p).items():
        for value in values:
            changes = {"size": p.size, "batch": p.batch, "segments": p.segments}
            changes |= {axis: value} | ({"batch": 4} if axis == "size" else {})
            progress("size {size}, batch {batch}, {segments} segments".format(**changes))
            rows.append({"axis": axis, **changes, **measured_once(**changes)})
    return rows


def memory_fit(rows: list[dict]) -> dict[str, float]:
    """Peak memory as a line over the megapixels of a batch: MB per megapixel, MB at none, and R^2."""
    points = {(row["batch"] * row["size"] ** 2 / 1e6, row["peak_mb"]) for row in rows if "peak_mb" in row}
    if len(points) < 2:
        raise InputError("Memory was measured at fewer than two sizes: all the others failed.")
    x, y = np.array(sorted(points)).T
    slope, intercept, r, *_ = map(float, linregress(x, y))
    return {"mb_per_megapixel": slope, "mb_at_none": intercept, "r2": r**2, "points": len(x)}


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
    """Operations a second of a large matrix product and a 3 x 3 convolution 128 -> 128 (on a GPU maybe in TF32)."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    layer = torch.nn.Conv2d(128, 128, 3, padding=1, bias=False, device=device, dtype=dtype)
    x = torch.randn(256 if device.type == "cuda" else 16, 128, 32, 32, device=device, dtype=dtype)
    layer, x = (value.to(memory_format=torch.channels_last) for value in (layer, x))
    calls = {"matrix product": partial(torch.matmul, a, b), "convolution 128 to 128": partial(layer, x)}
    times = timed(calls, max(3, repeats), partial(now, device), before=warm_up(device) + 1)
    return {name: spread(operations(call) / value for value in times[name]) for name, call in calls.items()}


def floor(step: Callable, seconds: dict, rate: dict[str, dict]) -> dict[str, float]:
    """The least time of a step: its operations at the machine's best rate; and how many times as long it takes."""
    flops, best = operations(step), max(value["median"] for value in rate.values())
    least = flops / best
    distance = {name: value / least for name, value in seconds.items()}
    return {"flop": flops, "flop_per_second": best, "seconds": least, "distance": distance}
