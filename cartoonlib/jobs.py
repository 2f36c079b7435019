"""One run is one job: for this process, for several that share every batch, or for workers that share a table's rows.

`python -m cartoonlib.jobs train PROFILE [STYLE ...]` trains the styles of a profile; under `accelerate launch` its
processes share every batch. `python -m cartoonlib.jobs ablations PROFILE` trains the rows of the ablation table on Dask
workers, those that it starts on this machine or those of a scheduler.

A job is a profile as plain values, a style and a title; its result is a folder in results/<profile>/runs. Runs are
idempotent (see training.py), so a job may be stopped, and started again wherever the same results/ is seen.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from . import profiles, report, steps, training
from .guards import TrainingStopped
from .paths import InputError
from .profiles import Profile
from .training import Run


def run(settings: dict, style: str | None, title: str = "full method", progress: Callable = print) -> str:
    """Train in this process, or in this one of several that Accelerate started; return the name of the run's folder.

    Args:
        settings: a whole profile as plain values (dataclasses.asdict). Its `processes` are for those who start jobs.
        style: which of its styles; None is its pretraining.
    """
    if not _first():
        progress = _silent
    opened = report.Report(profiles.from_dict(settings), progress=_silent)
    if style is None:
        return training.pretrain(opened.profile, opened.runs, opened.faces(), progress).folder.name
    sets = opened.faces(), opened.cartoons()[style]
    return training.train(opened.profile, opened.runs, *sets, style, title, progress, opened.shown()).folder.name


def train(profile: Profile, style: str, title: str = "full method", progress: Callable = print) -> Run:
    """The run of a profile in one style, trained if it is missing, by as many processes as the profile says.

    Raises TrainingStopped and InputError with the same sentences however many they are.
    """
    return _start(profile, style, title, progress)


def pretrain(profile: Profile, progress: Callable = print) -> Run:
    """The run of a profile's pretraining, like train."""
    return _start(profile, None, "pretraining", progress)


def _start(profile: Profile, style: str | None, title: str, progress: Callable) -> Run:
    if profile.processes > 1 and not _whole(_folder(profile, style)):
        _launch(profile, style, title, progress)
    name = run(dataclasses.asdict(profile), style, title, progress)  # after a launch it only finds the run
    return Run.open(report.Report(profile).runs / name)


def _folder(profile: Profile, style: str | None) -> Path:
    """The folder of a run, from the profile and its data, which are prepared if they are missing."""
    opened = report.Report(profile, progress=_silent)
    if style is None:
        return training.pretrain_folder(profile, opened.runs, opened.faces())
    return training.train_folder(profile, opened.runs, opened.faces(), opened.cartoons()[style], style)


def _whole(folder: Path) -> bool:
    return (folder / "summary.json").exists()


def _first() -> bool:
    """Whether this is the only process, or the first of those that Accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def _silent(_line: str) -> None:
    pass


def _show(line: str, keep: bool = False) -> None:
    """Print a line on stderr; on a terminal the next one overwrites it, unless it is to be kept."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line[:width].ljust(width), end="\n" if keep else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)


# --- several processes that share every batch -------------------------------------------------------------------------


