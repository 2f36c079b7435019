"""The training steps that are timed, ours and the original's: here, in a process of their own, and part by part."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from .. import files
from ..dataset.prepare import MARGIN, ImageSet
from ..device import pick_device
from ..images import center_crop
from ..profile import Profile, profile_of
from ..report.book import Report
from ..runs import training
from ..step import PretrainStep, TrainStep
from .measuring import now, paired, peak_memory, rates, spread, timed, warm_up
from .original import OriginalImages, OriginalStep, vgg19_without_download


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
    return dataclasses.replace(images, images=np.stack(arrays), points=images.points[rows], manifest=manifest)


class StepProcess:
    """A step in a process of its own, with malloc's settings and a peak of its own; each call makes one step there.

    The original's step would else profit from what ours does to malloc. When the process ends: InputError, with the
    reason.

    Args:
        which: "ours" or "original".
        changes: of the profile's settings. Images come out of its own sets, enlarged or reduced for another size.
    """

    def __init__(self, p: Profile, which: str, **changes: int):
        settings = [json.dumps(p.model_dump()), json.dumps(changes)]
        command = [sys.executable, "-m", "cartoonlib.bench", "serve", which, *settings]
        self._errors, pipe = tempfile.TemporaryFile("w+", encoding="utf-8"), subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=files.ROOT, stdin=pipe, stdout=pipe, stderr=self._errors, encoding="utf-8"
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

    def __enter__(self) -> "StepProcess":
        return self

    def __exit__(self, *error) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def serve(which: str, settings: dict, changes: dict) -> None:
    """The other end of StepProcess: a line of JSON for every line that comes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else that is printed may get between the answers
    report = Report(profile_of(settings), progress=lambda line: None)
    p, device = report.profile.replace(**changes), report.device
    cartoons = next(iter(report.sets.cartoons.values()))
    step = STEPS[which](p, *(at_size(images, p.size, p.batch) for images in (report.sets.faces, cartoons)))
    about = f"{step.update.perceptual.name}, {str(step.update.dtype).removeprefix('torch.')}"
    print(json.dumps({"about": about}), file=answers, flush=True)
    for _ in sys.stdin:
        step()
        now(device)
        print(json.dumps({"peak_mb": peak_memory(device)}), file=answers, flush=True)


def measured(p: Profile, **changes: int) -> dict:
    """Time and peak memory of our step in a fresh process; when it did not end well, `failed` with the reason."""
    try:
        with StepProcess(p, "ours", **changes) as step:
            times = timed({"ours": step}, p.bench_repeats, time.perf_counter, warm_up(pick_device()))["ours"]
            return rates(times, p.replace(**changes).batch) | {"peak_mb": step()}
    except files.InputError as problem:
        return {"failed": str(problem)}


def saved(step: dict[str, dict], parts: dict[str, dict]) -> dict[str, float]:
    """Shares of our step that two cheaper ways save, by what `compared` and `breakdown` found.

    A structure target at half the resolution saves three quarters of the superpixels' share at most.
    """
    seconds = {name: row["seconds"]["median"] for name, row in step.items()}
    share = parts["superpixels"]["median"] / parts["step"]["median"]
    return {
        "perceptual losses on every second image": 1 - seconds["ours"] / seconds["ours, every image"],
        "structure target at half the resolution, at most": 0.75 * share,
    }


def compared(p: Profile) -> dict[str, dict]:
    """Our step, ours with the perceptual losses on every image, and the original's, in turns, each in its process.

    Time, images and peak memory of each, and how many times as fast as the original's it is.
    """
    with contextlib.ExitStack() as stack:
        steps = {
            "ours": stack.enter_context(StepProcess(p, "ours")),
            "ours, every image": stack.enter_context(StepProcess(p, "ours", perceptual_every=1)),
            "original": stack.enter_context(StepProcess(p, "original")),
        }
        rows = paired(steps, p.batch, p.bench_repeats, time.perf_counter, warm_up(pick_device()))
        return {name: row | {"about": steps[name].about, "peak_mb": steps[name]()} for name, row in rows.items()}


def breakdown(step: Callable, device: torch.device, repeats: int) -> dict[str, dict]:
    """Seconds of the labelled parts of a step, of the rest ("other") and of the whole ("step"), by torch's profiler.

    On a GPU the time of its kernels. The backward pass stays in this thread, so that its kernels are known as its own.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    rows = []
    for _ in range(repeats):
        one_thread, profiler = torch.autograd.set_multithreading_enabled(False), profile(activities=activities)
        with _silent_terminal(), one_thread, profiler, record_function("step"):
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


@contextlib.contextmanager
def _silent_terminal() -> Iterator[None]:
    """Write nothing to stderr: torch's profiler says there, from C++, that it starts, and that a GPU is missing."""
    terminal = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
