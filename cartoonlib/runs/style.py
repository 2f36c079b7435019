"""`python -m cartoonlib.runs.style DRAWINGS`: a generator in the style of your own drawings or film, in minutes.

The shipped generator whose style's cartoons are nearest goes on learning, from yours. `cartoonize --style NAME` finds
it in results/styles: NAME.safetensors, its card NAME.md, and the sheet NAME.png, renewed every minute meanwhile.
"""

import argparse
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .. import files
from ..dataset import catalogue
from ..dataset.prepare import ImageSet, prepare
from ..dataset.sets import enough
from ..features import EfficientNetLite0
from ..files import InputError, one_sentence, write_atomic
from ..images import center_crop, to_tensor, to_uint8
from ..networks import Generator, load_generator, save_generator
from . import store, training
from .parallel import show_line, silent
from .profiles import load_profile

GENERATORS = files.ROOT / "results" / "reference" / "generators"
MEANS = GENERATORS.parent / "means.json"  # style, or `photos` -> mean of its pictures' vectors (README.md)
FEWEST, FEWEST_FACES = 30, 8  # drawings, photos
TIMED, SHOWN = 16, 8  # steps that are timed before the number of all is set; pictures in a row of the sheet
# For minutes of two cores, and with networks that packages bring. The weights are the nearest style's: with a lighter
# anchor, 4 or 8, its colours come off in patches.
SETTINGS = {"name": "styles", "perceptual": "efficientnet_lite0", "batch": 8, "on_divergence": "back_off"}


def learn(drawings: str, photos: str = "embedded_faces", minutes: float = 20.0) -> Path:
    """The file of a style's generator, trained if it is missing, for so many minutes; one that was interrupted goes on.

    drawings, photos: a folder, a film, or a set of data/sources.yaml. InputError says what is wrong with them.
    """
    began, name = time.monotonic(), catalogue.find(drawings, "cartoons").name
    path, size = files.RESULTS / "styles" / f"{name}.safetensors", load_profile("reference").size
    if not 1 <= minutes <= 10_000:
        raise InputError(f"{minutes:g} minutes: give a number from 1 on; 20 show a style.")
    if (GENERATORS / path.name).exists():
        raise InputError(f"A style `{name}` comes with the project: give your folder or film another name.")
    cartoons = prepare(drawings, size, limit=1000, test_fraction=0.0, kind="cartoons")
    faces = prepare(photos, size, limit=1000, test_fraction=0.3, kind="faces")
    for images, fewest in (cartoons, FEWEST), (faces, FEWEST_FACES):
        if (count := len(images.images)) < fewest:
            raise InputError(f"{images.title}: {count} {images.kind} can be used, and {fewest} are needed: give more.")
    plan, asked = path.with_suffix(".json"), {"data": [cartoons.hash, enough(faces).hash], "minutes": minutes}
    if not plan.exists():  # the number of steps names the run, so it is set once, and kept
        style = Style(cartoons, faces, nearest(cartoons), steps=TIMED, every=TIMED)
        seconds = style.seconds_of_a_step()
        steps = max(1, int((60 * minutes - (time.monotonic() - began)) / seconds))
        show_line(f"{seconds:.2f} s a step: {steps} steps in {minutes:g} minutes", keep=True)
        chosen = {"nearest": style.nearest, "steps": steps, "every": max(1, round(60 / seconds))}
        write_atomic(plan, json.dumps({"asked": asked, "chosen": chosen}, indent=1))
    made = json.loads(plan.read_text(encoding="utf-8"))
    if made["asked"] != asked:
        other = f"The style `{name}` is there, of other drawings, photos or minutes"
        raise InputError(f"{other}: rename your folder or film, or delete {path.with_suffix('')}.*.")
    if not path.with_suffix(".md").exists():
        Style(cartoons, faces, **made["chosen"]).make(path)
    return path


def vectors(images: np.ndarray) -> np.ndarray:
    """What pictures show, and how: uint8 (N, S, S, 3) -> (n, 112), of 300 at most."""
    some = images[np.linspace(0, len(images) - 1, min(300, len(images))).astype(int)]
    return np.concatenate([part.numpy() for part in map(EfficientNetLite0().embed, to_tensor(some).split(50))])