def _launch(profile: Profile, style: str | None, title: str, progress: Callable) -> None:
    """Train in `processes` processes through `accelerate launch`, and raise here what they raise.

    Not through notebook_launcher, which forks: neither CUDA, which a notebook that prints the GPU's name has begun to
    use, nor the threads of OpenMP survive a fork. `--multi_gpu` is Accelerate's name for "several processes on this
    machine": without GPUs they are joined by gloo, while its `--cpu` leaves starting them to MPI.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < profile.processes:
        raise InputError(f"`processes: {profile.processes}` needs as many GPUs, and this machine has {gpus}.")
    threads = max(1, torch.get_num_threads() // profile.processes)
    job = {"settings": dataclasses.asdict(profile), "style": style, "title": title}
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1",
        "--num_processes", str(profile.processes), "--num_cpu_threads_per_process", str(threads),
        "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
    ]  # fmt: skip
    task = ["-m", "cartoonlib.jobs", "run", json.dumps(job)]
    problem, pipe = None, subprocess.PIPE
    with (
        tempfile.TemporaryDirectory() as logs,  # empty ones, which would stay behind elsewhere
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [*command, "--log_dir", logs, *task], stdin=pipe, stdout=pipe, stderr=errors, text=True
        ) as process,
    ):
        with process.stdin:  # closing it ends the processes, see _end_with_parent
            for line in process.stdout:
                kind, text = _read(line)
                if kind == "progress":
                    progress(text)
                elif kind in ("InputError", "TrainingStopped"):
                    problem = TrainingStopped(text) if kind == "TrainingStopped" else InputError(text)
        if process.wait() and problem is None:
            errors.seek(0)
            last = "".join(errors.readlines()[-100:])
            problem = RuntimeError(f"{title}: its {profile.processes} processes ended without a result:\n{last}")
    if problem is not None:
        raise problem


def _read(line: str) -> tuple[str, str]:
    """(what, text) of a line that _run_launched wrote; ("", "") of what else is printed there."""
    try:
        ((what, text),) = json.loads(line).items()
    except (ValueError, AttributeError):
        return "", ""
    return what, text


def _run_launched(job: str) -> None:
    """What each process of _launch does: the job, saying how it goes in lines of JSON with one key."""

    def say(what: str, text: str) -> None:
        sys.stdout.write(json.dumps({what: text}) + "\n")  # in one piece, which print does not do: lines would mix
        sys.stdout.flush()

    _end_with_parent()
    try:
        run(**json.loads(job), progress=lambda line: say("progress", line))
    except InputError as problem:
        say(type(problem).__name__, str(problem))
        sys.exit(1)
    torch.distributed.destroy_process_group()


def _end_with_parent() -> None:
    """End this process when its standard input closes: whoever started it has ended, be it by a kill.

    Otherwise a kernel that is killed would leave its processes training, beside those that the next one starts.
    """

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_styles(name: str, styles: list[str]) -> None:
    """Train some styles of a profile, all of them when none is named; under `accelerate launch` in its processes."""
    shared = int(os.environ.get("WORLD_SIZE", "1")) > 1
    show = _show if _first() else _silent
    opened = report.Report(name, progress=show)
    with steps.make_accelerator(opened.profile).main_process_first() if shared else contextlib.nullcontext():
        opened.faces()  # prepared by the first process while the others wait
        known = list(opened.cartoons())
    for style in styles:
        if style not in known:
            raise InputError(f"Profile {name} has no style `{style}`: choose of {', '.join(known)}.")
    for style in styles or known:
        if shared:
            folder = run(dataclasses.asdict(opened.profile), style, progress=show)
        else:
            folder = train(opened.profile, style, progress=show).folder.name
        if _first():
            print(f"{style}: {opened.runs / folder}")
    if shared:
        torch.distributed.destroy_process_group()


# --- rows of the ablation table on workers ----------------------------------------------------------------------------


def ablations(name: str, workers: int, scheduler: str | None = None) -> None:
    """Train the rows of a profile's ablation table, in its first style, on Dask workers, each row in one process.

    Rows that agree in the pretraining share a pretrained generator, so each of these is a job that comes first. A row
    that collapses is a result like any other; InputError is raised at the end when one fails for another reason.

    Args:
        workers: how many to start on this machine.
        scheduler: HOST:PORT of a Dask scheduler whose workers are used instead; they must see the same results/.
    """
    if workers < 1:
        raise InputError("Give 1 worker or more.")
    opened = report.Report(name, progress=_show)
    opened.faces()  # prepared here and once: workers only open them
    style = next(iter(opened.cartoons()))
    rows = {title: row for group in profiles.ablations(opened.profile).values() for title, row in group.items()}
    folders = {title: _folder(row, style) for title, row in rows.items()}
    missing = {title: row for title, row in rows.items() if not _whole(folders[title])}
    _show(f"{len(rows)} rows in style {style}, {len(rows) - len(missing)} of them trained before", keep=True)
    ended = {}
    if missing:
        with _client(workers, scheduler) as client:
            ended = _spread(client, missing, folders, style)
    for title, end in ended.items():
        if "run" in end and not _whole(folders[title]):
            ended[title] = {"failed": f"trained, but not into {opened.runs}: the workers must share this results/"}
    stopped, failed = ([title for title, end in ended.items() if what in end] for what in ("stopped", "failed"))
    trained = len(rows) - len(stopped) - len(failed)
    print(f"{len(rows)} rows: {trained} trained, {len(stopped)} stopped, {len(failed)} failed")
    for title in stopped + failed:
        print(f"{title}: {_text(ended[title])}")
    if failed:
        raise InputError(f"These rows failed: {', '.join(failed)}. The same command tries them again.")


def _spread(client, rows: dict[str, Profile], folders: dict[str, Path], style: str) -> dict[str, dict]:
    """Have the workers train the rows; title -> what became of it, see _work."""
    from distributed import Event, as_completed

    if not client.nthreads():
        _show("no worker has joined the scheduler yet: start some with `dask worker`", keep=True)
    if sys.stderr.isatty():
        client.subscribe_topic(f"progress of {client.id}", lambda event: _show(event[1]))
    futures = {}
    for title, row in rows.items():
        job = dataclasses.asdict(row)
        before = _submit(client, _folder(row, None), job, None, title)
        futures[_submit(client, folders[title], job, style, title, before)] = title
    ended = {}
    try:
        for future in as_completed(futures):
            title, error = futures[future], future.exception()
            ended[title] = {"failed": str(error)} if error else future.result()
            _show(f"{len(ended)}/{len(futures)} {title}: {_text(ended[title]).splitlines()[-1]}", keep=True)
    except KeyboardInterrupt:
        Event(client.id, client).set()  # rows that have begun end too; they go on from their last checkpoints
        raise
    return ended


def _submit(client, folder: Path, settings: dict, style: str | None, title: str, before=None):
    """The future of a job under the name of its folder, so that jobs with one folder are one job."""
    return client.submit(_work, settings, style, title, client.id, before, key=folder.name)


def _work(settings: dict, style: str | None, title: str, client: str, before: dict | None) -> dict:
    """What a worker does: one job, unless its pretraining, `before`, came to nothing.

    Returns what became of it: {"run": its folder's name}, {"stopped": why it collapsed} or {"failed": why}.
    """
    from distributed import Event, get_worker

    if before is not None and "run" not in before:
        return before
    worker, cancelled = get_worker(), Event(client)

    def progress(line: str) -> None:
        if cancelled.is_set():
            raise InputError("stopped with the command that started it")
        worker.log_event(f"progress of {client}", line)

    try:
        return {"run": run(settings, style, title, progress)}
    except TrainingStopped as reason:
        return {"stopped": str(reason)}
    except InputError as problem:
        return {"failed": str(problem)}
    except Exception:  # a defect in one row is not the end of the others
        return {"failed": traceback.format_exc()}


def _text(end: dict) -> str:
    ((what, text),) = end.items()
    return f"trained, {text}" if what == "run" else text


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator:
    """A Dask client of a scheduler elsewhere, or of one here with that many workers, on the loopback device alone."""
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError):
            raise InputError(f"No Dask scheduler answers at {scheduler}: start one with `dask scheduler`.") from None
        with client:
            yield client
        return
    threads = max(1, torch.get_num_threads() // workers)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    settings = {
        # In place of Dask's own, which also hand freed memory back at once: see steps._keep_freed_memory.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        "distributed.worker.profile.enabled": False,  # it looks at the running job a hundred times a second
    }
    options = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(settings | {"temporary-directory": folder}):
        nannies = {
            number: {"cls": Nanny, "options": options | {"env": {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}}}
            for number in range(workers)
        }
        web = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        server = {"cls": Scheduler, "options": {"host": "127.0.0.1"} | web}
        # Workers inherit that Ctrl-C is ignored: on a terminal it reaches them too, and ending them is left to Dask.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            cluster = SpecCluster(nannies, server, silence_logs=logging.CRITICAL)
        finally:
            signal.signal(signal.SIGINT, handler)
        with cluster, Client(cluster) as client:
            yield client


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cartoonlib.jobs", description="Train runs as jobs.")
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("train", help="train the styles of a profile; under accelerate launch, in its processes")
    task.add_argument("profile")
    task.add_argument("styles", nargs="*", help="all when none is named")
    task = tasks.add_parser("ablations", help="train the rows of the ablation table on Dask workers")
    task.add_argument("profile")
    where = task.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=2, help="how many to start on this machine (default: 2)")
    where.add_argument("--scheduler", metavar="HOST:PORT", help="of a Dask scheduler whose workers to use")
    task = tasks.add_parser("run", help="one job, given as JSON; for cartoonlib itself")
    task.add_argument("job")
    given = parser.parse_args()
    with report.one_sentence():
        if given.task == "train":
            train_styles(given.profile, given.styles)
        elif given.task == "ablations":
            ablations(given.profile, given.workers, given.scheduler)
        else:
            _run_launched(given.job)


if __name__ == "__main__":
    from cartoonlib import jobs  # by its own name: workers find functions by module, and this `__main__` is not theirs

    jobs.main()
