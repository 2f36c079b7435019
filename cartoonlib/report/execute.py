"""Notebooks executed in order by papermill, into results/<profile>/notebooks/.

Every stage inside is idempotent, so a run that was stopped goes on where it was.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .. import features, files, landmarks
from ..files import InputError, lock, write_atomic
from ..profile import load_profile
from .page import join


class _OneLine:
    """A stream for papermill: on a terminal every progress line overwrites the last one."""

    def write(self, text: str) -> None:
        for line in filter(None, text.splitlines()):
            if sys.stderr.isatty():
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write("\r" + f"    {line}"[:width].ljust(width))
            else:
                sys.stderr.write(f"    {line}\n")
        sys.stderr.flush()

    def flush(self) -> None:
        sys.stderr.flush()


@contextlib.contextmanager
def _kernels_write_to(path: Path) -> Iterator[None]:
    """Send what kernels write to the terminal into a file: a kernel that is stopped writes pages about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with open(path, "wb") as log, os.fdopen(os.dup(2), "w") as sys.stderr:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(sys.stderr.fileno(), 2)
            sys.stderr = terminal


def execute(notebook: Path, target: Path, profile: str) -> None:
    """Run one notebook with papermill; `target` appears only when it has run to its end."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    running = target.with_suffix(".running.ipynb")
    running.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook, running, {"profile": profile}, cwd=files.NOTEBOOKS, progress_bar=False, stdout_file=_OneLine(),
            config=Config({"KernelManager": {"transport": "ipc"}}),  # two runs at once cannot take each other's ports
        )  # fmt: skip
    except PapermillExecutionError as error:
        text = error.evalue if error.ename in ("InputError", "TrainingStopped") else f"{error.ename}: {error.evalue}"
        where = f"{notebook.name} stopped in cell {error.exec_count}"
        raise InputError(f"{where}: {text} (The notebook so far: {running})") from None
    except DeadKernelError:
        raise InputError(
            f"The kernel of {notebook.name} died, most likely for want of memory: halve `batch: "
            f"{load_profile(profile).batch}` in the profile. The same command goes on where this one was."
        ) from None
    write_atomic(running, _tidied(running.read_text()))
    os.replace(running, target)


def _tidied(executed: str) -> str:
    """An executed notebook without what is this run's alone: papermill's notes, times of cells, where folders lie."""
    names = {"RESULTS": "results", "RAW": "data/raw", "PROCESSED": "data/processed"}
    names |= {"PACKAGES": "data/packages", "WEIGHTS": "data/weights"}
    moved = {f"{getattr(files, key)}{os.sep}": f"{name}/" for key, name in names.items()} | {f"{files.ROOT}{os.sep}": ""}

    def told(value):  # text that was printed or shown; never the bytes of a picture
        if isinstance(value, list):
            return [told(one) for one in value]
        for folder in sorted(moved, key=len, reverse=True):
            value = value.replace(folder, moved[folder])
        return value

    content = json.loads(executed)
    for holder in (content, *content["cells"]):
        for key in ("papermill", "execution"):
            holder["metadata"].pop(key, None)
        if "injected-parameters" in holder["metadata"].get("tags", ()):
            holder["id"] = "injected"  # papermill draws one at random
    for output in (output for cell in content["cells"] for output in cell.get("outputs", ())):
        for texts, keys in ((output, ("text",)), (output.get("data", {}), ("text/plain", "text/markdown", "text/html"))):
            texts |= {key: told(texts[key]) for key in keys if key in texts}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def reproduce(profile: str) -> None:
    """Execute every notebook in order and join them; messages and progress go to the terminal."""
    settings = load_profile(profile)  # a wrong name or setting, or missing weights, are said before anything starts
    features.PERCEPTUAL[settings.perceptual]()
    landmarks.landmark_network(settings.landmarks)
    folder = files.RESULTS / profile
    with lock(folder / ".lock", f"Another process is making {folder}: wait until it has ended, or stop it."):
        _reproduce(profile, folder / "notebooks")


def _reproduce(profile: str, folder: Path) -> None:
    first, *others = sorted(files.NOTEBOOKS.glob("[0-9]*.ipynb"))
    notebooks = [*others, first]  # 00 draws with the generators that 05 publishes
    started = time.monotonic()
    for number, notebook in enumerate(notebooks, start=1):
        minutes = (time.monotonic() - started) / 60
        print(f"[{number}/{len(notebooks)}] {notebook.stem} (after {minutes:.1f} min)", file=sys.stderr)
        with _kernels_write_to(folder / "kernel.log"):
            execute(notebook, folder / notebook.name, profile)
        if sys.stderr.isatty():
            sys.stderr.write("\n")
    page = join(profile)
    print(f"done in {(time.monotonic() - started) / 60:.1f} min: open {page}", file=sys.stderr)
