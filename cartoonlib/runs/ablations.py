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
from ..profile import Profile, profile_of
from .guards import TrainingStopped
from .parallel import is_finished, run, run_folder, show_line, silent
from .profiles import load_profile, read_yaml
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
    pretrainings = {title: run_folder(row, sets, None) for title, row in rows.items()}
    missing = {title: row for title, row in rows.items() if not is_finished(folders[title])}
    show_line(f"{len(rows)} rows in style {style}, {len(rows) - len(missing)} of them trained before", keep=True)
    results = {}
    if missing:
        with _client(workers, scheduler) as client:
            gpus = [] if scheduler else _gpus()
            results = _train_on_workers(client, missing, pretrainings, folders, style, gpus)
    elsewhere = f"trained, but not into {runs_folder(profile)}: the workers must share this results/"
    for title, result in results.items():
        if "run" in result and not is_finished(folders[title]):
            results[title] = {"failed": elsewhere}
    stopped = [title for title, result in results.items() if "stopped" in result]
    failed = [title for title, result in results.items() if "failed" in result]
    trained = len(rows) - len(stopped) - len(failed)
    print(f"{len(rows)} rows: {trained} trained, {len(stopped)} stopped, {len(failed)} failed")
    for title in stopped + failed:
        print(f"{title}: {_in_words(results[title])}")
    if failed:
        raise InputError(f"These rows failed: {', '.join(failed)}. The same command tries them again.")


def _gpus() -> list[str]:
    """Names of the GPUs of this machine, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",") if count else []


def _train_on_workers(
    client, rows: dict[str, Profile], pretrainings: dict[str, Path], folders: dict[str, Path], style: str, gpus: list
) -> dict[str, dict]:
    """Title -> the result of each row, see _work; `pretrainings` and `folders` are those of its two runs."""
    from distributed import Event, as_completed

    if not client.nthreads():
        show_line("no worker has joined the scheduler yet: start some with `dask worker`", keep=True)
    if sys.stderr.isatty():
        client.subscribe_topic(f"progress of {client.id}", lambda event: show_line(event[1]))
    futures = {}
    for title, row in rows.items():
        # A job has the name of its folder, so that rows with the same pretraining share one job for it.
        job = {"settings": row.model_dump(), "title": title, "client": client.id, "gpus": gpus}
        pretrained = client.submit(_work, job, None, None, key=pretrainings[title].name)
        futures[client.submit(_work, job, style, pretrained, key=folders[title].name)] = title
    results = {}
    try:
        for future in as_completed(futures):
            title, error = futures[future], future.exception()
            results[title] = {"failed": str(error)} if error else future.result()
            last_line = _in_words(results[title]).splitlines()[-1]
            show_line(f"{len(results)}/{len(futures)} {title}: {last_line}", keep=True)
    except KeyboardInterrupt:
        Event(client.id, client).set()  # rows that have begun end too; they go on from their last checkpoints
        raise
    return results


def _work(job: dict, style: str | None, pretrained: dict | None) -> dict:
    """What a worker does: train one row, or its pretraining (style: None), unless the pretraining came to nothing.

    Args:
        job: the row's settings as plain values, its title, the id of the client that asks for it, and the GPUs that
            workers share: each takes one, by its number; with none it sees what it was started with.
        pretrained: the result of the pretraining, if this is not it.
    Returns:
        {"run": its folder's name}, {"stopped": why it collapsed} or {"failed": why}.
    """
    from distributed import Event, get_worker

    if pretrained is not None and "run" not in pretrained:
        return pretrained
    worker, cancelled = get_worker(), Event(job["client"])
    if gpus := job["gpus"]:  # before CUDA is first used in this process
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]

    def progress(line: str) -> None:
        if cancelled.is_set():
            raise InputError("stopped with the command that started it")
        worker.log_event(f"progress of {job['client']}", line)

    try:
        profile = profile_of(job["settings"])
        if not hasattr(worker, "cartoonlib_sets"):  # opened once in each worker, for all its rows
            worker.cartoonlib_sets = Sets(profile, silent)
        return {"run": run(profile, worker.cartoonlib_sets, style, job["title"], progress).folder.name}
    except TrainingStopped as reason:
        return {"stopped": str(reason)}
    except InputError as problem:
        return {"failed": str(problem)}
    except Exception:  # a defect in one row is not the end of the others
        return {"failed": traceback.format_exc()}


def _in_words(result: dict) -> str:
    return f"trained, {result['run']}" if "run" in result else next(iter(result.values()))


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator:
    """A Dask client of a scheduler elsewhere, or of one here with that many workers, on the loopback device alone."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10)
        except (OSError, ValueError):
            raise InputError(f"No Dask scheduler answers at {scheduler}: start one with `dask scheduler`.") from None
        with client:
            yield client
        return
    threads = max(1, torch.get_num_threads() // workers)
    settings = {
        # In place of Dask's own, which also hand freed memory back at once: see device.keep_freed_memory.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        "distributed.worker.profile.enabled": False,  # it looks at the running job a hundred times a second
    }
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "threads_per_worker": 1, "memory_limit": 0}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(settings | {"temporary-directory": folder}):
        # Workers inherit that Ctrl-C is ignored: on a terminal it reaches them too, and ending them is left to Dask.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            cluster = LocalCluster(n_workers=workers, silence_logs=logging.CRITICAL, **options)
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
