"""The rows of the ablation table, profiles/ablations.yaml, and training them and the styles on Dask workers."""

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator

import torch

from .. import files
from ..dataset.sets import Sets
from ..files import InputError
from ..profile import Profile, profile_of
from .guards import TrainingStopped
from .parallel import run, run_folder, show_line, silent
from .profiles import load_profile, read_yaml
from .store import is_finished


def train_rows(name: str, workers: int, scheduler: str | None = None) -> None:
    """Train a profile's styles and the rows of its ablation table, in its first style, each in one process of Dask's.

    Those are so many workers on this machine, or those of the scheduler at HOST:PORT, which must see the same results/.
    A row that collapses is a result like any other; InputError is raised at the end when one fails for another reason.
    """
    if workers < 1:
        raise InputError("Give 1 worker or more.")
    profile = load_profile(name)
    sets = Sets(profile, show_line)
    jobs = {f"style {style}": (profile.of(style), style, "full method") for style in sets.cartoons}
    for rows in ablation_rows(profile).values():
        jobs |= {title: (row, next(iter(sets.cartoons)), title) for title, row in rows.items()}
    folders = {title: run_folder(row, sets, style) for title, (row, style, _) in jobs.items()}
    missing = {folder: title for title, folder in folders.items() if not is_finished(folder)}  # some share a folder
    show_line(f"{len(jobs)} styles and rows, {len(missing)} runs of them to be trained", keep=True)
    errors = {}
    if missing:
        some = {title: jobs[title] for title in missing.values()}
        with _client(workers, scheduler) as client:
            errors = _train_on_workers(client, some, sets, [] if scheduler else _gpus())
    stopped = [title for title, error in errors.items() if isinstance(error, TrainingStopped)]
    failed = [title for title in errors if title not in stopped]
    trained = len(missing) - len(errors)
    print(f"{len(jobs)} styles and rows: {trained} trained, {len(stopped)} stopped, {len(failed)} failed")
    for title in stopped + failed:
        defect = not isinstance(errors[title], InputError)
        print(f"{title}: {''.join(traceback.format_exception(errors[title])) if defect else errors[title]}")
    if failed:
        raise InputError(f"These runs failed: {', '.join(failed)}. The same command tries them again.")


def _gpus() -> list[str]:
    """Names of the GPUs of this machine, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",") if count else []


def _train_on_workers(client, jobs: dict[str, tuple], sets: Sets, gpus: list[str]) -> dict[str, Exception]:
    """Title -> why a job ended without a run; each is (profile, its style, its variant)."""
    from distributed import Event, as_completed

    if not client.nthreads():
        show_line("no worker has joined the scheduler yet: start some with `dask worker`", keep=True)
    if sys.stderr.isatty():
        client.subscribe_topic(f"progress of {client.id}", lambda event: show_line(event[1]))
    futures, errors = {}, {}

    def submit(row: Profile, style: str | None, variant: str, after):
        # A job has the name of its folder: Dask makes one of those that agree in it, for which all that need it wait.
        name = run_folder(row, sets, style).name
        return client.submit(_work, row.model_dump(), variant, client.id, gpus, style, after, key=name)

    for title, (row, style, variant) in jobs.items():
        pretrained = submit(row.replace(start_steps=0), None, variant, None)
        started = submit(row, None, variant, pretrained) if row.start_steps else pretrained
        futures[submit(row, style, variant, started)] = title, run_folder(row, sets, style)
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            title, folder = futures[future]
            if error := future.exception():  # its own, or that of its start
                errors[title] = error.with_traceback(future.traceback())
            elif not is_finished(folder):
                elsewhere = f"trained, but not into {folder.parent}: the workers must share this results/"
                errors[title] = InputError(elsewhere)
            said = str(errors.get(title, f"trained, {folder.name}")).partition("\n")[0]  # of a defect there may be more
            show_line(f"{number}/{len(futures)} {title}: {said}", keep=True)
    except KeyboardInterrupt:
        Event(client.id, client).set()  # rows that have begun end too; they go on from their last checkpoints
        raise
    return errors


def _work(settings: dict, title: str, client: str, gpus: list[str], style: str | None, _after: None = None) -> None:
    """What a worker does: train one row by its settings, or its start (style: None), which Dask ends first.

    client: the id of the client that asks for it.  gpus: those that workers share: each takes one, by its number; with
    none it sees what it was started with.
    """
    from distributed import Event, get_worker

    worker, cancelled = get_worker(), Event(client)
    if gpus:  # before CUDA is first used in this process
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]

    def progress(line: str) -> None:
        if cancelled.is_set():
            raise InputError("stopped with the command that started it")
        worker.log_event(f"progress of {client}", line)

    profile = profile_of(settings)
    if getattr(worker, "cartoonlib_sets", (None,))[0] != client:  # opened once, for all rows of a command
        worker.cartoonlib_sets = client, Sets(profile, silent)
    run(profile, worker.cartoonlib_sets[1], style, title, progress)


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator:
    """A Dask client of a scheduler elsewhere, or of one here with that many workers, on the loopback device alone."""
    import dask
    from distributed import Client

    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "threads_per_worker": 1, "memory_limit": 0}
    here |= {"n_workers": workers, "silence_logs": logging.CRITICAL}
    threads = max(1, torch.get_num_threads() // workers)
    with tempfile.TemporaryDirectory() as folder, dask.config.set({
        "temporary-directory": folder,
        # In place of Dask's own, which also hand freed memory back at once: see device.keep_freed_memory.
        "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        "distributed.worker.profile.enabled": False,  # it looks at the running job a hundred times a second
    }):  # fmt: skip
        # Workers inherit that Ctrl-C is ignored: on a terminal it reaches them too, and ending them is left to Dask.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            client = Client(**here) if scheduler is None else Client(scheduler, timeout=10)
        except (OSError, ValueError):
            if scheduler is None:
                raise
            raise InputError(f"No Dask scheduler answers at {scheduler}: start one with `dask scheduler`.") from None
        finally:
            signal.signal(signal.SIGINT, handler)
        with client:
            yield client


def ablation_rows(profile: Profile) -> dict[str, dict[str, Profile]]:
    """Group -> title -> profile of every row of the ablation table, from profiles/ablations.yaml.

    A row is a set of changes; a change written as `x4` multiplies the profile's own weight of a loss, or rate, by 4.
    What a style sets for itself is left out, for every row is to differ from the full method by its changes alone; one
    that diverges stops, which is a result too.
    """
    own = profile.model_dump(include={"weights", "discriminator_rate"})
    same = {"train_steps": profile.ablation_steps, "style_settings": {}, "on_divergence": "stop"}
    return {
        group: {title: profile.replace(**same | _scaled(changes or {}, own)) for title, changes in rows.items()}
        for group, rows in read_yaml(files.PROFILES / "ablations.yaml").items()
    }


def _scaled(change: object, own: object) -> object:
    """A change, in which `x4` of a number that the profile has of its own has become four times that."""
    if isinstance(change, dict) and isinstance(own, dict):
        return {key: _scaled(value, own.get(key)) for key, value in change.items()}
    factor = re.fullmatch(r"x(\d+\.?\d*)", str(change))
    return own * float(factor[1]) if factor and isinstance(own, float) else change
