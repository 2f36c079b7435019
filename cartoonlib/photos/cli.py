"""The command `cartoonize`: photos and films in, cartoons of the same size out."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .. import files
from ..dataset import catalogue
from ..files import InputError
from ..images import FORMATS, read_picture
from ..networks import Generator
from . import formats, video
from .draw import VIEW, cartoonize, faces_only
from .onnx import CHECKED, OnnxGenerator, export_onnx, to_onnx
from .shipped import load, styles

EXAMPLES = """examples:
  cartoonize photo.jpg                               cartoons/photo-{style}.jpg
  cartoonize photo.jpg --style {other} --strength 0.6  milder, in another style
  cartoonize holidays/ more.png -o out               folders keep their structure; what is done is skipped
  cartoonize film.mp4                                with its sound, some frames a second
  cartoonize group.jpg --faces                       faces alone, each at the scale of the training
  cartoonize photo.jpg --scale 0.25                  bolder: the network looks at a quarter of the size
  cartoonize --style {style} --export {style}.onnx       for other runtimes; --style {style}.onnx then draws with it
"""


def _other_runtime(generator, options: argparse.Namespace):
    """Write the generator as ONNX, if that is wanted; the generator that is to draw comes back."""
    if options.export:
        target = Path(os.path.expanduser(options.export))
        if not isinstance(generator, Generator):
            raise InputError(f"{options.style} is exported already: give a style or a .safetensors file.")
        if target.suffix != ".onnx":
            raise InputError(f"{target} does not end in .onnx: say where the model goes, as in --export comic.onnx.")
        if target.exists() and not options.overwrite:
            raise InputError(f"{target} is there already: name another file, or add --overwrite.")
        difference = export_onnx(generator, target)
        sizes = len(CHECKED)
        print(f"{options.export}: differs from PyTorch by {difference:.1g} at most, on noise of {sizes} sizes")
    if options.runtime == "onnx" and isinstance(generator, Generator):
        return OnnxGenerator(to_onnx(generator))
    return generator


def _one(path: Path, target: Path, generator: Generator, options: argparse.Namespace, bar: tqdm) -> None:
    """Draw one photo or video."""
    settings = {"strength": options.strength, "memory": options.memory}
    if path.suffix.lower() in catalogue.VIDEOS:
        if options.faces:
            raise InputError("--faces is for photos: faces found anew in each frame would flicker")
        draw = partial(cartoonize, generator, scale=options.scale, **settings)
        for note in video.convert(path, target, draw, bar.update):
            bar.write(f"{path}: {note}", file=sys.stderr)
        return
    photo, alpha = read_picture(path)
    cartoon = faces_only(generator, photo, **settings) if options.faces else None
    if options.faces and cartoon is None:
        bar.write(f"{path}: no face found, so the whole picture is drawn", file=sys.stderr)
    if cartoon is None:
        cartoon = cartoonize(generator, photo, scale=options.scale, progress=bar.update, **settings)
    formats.write(target if alpha is None else formats.with_alpha(target), cartoon, alpha)


def _done(target: Path) -> bool:
    """Whether there is a cartoon already."""
    also = formats.with_alpha(target) if target.suffix.lower() in FORMATS else target
    return os.path.exists(target) or os.path.exists(also)


def run(options: argparse.Namespace, problems: list[str]) -> None:
    """Cartoonize all that was given; adds a sentence on each file that failed to `problems`."""
    generator, style = load(options.style), Path(options.style).stem
    if options.export or options.runtime == "onnx":
        generator = _other_runtime(generator, options)
    output = Path(os.path.expanduser(options.output))
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: give a folder for the cartoons with -o.")
    pairs, unfit = formats.find(options.photos, output, style, options.overwrite)
    problems += unfit
    left = pairs if options.overwrite else [pair for pair in pairs if not _done(pair[1])]
    if len(left) < len(pairs):
        print(f"{len(pairs) - len(left)} of {len(pairs)} are there already and are kept; --overwrite makes them anew")
    line = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}]"
    with tqdm(total=len(left), disable=not left, bar_format=line) as bar:
        for number, (path, target) in enumerate(left, start=1):
            try:
                _one(path, target, generator, options, bar)
            except InputError as problem:
                problems.append(f"{path}: {problem}")
            except OSError as problem:
                problems.append(f"{path}: its cartoon could not be written ({problem})")
            except Exception as problem:  # one file never stops the rest
                memory = isinstance(problem, MemoryError) or "allocate" in str(problem)
                said = "there is too little memory for it; try a smaller --memory" if memory else repr(problem)
                problems.append(f"{path}: {said}")
            bar.update(number - bar.n)
    if len(left) == 1 and not problems:
        print(left[0][1])


def _between(low: float, high: float, kind: type) -> Callable[[str], float]:
    def value(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low:g} to {high:g}")
        return number

    return value


def main(arguments: list[str] | None = None) -> None:
    known = styles()
    default = "cartoonset" if "cartoonset" in known else next(iter(known), "")
    other = next((style for style in known if style != default), default)
    parser = argparse.ArgumentParser(
        prog="cartoonize", description="Turn photos and videos into cartoons of the same size.",
        epilog=EXAMPLES.format(style=default, other=other), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="pictures, videos, or folders of them")
    parser.add_argument("-o", "--output", default="cartoons", metavar="FOLDER", help="default: cartoons")
    names = f"{', '.join(known)}, or a .safetensors or .onnx file (default: {default})"
    parser.add_argument("--style", default=default, help=names)
    parser.add_argument("--strength", type=_between(0, 1, float), default=1.0, metavar="0..1", help="default: 1")
    parser.add_argument(
        "--scale", type=_between(0.01, 1, float), metavar="0.01..1",
        help=f"part of the photo's size that the network looks at (default: {VIEW} px on the short side)",
    )  # fmt: skip
    parser.add_argument("--faces", action="store_true", help="only the faces, blended into the photo")
    parser.add_argument(
        "--memory", type=_between(100, 1_000_000, int), default=600, metavar="MB",
        help="for the work on a photo, beside the program's own (default: 600)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="make cartoons anew that are there already")
    parser.add_argument("--export", metavar="FILE.onnx", help="write the generator for other runtimes, and check it")
    parser.add_argument("--runtime", choices=("torch", "onnx"), default="torch", help="default: torch")
    options = parser.parse_args(arguments)
    if not options.photos and not options.export:
        parser.error("give photos, videos or folders of them")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be text that a terminal can show
            stream.reconfigure(errors="backslashreplace")
    problems: list[str] = []
    with files.one_sentence():
        try:
            run(options, problems)
        except KeyboardInterrupt:
            print("", *problems, sep="\n", file=sys.stderr)
            raise
    if problems:
        sys.exit("\n".join([f"{len(problems)} could not be done:", *problems]))
