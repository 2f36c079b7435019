"""A photo or video of any size in, a cartoon of the same size out: `python -m cartoonlib photo.jpg -o out --style comic`.

The generator ends in a guided filter, so a cartoon is slope * photo + intercept, pixel by pixel. Everything here rests
on that: strength draws the two to 1 and 0; a network that looks at a smaller copy has them enlarged and applied to the
photo itself; and they are computed tile by tile, each with all the pixels around it that the network can see, so that
tiles meet without a seam.
"""

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from . import data, pictures, report, sources, training
from .networks import Generator
from .paths import ROOT, InputError
from .pictures import SMALLEST
from .representations import guided_coefficients

GENERATORS = ROOT / "results" / "reference" / "generators"  # those that come with the project
MARGIN = 64  # px around a tile: the network and its filter see 63 px far
VIEW = 512  # px: the short side of what the network looks at, unless `--scale` says otherwise
TILE_BYTES = 900  # that a pixel of a tile takes in the network, at the peak
STRIP = 500_000  # px of a photo whose cartoon is put together at once


# --- the network on a picture of any size -----------------------------------------------------------------------------


def styles() -> list[str]:
    """Names of the generators that come with the project."""
    return sorted(path.stem for path in GENERATORS.glob("*.safetensors"))


def load(style: str) -> Generator:
    """The generator of a style that comes with the project, or of a safetensors or ONNX file of your own.

    The file of a style must have the SHA-256 that its model card names; nothing is ever unpickled. InputError says
    which styles there are.
    """
    own = Path(os.path.expanduser(style))
    if own.suffix == ".onnx":
        from .exports import OnnxGenerator

        return OnnxGenerator(own)
    if own.suffix == ".safetensors":
        try:
            generator = training.load_generator(own).float()
            generator(torch.zeros(1, 3, 16, 16))
            return generator
        except Exception as error:  # safetensors raises many kinds
            raise InputError(f"{own} is no generator of this project ({str(error).splitlines()[0]}).") from None
    path = GENERATORS / f"{style}.safetensors"
    if style not in styles():
        known = ", ".join(styles())
        raise InputError(f"There is no style `{style}`: choose one of {known}, or give a .safetensors or .onnx file.")
    card = path.with_suffix(".md")
    if not card.exists() or hashlib.sha256(path.read_bytes()).hexdigest() not in card.read_text():
        raise InputError(f"{path} is not the file that {card.name} describes: fetch both again (git checkout {path}).")
    return training.load_generator(path).float()


def view_size(height: int, width: int, scale: float | None = None) -> tuple[int, int]:
    """Height and width of what the network looks at: `scale` times the photo's, never more than the photo's.

    A generator learned from faces 128 px wide, so that on a large photo its strokes are fine and on a small copy of it
    they are bold. None takes a copy with a short side of VIEW.
    """
    scale = min(1.0, VIEW / min(height, width) if scale is None else scale)
    return tuple(max(min(side, SMALLEST), round(side * scale)) for side in (height, width))


