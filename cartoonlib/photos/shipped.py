"""The generators that come with the project, and those of your own."""

import hashlib
import os
from pathlib import Path

from .. import files
from ..files import ROOT, InputError

# Those that come with the project: where they are made, or where pip puts them when it installs a copy.
GENERATORS = ROOT / "results" / "reference" / "generators"
if not GENERATORS.is_dir():
    GENERATORS = Path(__file__).resolve().parent.parent / "generators"


def styles() -> list[str]:
    """Names of the generators that come with the project."""
    return sorted(path.stem for path in GENERATORS.glob("*.safetensors"))


def load(style: str):
    """The generator of a style that comes with the project or `make style` made, or of a safetensors or ONNX file.

    A Generator in evaluation mode, or an OnnxGenerator. The file of a style must have the SHA-256 that its model card
    names; nothing is ever unpickled. InputError says which styles there are.
    """
    import torch  # here, because a list of the styles need not wait for it

    from ..networks import load_generator

    own = Path(os.path.expanduser(style))
    if own.suffix == ".onnx":
        from .onnx import OnnxGenerator
    if own.suffix in (".onnx", ".safetensors"):
        try:
            generator = OnnxGenerator(own.read_bytes()) if own.suffix == ".onnx" else load_generator(own).float()
            for run in (generator, generator.unfiltered):  # an ONNX file may lack one of the two
                run(torch.zeros(1, 3, 16, 16))
            return generator
        except Exception as error:  # safetensors and ONNX Runtime raise many kinds
            raise InputError(f"{own} is no generator of this project ({str(error).splitlines()[0]}).") from None
    found = {p.stem: p for folder in (files.RESULTS / "styles", GENERATORS) for p in folder.glob("*.safetensors")}
    if not found:
        raise InputError(f"There is no generator in {GENERATORS}: fetch it from the project, or give one with --style.")
    if style not in found:
        known = ", ".join(sorted(found))
        raise InputError(f"There is no style `{style}`: choose one of {known}, or give a .safetensors or .onnx file.")
    path = found[style]
    card = path.with_suffix(".md")
    if not card.exists() or hashlib.sha256(path.read_bytes()).hexdigest() not in card.read_text(encoding="utf-8"):
        raise InputError(f"{path} is not the file that {card.name} describes: fetch or make both again.")
    return load_generator(path).float()
