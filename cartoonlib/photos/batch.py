"""Photos and films drawn one after the other, so that one that fails stops none of the others."""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from ..files import InputError
from ..media.listing import VIDEOS
from ..media.pictures import FORMATS, read_picture
from ..networks import Generator
from . import folders, formats
from .cartoonizer import RANGES, Cartoonizer


def run(options: argparse.Namespace, problems: list[str]) -> None:
    """Cartoonize all that was given; adds a sentence on each file that failed to `problems`.

    `options` are those of the command (cli.py). InputError when nothing can be drawn at all.
    """
    cartoonizer = Cartoonizer(options.style, **{name: getattr(options, name) for name in (*RANGES, "faces")})
    if options.export:
        _export(cartoonizer.generator, options)
    if options.runtime == "onnx" and isinstance(cartoonizer.generator, Generator):
        from .onnx import OnnxGenerator, to_onnx

        cartoonizer.generator = OnnxGenerator(to_onnx(cartoonizer.generator))
    output = Path(os.path.expanduser(options.output))
    if not options.output or output.exists() and not output.is_dir():
        raise InputError(f"{options.output or 'An empty name'} is no folder: give one for the cartoons with -o.")
    pairs, refused, notes = folders.find(options.photos, output, Path(options.style).stem, options.overwrite)
    problems += refused
    sys.stderr.writelines(f"{note}\n" for note in notes)
    missing = pairs if options.overwrite else [pair for pair in pairs if not _is_drawn(pair[1])]
    if len(missing) < len(pairs):
        drawn = len(pairs) - len(missing)
        print(f"{drawn} of {len(pairs)} are there already and are kept; --overwrite makes them anew")
    with tqdm(total=len(missing), disable=not missing, bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}]") as bar:
        for number, (path, target) in enumerate(missing, start=1):
            try:
                for note in _draw(path, target, cartoonizer, bar):
                    bar.write(f"{path}: {note}", file=sys.stderr)
            except Exception as error:  # one file never stops the rest
                problems.append(f"{path}: {reason(error)}")
            bar.update(number - bar.n)
    if len(missing) == 1 and not problems:
        print(missing[0][1])


def _export(generator, options: argparse.Namespace) -> None:
    """Write the generator for other runtimes, by the suffix of the file."""
    target = Path(os.path.expanduser(options.export))
    if not isinstance(generator, Generator):
        raise InputError(f"{options.style} is exported already: give a style or a .safetensors file.")
    if target.suffix not in (".onnx", ".tflite"):
        raise InputError(f"{target} does not end in .onnx or .tflite: say where the model goes, as in comic.onnx.")
    if target.exists() and not options.overwrite:
        raise InputError(f"{target} is there already: name another file, or add --overwrite.")
    if target.suffix == ".tflite":
        from .tflite import export_tflite as export
    else:
        from .onnx import export_onnx as export
    print(f"{options.export}: differs from PyTorch by {export(generator, target):.1g} at most, on noise")


def _is_drawn(target: Path) -> bool:
    """Whether the cartoon is there already, in its own format or, for alpha, as a PNG."""
    return os.path.exists(target) or (target.suffix.lower() in FORMATS and os.path.exists(formats.with_alpha(target)))


def reason(error: Exception) -> str:
    """Why a file could not be drawn, for its user."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return f"its cartoon could not be written ({error})"
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return "there is too little memory for it; try a smaller --memory"
    return repr(error)


def _draw(path: Path, target: Path, cartoonizer: Cartoonizer, bar: tqdm) -> list[str]:
    if path.suffix.lower() in VIDEOS:
        from . import video  # and PyAV, which no photo needs

        if cartoonizer.faces:
            raise InputError("--faces is for photos: faces found anew in each frame would flicker")
        return video.convert(path, target, cartoonizer.for_film(video.first_frames(path)), bar.update)
    notes: list[str] = []
    photo, alpha = read_picture(path, notes=notes)
    cartoon, found = cartoonizer.draw(photo, bar.update)
    formats.write(target if alpha is None else formats.with_alpha(target), cartoon, alpha)
    return notes + found
