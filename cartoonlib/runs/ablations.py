"""The rows of the ablation table, profiles/ablations.yaml, and training them on Dask workers.

`python -m cartoonlib.runs ablations PROFILE` starts workers on this machine, or uses those of a scheduler.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from .. import files
from ..dataset.sets import Sets
from ..files import InputError
from ..profile import Profile, load_profile, profile_of, read_yaml
from .guards import TrainingStopped
from .parallel import is_whole, run, run_folder, show_line, silent
from .store import runs_folder


def train_rows(name: str, workers: int, scheduler: str | None = None) -> None:
    """Train the rows of a profile's ablation table, in its first style, on Dask workers, each row in one process.

    Rows that agree in the pretraining share a pretrained generator, so each of these is a job that comes first. A row
    that collapses is a result like any other; InputError is raised at the end when one fails for another reason.

    Args:
        workers: how many to start on this machine.
        scheduler: HOST:PORT of a Dask scheduler whose workers are used instead; they must see the same results/.
    """
    if workers < 1:
        raise InputError("Give 1 worker or more.")
    profile = load_profile(name)
    sets = Sets(profile, show_line)
    style = next(iter(sets.cartoons))
    rows = {title: row for group in ablation_rows(profile).values() for title, row in group.items()}
    folders = {title: run_folder(row, sets, style) for title, row in rows.items()}  # sets are prepared here, once
    before = {title: run_folder(row, sets, None) for title, row in rows.items()}
    missing = {title: row for title, row in rows.items() if not is_whole(folders[title])}
    show_line(f"{len(rows)} rows in style {style}, {len(rows) - len(missing)} of them trained before", keep=True)
    ended = {}
    if missing:
        with _client(workers, scheduler) as client:
            ended = _spread(client, missing, before, folders, style)
    for title, end in ended.items():
        if "run" in end and not is_whole(folders[title]):
            ended[title] = {"failed": f"trained, but not into {runs_folder(profile)}: the workers must share this results/"}
    stopped, failed = ([title for title, end in ended.items() if what in end] for what in ("stopped", "failed"))
    trained = len(rows) - len(stopped) - len(failed)
    print(f"{len(rows)} rows: {trained} trained, {len(stopped)} stopped, {len(failed)} failed")
    for title in stopped + failed:
        print(f"{title}: {_text(ended[title])}")
    if failed:
        raise InputError(f"These rows failed: {', '.join(failed)}. The same command tries them again.")


def _spread(client, rows: dict[str, Profile], before: dict, folders: dict[str, Path], style: str) -> dict[str, dict]:
    """Have the workers train the rows; title -> what became of it, see _work."""
    from distributed import Event, as_completed

    if not client.nthreads():
        show_line("no worker has joined the scheduler yet: start some with `dask worker`", keep=True)
    if sys.stderr.isatty():
        client.subscribe_topic(f"progress of {client.id}", lambda event: show_line(event[1]))
    futures = {}
    for title, row in rows.items():
        job = row.model_dump()
        pretrained = _submit(client, before[title], job, None, title)
        futures[_submit(client, folders[title], job, style, title, pretrained)] = title
    ended = {}
    try:
        for future in as_completed(futures):
            title, error = futures[future], future.exception()
            ended[title] = {"failed": str(error)} if error else future.result()
            show_line(f"{len(ended)}/{len(futures)} {title}: {_text(ended[title]).splitlines()[-1]}", keep=True)
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
        profile = profile_of(settings)
        return {"run": run(profile, Sets(profile, silent), style, title, progress).folder.name}
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


def ablation_rows(profile: Profile) -> dict[str, dict[str, Profile]]:
    """Group -> title -> profile of every row of the ablation table, from profiles/ablations.yaml.

    A row is a set of changes; a change written as `x4` multiplies the profile's own weight of a loss, or rate, by 4.
    What a style sets for itself is left out, for every row is to differ from the full method by its changes alone; one
    that diverges stops, which is a result too.
    """

    own = profile.weights.model_dump() | {"discriminator_rate": profile.discriminator_rate}
    groups: dict[str, dict[str, Profile]] = {}
    for group, rows in read_yaml(files.PROFILES / "ablations.yaml").items():
        groups[group] = {}
        for title, changes in rows.items():
            changed = _scaled(changes or {}, own)
            if isinstance(changed.get("weights"), dict):
                changed["weights"] = _scaled(changed["weights"], own)
            same = {"train_steps": profile.ablation_steps, "style_settings": {}, "on_divergence": "stop"}
            groups[group][title] = profile.replace(**same | changed)
    return groups


def _scaled(changes: dict, own: dict[str, float]) -> dict:
    """Changes in which `x4` of something that the profile has of its own has become four times that."""
    factors = {key: re.fullmatch(r"x(\d+\.?\d*)", str(written)) for key, written in changes.items()}
    scaled = {key: own[key] * float(factor[1]) for key, factor in factors.items() if factor and key in own}
    return changes | scaled
