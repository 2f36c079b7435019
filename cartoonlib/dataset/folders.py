"""Folders that appear whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..files import disk_errors, lock


def whole_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder; if it is missing, `fill` is given a new one, which takes its name when all is in it.

    Another process that is filling it already is waited for, and what a killed one has left is deleted.
    """
    if folder.is_dir():
        return folder
    with disk_errors(folder.parent), lock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        for left in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            fill(made)
            os.replace(made, folder)
    return folder
