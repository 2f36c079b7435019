"""`python -m cartoonlib.runs.style DRAWINGS`: a generator in the style of your own drawings or film, in minutes.

The shipped generator whose style's cartoons are nearest goes on learning, from yours. What comes of it lies in
results/styles, where `cartoonize --style NAME` finds it: NAME.safetensors, its card NAME.md, and the sheet NAME.png of
drawings, photos and their cartoons, which is renewed every minute while training runs.
"""

import argparse
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import files
from ..dataset.catalogue import find
from ..dataset.prepare import ImageSet, prepare
from ..dataset.sets import Sets
from ..features import EfficientNetLite0
from ..files import InputError, one_sentence, write_atomic
from ..images import center_crop, to_tensor, to_uint8
from ..networks import Generator, load_generator, save_generator
from ..profile import Profile
from . import store, training
from .parallel import show_line, silent
from .profiles import load_profile

GENERATORS = files.ROOT / "results" / "reference" / "generators"
MEANS = GENERATORS.parent / "means.json"  # style, or PHOTOS -> the mean vector of its pictures, see write_means
PHOTOS, SEEN = "photos", 300  # pictures of a set that make its mean, at most
FEWEST = {"cartoons": 30, "faces": 8}
TIMED, SHOWN = 6, 8  # steps that are timed before the number of all is set; pictures in a row of the sheet
SETTINGS = {  # for minutes of two cores, and with networks that packages bring
    "name": "styles", "perceptual": "efficientnet_lite0", "batch": 8, "on_divergence": "back_off",
    "weights": {"anchor": 4.0, "surface": 2.0, "texture": 6.0},  # lets go of the nearest style's look
}  # fmt: skip


def learn(drawings: str, photos: str = "embedded_faces", minutes: float = 20.0) -> Path:
    """The file of a style's generator, which is trained if it is missing, for so many minutes on this machine.

    drawings, photos: a folder, a film, or a set of data/sources.yaml. A run that was interrupted goes on to the same
    number of steps. InputError says in one sentence what is wrong with what was given.
    """
    began = time.monotonic()
    if not 1 <= minutes <= 10_000:
        raise InputError(f"{minutes:g} minutes: give a number from 1 on; 20 show a style.")
    name, size = find(drawings, "cartoons").name, load_profile("reference").size
    path = files.RESULTS / "styles" / f"{name}.safetensors"
    if (GENERATORS / path.name).exists():
        raise InputError(f"A style `{name}` comes with the project: give your folder or film another name.")
    cartoons = _enough(prepare(drawings, size, limit=1000, test_fraction=0.0, kind="cartoons"))
    faces = _enough(prepare(photos, size, limit=1000, test_fraction=0.2, kind="faces"))
    asked, plan_file = {"data": [cartoons.hash, faces.hash], "minutes": minutes}, path.with_suffix(".json")
    if plan_file.exists():
        plan = json.loads(plan_file.read_text(encoding="utf-8"))
        if plan["asked"] != asked:
            made = f"There is a style `{name}` of other drawings, photos or minutes"
            raise InputError(f"{made}: rename your folder or film, or delete {path.with_suffix('')}.*.")
        style = Style(cartoons, faces, **plan["style"])
    else:
        style = Style(cartoons, faces, _nearest(cartoons), steps=TIMED, every=2)
        seconds = style.seconds_of_a_step()
        steps = max(TIMED, int((60 * minutes - (time.monotonic() - began)) / seconds))
        show_line(f"{seconds:.2f} s a step: {steps} steps in {minutes:g} minutes", keep=True)
        chosen = {"nearest": style.nearest, "steps": steps, "every": max(1, round(60 / seconds))}
        write_atomic(plan_file, json.dumps({"asked": asked, "style": chosen}, indent=1))
        style = replace(style, **chosen)
    if not path.with_suffix(".md").exists():
        style.make(path)
    return path


def _enough(images: ImageSet) -> ImageSet:
    if (found := len(images.images)) < FEWEST[images.kind]:
        needed = f"{FEWEST[images.kind]} are needed: give more, or larger ones"
        raise InputError(f"{images.title}: {found} {images.kind} can be used, and {needed}.")
    return images


@torch.no_grad()
def _vectors(images: np.ndarray) -> np.ndarray:
    """What pictures show, and how: uint8 (N, S, S, 3) -> (n, 112), of SEEN at most."""
    some = images[np.linspace(0, len(images) - 1, min(SEEN, len(images))).astype(int)]
    network = EfficientNetLite0()
    return torch.cat([network.embed(part) for part in to_tensor(some).split(32)]).numpy()


def _nearest(cartoons: ImageSet) -> str:
    """The shipped style whose cartoons are nearest by their mean; InputError for photos in place of drawings."""
    vectors, means = _vectors(cartoons.images), json.loads(MEANS.read_text(encoding="utf-8"))
    apart = {key: np.linalg.norm(vectors - mean, axis=1) for key, mean in means.items()}
    photos = np.mean(apart.pop(PHOTOS) < np.min(list(apart.values()), axis=0))
    if photos > 0.5:
        likeness = f"{photos:.0%} of its pictures are more like photos than like drawings"
        raise InputError(f"{cartoons.title}: {likeness}: give drawings, or a drawn film.")
    distances = {style: float(np.linalg.norm(vectors.mean(axis=0) - means[style])) for style in apart}
    order = sorted(distances, key=distances.get)
    told = ", ".join(f"{style} {distances[style]:.1f}" for style in order)
    show_line(f"distance of your drawings from those of the shipped styles: {told}; {order[0]} is the start", keep=True)
    return order[0]


