"""The training steps that are timed, ours and the original's: here, in a process of their own, and part by part."""

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.autograd import DeviceType
from torch.profiler import profile, record_function

from ..dataset.prepare import MARGIN, ImageSet
from ..dataset.sets import Sets
from ..device import pick_device
from ..files import InputError
from ..images import center_crop
from ..profile import Profile
from ..runs import training
from ..step import PretrainStep, StartStep, TrainStep, build_generator
from .measuring import Process, now, paired, peak_memory, rates, spread, timed, warm_up
from .original import OriginalStep, vgg19_without_download

os.environ["KINETO_LOG_LEVEL"] = "99"  # torch's profiler would write to the terminal that it starts, or finds no GPU


@dataclasses.dataclass
class Stepper:
    """A step with its batches: each call does what the training loop does for one step, and returns the losses."""

    update: Callable  # takes a batch
    batches: Iterator[tuple]

    def __call__(self) -> dict[str, torch.Tensor]:
        return self.update(*next(self.batches))


def ours(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Stepper:
    """Our step of a profile."""
    accelerator = training.make_accelerator(p)
    perceptual = vgg19_without_download() if p.perceptual == "vgg19" else None  # a benchmark must not download
    update = TrainStep(p, accelerator, perceptual=perceptual)
    return Stepper(update, map(training.TrainBatches(p, faces, cartoons, accelerator), itertools.count()))


def pretraining(p: Profile, faces: ImageSet) -> Stepper:
    """A step of the pretraining."""
    accelerator = training.make_accelerator(p)
    photos = training.photo_batches(p, faces, accelerator)
    return Stepper(PretrainStep(p, accelerator), zip(map(photos, itertools.count())))


def starting(p: Profile, faces: ImageSet) -> Stepper:
    """A step of the structure start."""
    p = training.of_start(p)
    accelerator = training.make_accelerator(p)
    batches = training.photo_batches(p, faces, accelerator), training.structure_batches(p, faces, accelerator, print)
    update = StartStep(p, accelerator, build_generator(p).state_dict())
    return Stepper(update, zip(*(map(batch, itertools.count()) for batch in batches)))


def originals(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Stepper:
    """The original's step on the same images, cut to the centre, for it augments nothing; it makes its own batches."""
    sets = [list(center_crop(images.part("train"), p.size)) for images in (faces, cartoons)]
    sets = [images * -(-p.batch // len(images)) for images in sets]  # repeated until there is a whole batch
    return Stepper(OriginalStep(p, pick_device()), itertools.repeat(sets))


def at_size(images: ImageSet, size: int, count: int) -> ImageSet:
    """The first `count` training images as if prepared at another size; a step costs the same on enlarged ones."""
    side, rows = round(size * MARGIN), np.flatnonzero(images.split == "train")[:count]
    arrays = [np.asarray(Image.fromarray(images.images[row]).resize((side, side))) for row in rows]
    manifest = [images.manifest[row] for row in rows]
    part = {"images": np.stack(arrays), "points": images.points[rows], "manifest": manifest}
    return dataclasses.replace(images, **part, hash=f"{images.hash}, {len(rows)} at {side} px")  # for their structures


def start(p: Profile, build: Callable, changes: dict[str, int]) -> str:
    """Prepare the step that `go_on` makes in this process; returns its perceptual network and precision.

    Each step has a process of its own: the original's would else profit from what ours does to malloc. build: ours or
    originals. changes: of settings; images come out of the profile's own sets, enlarged or reduced for another size.
    """
    global _step
    sets = Sets(p, progress=lambda line: None)
    p, images = p.replace(**changes), (sets.faces, next(iter(sets.cartoons.values())))
    _step = build(p, *(at_size(one, p.size, p.batch) for one in images))
    return f"{_step.update.perceptual.name}, {str(_step.update.dtype).removeprefix('torch.')}"


def go_on() -> float:
    """One step; this process's peak memory so far, in MB."""
    _step()
    now(pick_device())
    return peak_memory(pick_device())


def measured(p: Profile, **changes: int) -> dict:
    """Time and peak memory of our step in a fresh process; when it did not end well, `failed` with the reason."""
    try:
        with Process() as process:
            process(start, p, ours, changes)
            step = partial(process, go_on)
            times = timed({"ours": step}, p.bench_repeats, time.perf_counter, warm_up(pick_device()))["ours"]
            return rates(times, p.replace(**changes).batch) | {"peak_mb": step()}
    except InputError as problem:
        return {"failed": str(problem)}


def compared(p: Profile) -> dict[str, dict]:
    """Our step, ours with the perceptual losses on every image, and the original's, in turns, each in its process.

    Time, images and peak memory of each, and how many times as fast as the original's it is.
    """
    variants = {"ours": (ours, {}), "ours, every image": (ours, {"perceptual_every": 1}), "original": (originals, {})}
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process()) for name in variants}
        about = {name: process(start, p, *variants[name]) for name, process in processes.items()}
        steps = {name: partial(process, go_on) for name, process in processes.items()}
        rows = paired(steps, p.batch, p.bench_repeats, time.perf_counter, warm_up(pick_device()))
        return {name: row | {"about": about[name], "peak_mb": steps[name]()} for name, row in rows.items()}


def breakdown(step: Callable, device: torch.device, repeats: int) -> dict[str, dict]:
    """Seconds of the labelled parts of a step, of the rest ("other") and of the whole ("step"), by torch's profiler.

    No label stands in another. On a GPU the time of its kernels. The backward pass stays in this thread, so that its
    kernels are known as its own.
    """
    rows = []
    for _ in range(repeats):
        with torch.autograd.set_multithreading_enabled(False), profile() as profiler, record_function("step"):
            step()
            now(device)
        labels = [e for e in profiler.key_averages() if e.is_user_annotation and e.device_type == DeviceType.CPU]
        labels = [label for label in labels if "#" not in label.key]  # those of torch's optimizers and loaders
        row = {e.key: (e.device_time_total if device.type == "cuda" else e.cpu_time_total) / 1e6 for e in labels}
        rows.append(row | {"other": 2 * row["step"] - sum(row.values())})
    return {name: spread(row[name] for row in rows) for name in sorted(rows[0], key=lambda name: -rows[0][name])}
