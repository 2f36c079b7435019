"""Notebooks executed in order by papermill, into results/<profile>/notebooks/.

Every stage inside is idempotent, so a run that was stopped goes on where it was.
"""

import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import Unicode, default
from traitlets.config import Config

from .. import features, files, landmarks
from ..files import InputError, lock, write_atomic
from ..runs.parallel import show_line
from ..runs.profiles import load_profile
from . import certificate
from .page import join, notebooks_in


class _OneLine(io.TextIOBase):
    """Where papermill writes what a notebook prints: on a terminal every line replaces the last one."""

    def write(self, text: str) -> None:
        for line in filter(None, text.splitlines()):
            show_line(f"    {line}")


class Kernel(AsyncKernelManager):
    """Starts this Python, whatever kernels of the same name its user or the machine has."""

    errors = Unicode("kernel.log", config=True)  # written to instead of the terminal: one that is stopped writes pages

    @default("kernel_spec_manager")
    def _ipykernels_own(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def start_kernel(self, **options) -> None:
        with open(self.errors, "wb") as log:
            await super().start_kernel(stderr=log, **options)


def execute(notebook: Path, target: Path, profile: str) -> None:
    """Run one notebook with papermill; `target` appears only when it has run to its end.

    InputError when a cell fails or the kernel dies; what ran until then stays beside the target, as *.running.ipynb.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running = target.with_suffix(".running.ipynb")
    running.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets in a folder of its own, whose names hold 107 bytes: two runs at once cannot take each other's.
        with tempfile.TemporaryDirectory(dir="/tmp" if len(tempfile.gettempdir()) > 80 else None) as folder:
            kernel = {"transport": "ipc", "ip": f"{folder}/kernel", "errors": str(target.with_name("kernel.log"))}
            papermill.execute_notebook(
                notebook, running, {"profile": profile}, cwd=files.NOTEBOOKS, progress_bar=False,
                stdout_file=_OneLine(), kernel_manager_class=Kernel, config=Config({"Kernel": kernel}),
            )  # fmt: skip
    except PapermillExecutionError as error:
        text = error.evalue if error.ename in ("InputError", "TrainingStopped") else f"{error.ename}: {error.evalue}"
        where = f"{notebook.name} stopped in cell {error.exec_count}"
        raise InputError(f"{where}: {text} (The notebook so far: {running})") from None
    except DeadKernelError:
        died = f"The kernel of {notebook.name} died, most likely for want of memory"
        halve = f"halve `batch: {load_profile(profile).batch}` in the profile"
        raise InputError(f"{died}: {halve}. The same command goes on where this one was.") from None
    write_atomic(running, without_traces(running.read_text(encoding="utf-8")))
    os.replace(running, target)


def without_traces(executed: str) -> str:
    """The text of an executed notebook without what another run would change, so that it can be kept in git.

    papermill's notes and the times of cells go, folders of this machine get the names that they have in a clone. The
    bytes of pictures stay as they are; of one that is there as PNG and as JPEG the JPEG stays.
    """
    content = nbformat.reads(executed, as_version=4)
    for holder in (content, *content.cells):
        for key in ("papermill", "execution"):
            holder.metadata.pop(key, None)
        if "injected-parameters" in holder.metadata.get("tags", ()):
            holder.id = "injected"  # papermill draws one at random
    folders = {"data/raw": files.RAW, "data/processed": files.PROCESSED, "data/packages": files.PACKAGES}
    folders |= {"data/weights": files.WEIGHTS, "results": files.RESULTS, "": files.ROOT}
    longest_first = sorted(folders.items(), key=lambda item: len(str(item[1])), reverse=True)
    outputs = [output for cell in content.cells for output in cell.get("outputs", ())]
    for texts in (*outputs, *(output.get("data", {}) for output in outputs)):
        if "image/jpeg" in texts:
            texts.pop("image/png", None)  # Pillow's pictures are both, and the JPEG takes a seventh
        for key in (key for key in texts if key.startswith("text")):  # of a stream, or a kind of text such as text/html
            for name, folder in longest_first:
                texts[key] = texts[key].replace(f"{folder}{os.sep}", f"{name}/".lstrip("/"))
    return nbformat.writes(content) + "\n"


def reproduce(profile: str) -> None:
    """Execute every notebook in order and join them to a page; messages and progress go to the terminal.

    InputError, before anything starts, for a wrong name or setting and for missing weights; later, see `execute`.
    """
    settings = load_profile(profile)
    features.PERCEPTUAL[settings.perceptual]()  # these two read their weights
    landmarks.landmark_network(settings.landmarks)
    folder, started = files.RESULTS / profile, time.monotonic()
    notebooks = notebooks_in(files.NOTEBOOKS)
    with lock(folder / ".lock", f"Another process is making {folder}: wait until it has ended, or stop it."):
        for number, notebook in enumerate(notebooks, start=1):
            minutes = (time.monotonic() - started) / 60
            print(f"[{number}/{len(notebooks)}] {notebook.stem} (after {minutes:.1f} min)", file=sys.stderr)
            execute(notebook, folder / "notebooks" / notebook.name, profile)
            if sys.stderr.isatty():
                sys.stderr.write("\n")
        compared, page = certificate.write(profile), join(profile)
        print(f"done in {(time.monotonic() - started) / 60:.1f} min: open {page}", file=sys.stderr)
        print(compared)
