"""`make page`: a folder with index.html and what it loads: scripts, for a page from the disk may load nothing else."""

import base64
import gzip
import json
from pathlib import Path

import jinja2
import matplotlib.cbook
import skimage.data
import torch
import yaml
from facenet_pytorch import MTCNN
from onnx import ModelProto, helper, load_from_string, numpy_helper

from ..dataset.folders import npm_package
from ..files import ROOT, one_sentence, write_atomic
from ..media.pictures import read_picture
from ..photos.draw import cartoonize
from ..photos.onnx import exported, to_onnx
from ..photos.page import preview
from ..photos.shipped import load, styles


def main(folder: Path = ROOT / "web") -> None:
    """Write the page into a folder. InputError when ONNX Runtime cannot be fetched."""
    runtime = yaml.safe_load((Path(__file__).parent / "runtime.yaml").read_text(encoding="utf-8"))
    library, faces = npm_package(runtime), MTCNN()
    for build, parts in runtime["builds"].items():
        _pack(folder / f"{build}.js", {part: (library / name).read_bytes() for part, name in parts.items()})
    networks = {"propose": (faces.pnet, 40), "refine": (faces.rnet, 24), "output": (faces.onet, 48)}
    found = {name: exported(network, torch.zeros(3, 3, side, side)) for name, (network, side) in networks.items()}
    _pack(folder / "faces.js", {name: model.SerializeToString() for name, model in found.items()})
    hopper = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    portraits = {"collins": skimage.data.astronaut(), "hopper": read_picture(hopper)[0]}
    names = {"runtime": runtime, "portraits": portraits, "shown": {}, "filters": {}}
    for style in styles():
        generator = load(style)
        _pack(folder / f"{style}.js", {"network": _light(load_from_string(to_onnx(generator)))})
        names["shown"][style] = cartoonize(generator, portraits["collins"])[20:200, 135:315]
        names["filters"][style] = {"radius": generator.filter_radius, "eps": generator.filter_eps}
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__), undefined=jinja2.StrictUndefined)
    environment.filters["png"] = lambda picture: base64.b64encode(preview(picture)).decode()
    write_atomic(folder / "index.html", environment.get_template("index.html.j2").render(names))
    print(f"Open {folder}/index.html, or python -m http.server -d {folder}; to publish it, copy it to GitHub Pages.")


def _pack(path: Path, parts: dict[str, bytes]) -> None:
    """Write a script that hands the page these parts, as base64 of gzip."""
    packed = {part: base64.b64encode(gzip.compress(content, mtime=0)).decode() for part, content in parts.items()}
    write_atomic(path, f"received({json.dumps(path.stem)}, {json.dumps(packed)});\n")


def _light(model: ModelProto) -> bytes:
    """A generator's model without its guided filter, and with weights in half precision, as they were shipped."""
    del model.graph.output[0]
    for tensor in [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]:
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), f"{tensor.name}.half")
        model.graph.node.insert(0, helper.make_node("Cast", [half.name], [tensor.name], to=tensor.data_type))
        tensor.CopyFrom(half)
    return model.SerializeToString()


if __name__ == "__main__":
    with one_sentence():
        main()