def nearest(cartoons: ImageSet) -> str:
    """The shipped style whose cartoons are nearest by their mean; InputError for photos in place of drawings."""
    found, means = vectors(cartoons.images), json.loads(MEANS.read_text(encoding="utf-8"))
    apart = {name: np.linalg.norm(found - mean, axis=1) for name, mean in means.items()}
    if (share := np.mean(apart.pop("photos") < np.min(list(apart.values()), axis=0))) > 0.5:
        raise InputError(f"{cartoons.title}: {share:.0%} of its pictures look like photos: give drawings.")
    order = sorted((np.linalg.norm(found.mean(axis=0) - means[style]), style) for style in apart)
    told = ", ".join(f"{style} {distance:.1f}" for distance, style in order)
    show_line(f"distance from the cartoons of the shipped styles: {told}; the first is the start", keep=True)
    return order[0][1]


class Style:
    """A style that is made out of a shipped one, which is nearest; a checkpoint and a sheet `every` so many steps."""

    def __init__(self, cartoons: ImageSet, faces: ImageSet, nearest: str, steps: int, every: int):
        often = {"log_every": max(1, min(20, every // 3)), "checkpoint_every": every, "train_steps": steps}
        self.profile = load_profile("reference").of(nearest).replace(**SETTINGS, **often)
        self.sets, self.nearest = (faces, cartoons, cartoons.name), nearest
        self.source = GENERATORS / f"{nearest}.safetensors"
        self.photos = center_crop(faces.part("test")[:SHOWN], self.profile.size)
        self.cartoons = center_crop(cartoons.images, self.profile.size)

    def train(self, runs: Path, progress: Callable = silent) -> store.Run:
        """The run that goes on from the shipped generator, which is put where its structure start would lie."""
        begun, content = store.start_folder(self.profile, runs, self.sets[0]), self.source.read_bytes()
        about = {"title": self.nearest, "code": store.code_hash(), "sha256": hashlib.sha256(content).hexdigest()}
        write_atomic(begun / "generator.safetensors", content)
        write_atomic(begun / "summary.json", json.dumps(about))
        return training.train(self.profile, runs, *self.sets, "your style", progress, self.photos)

    def seconds_of_a_step(self) -> float:
        """As few steps take, after the first ones."""
        with tempfile.TemporaryDirectory() as runs:
            first, *_, last = self.train(Path(runs)).log()
        return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])

    def make(self, path: Path) -> None:
        """Train, and write sheet, generator and, as the last, its card."""
        runs, seen = path.parent / "runs", []
        folder = store.train_folder(self.profile, runs, *self.sets)

        def preview(line: str) -> None:
            show_line(line)
            if (newest := sorted(folder.glob("checkpoint-*"))[-1:]) != seen:
                seen[:], state = newest, store.load_checkpoint(folder, lambda *_: None)
                if state:  # none is left when those that were there are damaged, or of before a training that diverged
                    generator = load_generator(self.source)
                    generator.load_state_dict(state["ema"])
                    self.sheet(path, generator)

        run = self.train(runs, preview)
        save_generator(run.generator().half(), path, title=run.summary["title"])
        pictures, mean = self.sheet(path, load_generator(path)), vectors(self.cartoons).mean(axis=0)
        apart = [float(np.linalg.norm(vectors(images).mean(axis=0) - mean)) for images in pictures]
        about = {"name": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "apart": apart}
        card = (Path(__file__).parent / "templates" / "style.md").read_text(encoding="utf-8")
        write_atomic(path.with_suffix(".md"), card.format(**about, style=self, run=run))

    def sheet(self, path: Path, generator: Generator) -> list[np.ndarray]:
        """Photos, their cartoons by the nearest style and by this generator, which with some drawings become a PNG.

        Three times uint8 (SHOWN, S, S, 3) of the training size.
        """
        drawn = [to_uint8(network(to_tensor(self.photos))) for network in (load_generator(self.source), generator)]
        some = self.cartoons[np.linspace(0, len(self.cartoons) - 1, SHOWN).astype(int)]
        columns = [np.concatenate(column) for column in zip(some, self.photos, *drawn)]
        Image.fromarray(np.concatenate(columns, axis=1)).save(png := io.BytesIO(), "PNG")
        write_atomic(path.with_suffix(".png"), png.getvalue())
        return [self.photos, *drawn]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cartoonlib.runs.style", description=__doc__.partition("\n")[0])
    parser.add_argument("drawings", help="a folder of 30 drawings or more, or a film")
    parser.add_argument("--faces", dest="photos", default="embedded_faces", help="photos (default: those of packages)")
    parser.add_argument("--minutes", type=float, default=20.0, help="until it is done (default: 20)")
    with one_sentence():
        path = learn(**vars(parser.parse_args()))
        print(f"See {path.with_suffix('.png')}; draw with it: make cartoonize PHOTO=photo.jpg STYLE={path.stem}")


if __name__ == "__main__":
    main()