@dataclass(frozen=True)
class Style:
    """A style to be made, out of the shipped generator of the style `nearest`; a checkpoint and a sheet `every` steps."""

    cartoons: ImageSet
    faces: ImageSet
    nearest: str
    steps: int
    every: int

    @property
    def profile(self) -> Profile:
        """The settings of the nearest style, but for SETTINGS."""
        often = {"log_every": min(20, self.every), "checkpoint_every": self.every}
        return load_profile("reference").of(self.nearest).replace(**SETTINGS, **often, train_steps=self.steps)

    @property
    def source(self) -> Path:
        """The generator that it goes on from."""
        return GENERATORS / f"{self.nearest}.safetensors"

    @property
    def photos(self) -> np.ndarray:
        """Those held out."""
        return center_crop(self.faces.part("test"), self.profile.size)

    def train(self, runs: Path, progress: Callable = silent) -> store.Run:
        """The run that goes on from the shipped generator, which is put where its structure start would lie."""
        profile, content = self.profile, self.source.read_bytes()
        start, about = store.start_folder(profile, runs, self.faces), {"title": self.nearest, "steps": 0}
        about |= {"code": store.code_hash(), "sha256": hashlib.sha256(content).hexdigest()}
        write_atomic(start / "generator.safetensors", content)
        write_atomic(start / "summary.json", json.dumps(about))
        titles = self.cartoons.name, "your style"
        return training.train(profile, runs, self.faces, self.cartoons, *titles, progress, self.photos)

    def seconds_of_a_step(self) -> float:
        """As few steps take, after the first ones."""
        with tempfile.TemporaryDirectory() as runs:
            first, *_, last = self.train(Path(runs)).log()
        return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])

    def make(self, path: Path) -> None:
        """Train, and write sheet, generator and, as the last, its card."""
        runs, seen = path.parent / "runs", []
        folder = store.train_folder(self.profile, runs, self.faces, self.cartoons, self.cartoons.name)

        def preview(line: str) -> None:
            show_line(line)
            if (newest := sorted(folder.glob("checkpoint-*.pt"))[-1:]) != seen:
                seen[:] = newest
                generator = load_generator(self.source)
                generator.load_state_dict(store.load_checkpoint(folder, lambda *_: None)["ema"])
                self.write_sheet(path.with_suffix(".png"), generator)

        run = self.train(runs, preview)
        self.write_sheet(path.with_suffix(".png"), run.generator())
        save_generator(run.generator().half(), path, title=run.summary["title"])
        write_atomic(path.with_suffix(".md"), self.card(path, run))

    def drawn(self, generator: Generator) -> np.ndarray:
        """Its cartoons of the photos."""
        return np.concatenate([to_uint8(generator(some)) for some in to_tensor(self.photos).split(SHOWN)])

    def write_sheet(self, path: Path, generator: Generator) -> None:
        """A row each of drawings, photos, their cartoons by the nearest style, and by this generator, as a PNG."""
        drawings = self.cartoons.images[np.linspace(0, len(self.cartoons.images) - 1, SHOWN).astype(int)]
        rows = center_crop(drawings, self.profile.size), self.photos, self.drawn(load_generator(self.source)), self.drawn(generator)
        columns = [np.concatenate(column) for column in zip(*rows)][:SHOWN]
        Image.fromarray(np.concatenate(columns, axis=1)).save(png := io.BytesIO(), "PNG")
        write_atomic(path, png.getvalue())

    def card(self, path: Path, run: store.Run) -> str:
        """What is known of the generator, in Markdown; its file must be there."""
        mean, shown = _vectors(self.cartoons.images).mean(axis=0), [self.photos, self.drawn(run.generator())]
        before, after = (np.linalg.norm(_vectors(images).mean(axis=0) - mean) for images in shown)
        cartoons, faces = (f"{len(s.images)}: {s.title} (licence: {s.licence})" for s in (self.cartoons, self.faces))
        sha256, trained = hashlib.sha256(path.read_bytes()).hexdigest(), run.summary
        lines = [
            f"# {path.stem}: a generator of facial cartoons, by `make style`\n",
            f"* File: `{path.name}`, half precision, SHA-256 `{sha256}`",
            f"* Cartoons: {cartoons}",
            f"* Faces: {faces}",
            f"* Training: {self.steps} steps from the generator of `{self.nearest}`, {trained['seconds'] / 60:.1f} minutes",
            f"* Distance from the cartoons, by mean vectors of EfficientNet-Lite0, of {len(self.photos)} photos held out: "
            f"{before:.2f}, of their cartoons: {after:.2f}",
        ]
        licence = "Weights learned from pictures of others may be bound by the licences of those."
        return "\n".join([*lines, f"\n{licence} Look at {path.stem}.png before you rely on it.\n"])


def write_means() -> None:
    """Write MEANS from the sets of the profile `reference`, of which it needs the pictures."""
    sets = Sets(load_profile("reference"))
    means = {name: _vectors(each.images).mean(axis=0) for name, each in (sets.cartoons | {PHOTOS: sets.faces}).items()}
    rounded = {name: [round(float(value), 3) for value in mean] for name, mean in means.items()}
    write_atomic(MEANS, json.dumps(rounded))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cartoonlib.runs.style", description=__doc__.partition("\n")[0])
    parser.add_argument("drawings", help="a folder of 30 drawings or more, or a film")
    parser.add_argument("--faces", default="embedded_faces", metavar="FOLDER", help="photos (default: those of packages)")
    parser.add_argument("--minutes", type=float, default=20.0, help="until it is done (default: 20)")
    given = parser.parse_args()
    with one_sentence():
        path = learn(given.drawings, given.faces, given.minutes)
        print(f"{path.with_suffix('.png')} shows what came of it; {path.with_suffix('.md')} says how.")
        print(f"Draw with it: make cartoonize PHOTO=photo.jpg STYLE={path.stem}")


if __name__ == "__main__":
    main()
