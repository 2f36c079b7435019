"""One run is one job: for this process, or for several that share every batch.

A job is a profile, a style and a title; its result is a folder in results/<profile>/runs. Runs are idempotent (see
training.py): a job may be stopped, and started again wherever the same results/ is seen.
"""

import contextlib
import gc
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils.other import get_free_port
from torch.multiprocessing.spawn import ProcessException

from ..dataset.sets import Sets
from ..files import InputError
from ..profile import Profile
from . import store, training
from .profiles import load_profile
from .store import Run


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
    """Train in `processes` new processes of this machine, which Accelerate joins, and raise here what they raise.

    Not through notebook_launcher, which forks: neither CUDA, which a notebook that prints the GPU's name has begun to
    use, nor the threads of OpenMP survive a fork.
    """
    gpus, number = torch.cuda.device_count(), profile.processes
    if 0 < gpus < number:
        raise InputError(f"`processes: {number}` needs as many GPUs, and this machine has {gpus}.")
    group = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    told, threads = multiprocessing.get_context("spawn").SimpleQueue(), max(1, torch.get_num_threads() // number)
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as said:
        job = told, said.name, group, threads, profile, style, title
        processes, ended = torch.multiprocessing.spawn(_share, job, number, join=False), False
        try:
            while not ended:
                ended = processes.join(timeout=1)
                while not told.empty():
                    if isinstance(line := told.get(), InputError):
                        raise line
                    progress(line)
        except ProcessException as defect:
            last = "".join(said.readlines()[-100:])
            raise RuntimeError(f"{title}: its {number} processes ended without a result:\n{last}{defect}") from None
        finally:
            for process in processes.processes:
                process.kill()


def _share(rank: int, told, log: str, group: dict[str, str], threads: int, profile: Profile, *job: str | None) -> None:
    """What each process of _launch does: its part of the job. It puts its progress, or an InputError, into `told`."""
    end_with_parent()
    with open(log, "ab") as file:  # libraries greet and warn, which is of interest after a crash alone
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(group, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(threads)
    try:
        run(profile, Sets(profile, silent), *job, told.put)
    except InputError as problem:
        told.put(problem)
        threading.Event().wait()  # until _launch has heard it: the others would take an end for a defect
    leave_the_others()


def end_with_parent() -> None:
    """End this process when the one that started it is gone: one that is killed, such as a kernel, cannot end it."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def leave_the_others() -> None:
    """End this process's part in the group of processes."""
    gc.collect()  # frees the networks: threads of gloo that still held them aborted the process at its end now and then
    torch.distributed.destroy_process_group()
