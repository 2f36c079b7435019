"""The training steps that are timed, ours and the original's: here, in a process of their own, and part by part."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from ..dataset.prepare import MARGIN, ImageSet
from ..dataset.sets import Sets
from ..device import pick_device
from ..files import InputError
from ..images import center_crop
from ..profile import Profile
from ..runs import training
from ..step import PretrainStep, StartStep, TrainStep, build_generator
from .measuring import Process, now, paired, peak_memory, rates, spread, timed, warm_up
from .original import OriginalImages, OriginalStep, vgg19_without_download

os.environ["KINETO_LOG_LEVEL"] = "99"  # torch's profiler would write to the terminal that it starts, or finds no GPU


@dataclasses.dataclass
class Stepper:
    """A step with its batches: each call does what the training loop does for one step, and returns the losses."""

    update: Callable  # takes a batch
    batches: Callable[[int], tuple]  # step -> batch
    done: int = 0

    def __call__(self) -> dict[str, Tensor]:
        batch = self.batches(self.done)
        self.done += 1
        return self.update(*batch)


def ours(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Stepper:
    """Our step of a profile."""
    accelerator = training.make_accelerator(p)
    perceptual = vgg19_without_download() if p.perceptual == "vgg19" else None  # a benchmark must not download
    update = TrainStep(p, accelerator, perceptual=perceptual)
    return Stepper(update, training.TrainBatches(p, faces, cartoons, accelerator))


def pretraining(p: Profile, faces: ImageSet) -> Stepper:
    """A step of the pretraining."""
    accelerator = training.make_accelerator(p)
    photos = training.photo_batches(p, faces, accelerator)
    return Stepper(PretrainStep(p, accelerator), lambda step: (photos(step),))


def starting(p: Profile, faces: ImageSet) -> Stepper:
    """A step of the structure start."""
    accelerator = training.make_accelerator(p)
    batches = training.photo_batches(p, faces, accelerator), training.structure_batches(p, faces, accelerator, print)
    start = build_generator(p).state_dict()
    return Stepper(StartStep(p, accelerator, start), lambda step: tuple(batch(step) for batch in batches))


def originals(p: Profile, faces: ImageSet, cartoons: ImageSet) -> Stepper:
    """The original's step on the same images, cut to the centre, for it augments nothing; it makes its own batches."""
    update = OriginalStep(p, training.make_accelerator(p).device)
    sets = [OriginalImages(center_crop(images.part("train"), p.size), p.batch) for images in (faces, cartoons)]
    return Stepper(update, lambda step: sets)


STEPS = {"ours": ours, "original": originals}


def at_size(images: ImageSet, size: int, count: int) -> ImageSet:
    """The first `count` training images as if prepared at another size; a step costs the same on enlarged ones."""
    side, rows = round(size * MARGIN), np.flatnonzero(images.split == "train")[:count]
    arrays = [np.asarray(Image.fromarray(images.images[row]).resize((side, side))) for row in rows]
    manifest = [images.manifest[row] for row in rows]
    part = {"images": np.stack(arrays), "points": images.points[rows], "manifest": manifest}
    return dataclasses.replace(images, **part, hash=f"{images.hash}, {len(rows)} at {side} px")  # for their structures


def start(p: Profile, which: str, changes: dict[str, int]) -> str:
    """Prepare the step that `go_on` makes in this process; returns its perceptual network and precision.

    Each step has a process of its own: the original's would else profit from what ours does to malloc.

    Args:
        which: "ours" or "original".
        changes: of the profile's settings. Images come out of its own sets, enlarged or reduced for another size.
    """
    global _step
    sets = Sets(p, progress=lambda line: None)
    p, images = p.replace(**changes), (sets.faces, next(iter(sets.cartoons.values())))
    _step = STEPS[which](p, *(at_size(one, p.size, p.batch) for one in images))
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
            process(start, p, "ours", changes)
            step = partial(process, go_on)
            times = timed({"ours": step}, p.bench_repeats, time.perf_counter, warm_up(pick_device()))["ours"]
            return rates(times, p.replace(**changes).batch) | {"peak_mb": step()}
    except InputError as problem:
        return {"failed": str(problem)}


def compared(p: Profile) -> dict[str, dict]:
    """Our step, ours with the perceptual losses on every image, and the original's, in turns, each in its process.

    Time, images and peak memory of each, and how many times as fast as the original's it is.
    """
    every = {"perceptual_every": 1}
    variants = {"ours": ("ours", {}), "ours, every image": ("ours", every), "original": ("original", {})}
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(Process()) for name in variants}
        about = {name: process(start, p, *variants[name]) for name, process in processes.items()}
        steps = {name: partial(process, go_on) for name, process in processes.items()}
        rows = paired(steps, p.batch, p.bench_repeats, time.perf_counter, warm_up(pick_device()))
        return {name: row | {"about": about[name], "peak_mb": steps[name]()} for name, row in rows.items()}


def breakdown(step: Callable, device: torch.device, repeats: int) -> dict[str, dict]:
    """Seconds of the labelled parts of a step, of the rest ("other") and of the whole ("step"), by torch's profiler.

    On a GPU the time of its kernels. The backward pass stays in this thread, so that its kernels are known as its own.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    rows = []
    for _ in range(repeats):
        one_thread = torch.autograd.set_multithreading_enabled(False)
        with one_thread, profile(activities=activities) as profiler, record_function("step"):
            step()
            now(device)
        row = {}
        for event in profiler.events():
            outer = event.name == "step" or (event.cpu_parent and event.cpu_parent.name == "step")
            # torch labels its optimizers too, with a "#" in the name.
            if outer and event.is_user_annotation and event.device_type == DeviceType.CPU and "#" not in event.name:
                seconds = (event.device_time_total if cuda else event.cpu_time_total) / 1e6
                row[event.name] = row.get(event.name, 0) + seconds
        rows.append(row | {"other": 2 * row["step"] - sum(row.values())})
    return {name: spread(row[name] for row in rows) for name in sorted(rows[0], key=lambda name: -rows[0][name])}