@torch.no_grad()
def cartoonize(
    generator: Generator, photo: np.ndarray, strength: float = 1.0, scale: float | None = None, memory: int = 600,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:  # fmt: skip
    """The cartoon of a photo, uint8 (H, W, 3) RGB -> the same.

    Args:
        strength: 0 gives the photo back, 1 what the generator was trained to give; between them both are mixed,
            after the guided filter (radius `generator.filter_radius` px of the view, eps `generator.filter_eps`).
        scale: of what the network looks at, see view_size.
        memory: in MB, about what tiles may take beside the photo, its cartoon and the program; 100 at least.
        progress: is told the part of the whole that each tile is.
    """
    height, width = photo.shape[:2]
    rows, columns = view_size(height, width, scale)
    view = photo
    if (rows, columns) != (height, width):
        view = np.asarray(Image.fromarray(photo).resize((columns, rows), Image.Resampling.LANCZOS, reducing_gap=3.0))
    core = max(64, int(math.sqrt(memory * 1e6 / TILE_BYTES)) - 2 * MARGIN)
    core -= core % Generator.MULTIPLE
    cartoon = np.empty_like(photo)
    for top, bottom in _spans(rows, core):
        for left, right in _spans(columns, core):
            _tile(generator, photo, view, cartoon, strength, (top, bottom, left, right))
            if progress:
                progress((bottom - top) * (right - left) / (rows * columns))
    return cartoon


def _spans(length: int, core: int) -> Iterator[tuple[int, int]]:
    """Cut a side into spans of about one length, `core` at most, that begin at multiples of the network's."""
    count = -(-length // core)
    step = -(-length // count)
    step += -step % Generator.MULTIPLE
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _tile(generator, photo: np.ndarray, view: np.ndarray, cartoon: np.ndarray, strength: float, span: tuple) -> None:
    """Fill in the part of the cartoon that lies under one tile of the view."""
    top, bottom, left, right = span
    y, x = max(0, top - MARGIN), max(0, left - MARGIN)  # multiples of 4, as all of them
    seen = view[y : bottom + MARGIN, x : right + MARGIN]
    guide = data.to_tensor(np.array(seen[None]))
    source = generator.unfiltered(guide)
    slope, intercept = guided_coefficients(guide, source, generator.filter_radius, generator.filter_eps)
    maps = torch.cat([1 + strength * (slope - 1), strength * intercept], dim=1)[0].numpy()  # (6, h, w)

    ratio = photo.shape[0] / view.shape[0], photo.shape[1] / view.shape[1]
    begin, end = round(left * ratio[1]), round(right * ratio[1])
    first, last = round(top * ratio[0]), round(bottom * ratio[0])
    height = max(1, STRIP // (end - begin))
    for row in range(first, last, height):
        stop = min(row + height, last)
        if ratio == (1.0, 1.0):
            part = maps[:, row - y : stop - y, left - x : right - x]
        else:
            box = (begin / ratio[1] - x, row / ratio[0] - y, end / ratio[1] - x, stop / ratio[0] - y)
            size, bilinear = (end - begin, stop - row), Image.Resampling.BILINEAR
            part = np.stack([np.asarray(Image.fromarray(m).resize(size, bilinear, box=box)) for m in maps])
        pixels = photo[row:stop, begin:end].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        output = torch.from_numpy(part[:3] * pixels + part[3:])
        cartoon[row:stop, begin:end] = data.to_uint8(output[None])[0]


def faces_only(generator: Generator, photo: np.ndarray, strength: float = 1.0, memory: int = 600) -> np.ndarray | None:
    """Cartoonize each face, at the scale of the training, and blend it into the photo; None when there is no face."""
    from .landmarks import FACE_WIDTH, detect_faces

    found = [face for face in detect_faces([photo])[0] if face.probability > 0.9]
    cartoon, (height, width) = photo.copy(), photo.shape[:2]
    for face in found:
        x, y = face.box.reshape(2, 2).mean(axis=0)
        side = max((face.box[2] - face.box[0]) / FACE_WIDTH, float(SMALLEST))  # of the square that the training saw
        left, top = (max(0, round(c - side * 0.75)) for c in (x, y))
        right, bottom = min(width, round(x + side * 0.75)), min(height, round(y + side * 0.75))
        if min(right - left, bottom - top) < SMALLEST:
            continue
        drawn = cartoonize(generator, photo[top:bottom, left:right], strength, 128 / side, memory)
        across = (np.arange(left, right, dtype=np.float32) - np.float32(x)) / np.float32(side)
        for row in range(top, bottom):
            edge = np.clip((0.75 - np.hypot(across, np.float32((row - y) / side))) / 0.25, 0, 1)
            share = (edge**2 * (3 - 2 * edge))[:, None]  # 1 on the face, falling to 0 around the head
            below = cartoon[row, left:right]
            cartoon[row, left:right] = np.rint(below + share * (drawn[row - top] - below.astype(np.float32)))
    return cartoon if found else None


# --- the command ------------------------------------------------------------------------------------------------------

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
    from . import exports

    if options.export:
        target = Path(os.path.expanduser(options.export))
        if not isinstance(generator, Generator):
            raise InputError(f"{options.style} is exported already: give a style or a .safetensors file.")
        if target.suffix != ".onnx":
            raise InputError(f"{target} does not end in .onnx: say where the model goes, as in --export comic.onnx.")
        if target.exists() and not options.overwrite:
            raise InputError(f"{target} is there already: name another file, or add --overwrite.")
        difference = exports.export(generator, target)
        sizes = len(exports.CHECKED)
        print(f"{options.export}: differs from PyTorch by {difference:.1g} at most, on noise of {sizes} sizes")
    if options.runtime == "onnx" and isinstance(generator, Generator):
        return exports.OnnxGenerator(exports.to_onnx(generator))
    return generator


def _one(path: Path, target: Path, generator: Generator, options: argparse.Namespace, bar: tqdm) -> None:
    """Draw one photo or video."""
    settings = {"strength": options.strength, "memory": options.memory}
    if path.suffix.lower() in sources.VIDEOS:
        from . import video

        if options.faces:
            raise InputError("--faces is for photos: faces found anew in each frame would flicker")
        draw = partial(cartoonize, generator, scale=options.scale, **settings)
        for note in video.convert(path, target, draw, bar.update):
            bar.write(f"{path}: {note}", file=sys.stderr)
        return
    photo, alpha = pictures.read(path)
    cartoon = faces_only(generator, photo, **settings) if options.faces else None
    if options.faces and cartoon is None:
        bar.write(f"{path}: no face found, so the whole picture is drawn", file=sys.stderr)
    if cartoon is None:
        cartoon = cartoonize(generator, photo, scale=options.scale, progress=bar.update, **settings)
    pictures.write(target if alpha is None else pictures.with_alpha(target), cartoon, alpha)


def _done(target: Path) -> bool:
    """Whether there is a cartoon already."""
    also = pictures.with_alpha(target) if target.suffix.lower() in pictures.FORMATS else target
    return os.path.exists(target) or os.path.exists(also)


def run(options: argparse.Namespace, problems: list[str]) -> None:
    """Cartoonize all that was given; adds a sentence on each file that failed to `problems`."""
    generator, style = load(options.style), Path(options.style).stem
    if options.export or options.runtime == "onnx":
        generator = _other_runtime(generator, options)
    output = Path(os.path.expanduser(options.output))
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: give a folder for the cartoons with -o.")
    pairs, unfit = pictures.find(options.photos, output, style, options.overwrite)
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
    with report.one_sentence():
        try:
            run(options, problems)
        except KeyboardInterrupt:
            print("", *problems, sep="\n", file=sys.stderr)
            raise
    if problems:
        sys.exit("\n".join([f"{len(problems)} could not be done:", *problems]))


if __name__ == "__main__":
    main()
