"""The command `cartoonize`: photos and films in, cartoons of the same size out."""

import argparse
import gc
import os
import sys

from ..files import one_sentence
from .shipped import styles

EXAMPLES = """examples:
  cartoonize photo.jpg                               cartoons/photo-{style}.jpg
  cartoonize photo.jpg --style {other} --strength 0.6  milder, in another style
  cartoonize holidays/ more.png -o out               folders keep their structure; what is done is skipped
  cartoonize photo.jpg --keep-colors 1 --outline 0   the photo's colours, and no ink
  cartoonize film.mp4                                with its sound, some frames a second
  cartoonize group.jpg --faces                       faces alone, each at the scale that suits it
  cartoonize photo.jpg --scale 0.25                  the network looks at a quarter of the size: the less, the bolder
  cartoonize --style {style} --export {style}.onnx       for other runtimes; --style {style}.onnx then draws with it
"""


def main(arguments: list[str] | None = None) -> None:
    """Cartoonize what the arguments name; those of the process, which then ends, when there are none.

    SystemExit says in one sentence each what could not be drawn.
    """
    options = _options(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be text that a terminal can show
            stream.reconfigure(errors="backslashreplace")
    own_process = arguments is None
    if own_process:
        # OpenMP reads this when PyTorch is loaded: threads that wait sleep. Otherwise they spin, and where other
        # programs use the processors a small photo takes ten times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    problems: list[str] = []
    with one_sentence():
        from .batch import run  # and PyTorch, a second that --help should not wait for

        if own_process:
            gc.freeze()  # what is loaded stays until the end: looking through it for garbage takes 0.3 s
        try:
            run(options, problems)
        except KeyboardInterrupt:
            print("", *problems, sep="\n", file=sys.stderr)
            raise
    if problems:
        sys.exit("\n".join([f"{len(problems)} could not be done:", *problems]))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    known = styles()
    default = "cartoonset" if "cartoonset" in known else next(iter(known), "")
    other = next((style for style in known if style != default), default)
    parser = argparse.ArgumentParser(
        prog="cartoonize", description="Turn photos and videos into cartoons of the same size.",
        epilog=EXAMPLES.format(style=default, other=other), formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="pictures, videos, or folders of them")
    add("-o", "--output", default="cartoons", metavar="FOLDER", help="default: cartoons")
    names = f"{', '.join(known)}, one that `make style` made, or a .safetensors or .onnx file (default: {default})"
    add("--style", default=default, help=names)
    add("--strength", type=float, default=1.0, metavar="0..1", help="default: 1")
    view = "part of the size that the network sees (default: 100 px for the largest face, or 512 px on the short side)"
    add("--scale", type=float, metavar="0.01..1", help=view)
    colors = "1: the photo's colours in the light of the cartoon; 0, the default: the cartoon's"
    add("--keep-colors", type=float, default=0.0, metavar="0..1", help=colors)
    lines = "0: no contours; 1, the default: as the style draws them; 2: bold ones"
    add("--outline", type=float, default=1.0, metavar="0..2", help=lines)
    add("--faces", action="store_true", help="only the faces, blended into the photo")
    room = "for the work on a photo, beside the program's own (default: 600)"
    add("--memory", type=int, default=600, metavar="MB", help=room)
    add("--overwrite", action="store_true", help="make cartoons anew that are there already")
    add("--export", metavar="FILE", help="write the generator for other runtimes, .onnx or .tflite, and check it")
    add("--runtime", choices=("torch", "onnx"), default="torch", help="default: torch")
    options = parser.parse_args(arguments)
    if not options.photos and not options.export:
        parser.error("give photos, videos or folders of them")
    return options
