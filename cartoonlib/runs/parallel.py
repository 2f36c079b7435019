"""One run is one job: for this process, or for several that share every batch.

A job is a profile, a style and a title; its result is a folder in results/<profile>/runs. Runs are idempotent (see
training.py): a job may be stopped, and started again wherever the same results/ is seen.
"""

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from ..dataset.sets import Sets
from ..files import InputError
from ..profile import Profile, profile_of
from . import store, training
from .guards import TrainingStopped
from .profiles import load_profile
from .store import Run

ERRORS = {error.__name__: error for error in (InputError, TrainingStopped)}  # that processes report to this one


def train(
    profile: Profile, sets: Sets, style: str | None, title: str = "full method", progress: Callable = print
) -> Run:
    """The run of a profile in one style, trained if it is missing, by as many processes as the profile says.

    style: None is the structure start. Raises TrainingStopped and InputError, in the same sentences however many work.
    """
    if profile.processes > 1 and not store.is_finished(run_folder(profile, sets, style)):
        _launch(profile, style, title, progress)
    return run(profile, sets, style, title, progress)  # after a launch it only finds the run


def pretrain(profile: Profile, sets: Sets, progress: Callable = print) -> Run:
    """The run of a profile's pretraining, like train: what a structure start of no steps is."""
    return train(profile.replace(start_steps=0), sets, None, "pretraining", progress)


def start(profile: Profile, sets: Sets, style: str, progress: Callable = print) -> Run:
    """The run of a style's structure start, like train; without one, that is the pretraining."""
    return train(profile.of(style), sets, None, "structure start", progress)


def run(profile: Profile, sets: Sets, style: str | None, title: str, progress: Callable = print) -> Run:
    """Train in this process, or in this one of several that Accelerate started; style: None is the structure start."""
    if not first_process():
        progress = silent
    sets, runs = sets.of(profile), store.runs_folder(profile)
    if style is None:
        return training.start(profile, runs, sets.faces, progress)
    return training.train(profile, runs, sets.faces, sets.cartoons[style], style, title, progress, sets.shown)


def run_folder(profile: Profile, sets: Sets, style: str | None) -> Path:
    """The folder of a run, from the profile and its data, which are prepared if they are missing."""
    sets, runs = sets.of(profile), store.runs_folder(profile)
    if style is None:
        return store.start_folder(profile, runs, sets.faces)
    return store.train_folder(profile, runs, sets.faces, sets.cartoons[style], style)


def train_styles(name: str, styles: list[str]) -> None:
    """Train some styles of a profile, all of them when none is named; under `accelerate launch` in its processes."""
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    progress = show_line if first_process() else silent
    profile = load_profile(name)
    sets = Sets(profile, progress)
    with training.make_accelerator(profile).main_process_first() if shared else contextlib.nullcontext():
        _ = sets.faces  # prepared by the first process while the others wait
        known = list(sets.cartoons)
    for style in styles:
        if style not in known:
            raise InputError(f"Profile {name} has no style `{style}`: choose of {', '.join(known)}.")
    for style in styles or known:
        finished = (run if shared else train)(profile, sets, style, "full method", progress)
        if first_process():
            print(f"{style}: {finished.folder}")
    if shared:
        leave_the_others()


def first_process() -> bool:
    """Whether this is the only process, or the first of those that Accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def silent(_line: str) -> None:
    pass


def show_line(line: str, keep: bool = False) -> None:
    """Print a line on stderr; on a terminal the next one overwrites it, unless it is to be kept."""
    end = "\n"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        line, end = "\r" + line[:width].ljust(width), "\n" if keep else ""
    print(line, end=end, file=sys.stderr, flush=True)


def _launch(profile: Profile, style: str | None, title: str, progress: Callable) -> None:
    """Train in `processes` processes through `accelerate launch`, and raise here what they raise.

    Not through notebook_launcher, which forks: neither CUDA, which a notebook that prints the GPU's name has begun to
    use, nor the threads of OpenMP survive a fork. `--multi_gpu` is Accelerate's name for "several processes on this
    machine": without GPUs they are joined by gloo, while its `--cpu` leaves starting them to MPI.
    """
    gpus, number = torch.cuda.device_count(), profile.processes
    if 0 < gpus < number:
        raise InputError(f"`processes: {number}` needs as many GPUs, and this machine has {gpus}.")
    threads = max(1, torch.get_num_threads() // number)
    job = json.dumps([profile.model_dump(), style, title])
    problem, pipe = None, subprocess.PIPE
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
            "--num_processes", str(number), "--num_cpu_threads_per_process", str(threads), "--log_dir", logs,
            "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
            "-m", "cartoonlib.runs", "run", job,
        ]  # fmt: skip
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, encoding="utf-8") as process:
            with process.stdin:  # closing it ends the processes, see _end_with_parent
                for line in process.stdout:
                    kind, _, text = line.partition("\t")  # see _tell_parent; what else is printed there is no such line
                    if kind == "progress":
                        progress(json.loads(text))
                    elif kind in ERRORS:
                        problem = ERRORS[kind](json.loads(text))
        if process.wait() and problem is None:
            errors.seek(0)
            last = "".join(errors.readlines()[-100:])
            problem = RuntimeError(f"{title}: its {number} processes ended without a result:\n{last}")
    if problem is not None:
        raise problem


def run_launched(job: str) -> None:
    """What each process of _launch does: the job, telling its progress to the process that started it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings, style, title = json.loads(job)
    try:
        profile = profile_of(settings)
        run(profile, Sets(profile, silent), style, title, lambda line: _tell_parent("progress", line))
    except InputError as problem:
        _tell_parent(type(problem).__name__, str(problem))
        sys.exit(1)
    leave_the_others()


def _tell_parent(kind: str, text: str) -> None:
    sys.stdout.write(f"{kind}\t{json.dumps(text)}\n")  # in one piece, which print does not do: lines would mix
    sys.stdout.flush()


def _end_with_parent() -> None:
    """End this process when its standard input closes: whoever started it has ended, be it by a kill.

    Otherwise a kernel that is killed would leave its processes training, beside those that the next one starts.
    """
    os.read(0, 1)
    os._exit(1)


def leave_the_others() -> None:
    """End this process's part in the group of processes."""
    gc.collect()  # frees the networks: threads of gloo that still held them aborted the process at its end now and then
    torch.distributed.destroy_process_group()
