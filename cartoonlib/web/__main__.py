"""`make page`: a folder with index.html and what it loads: scripts, for a page from the disk may load nothing else."""

import base64
import gzip
import io
import json
from pathlib import Path

import jinja2
import matplotlib.cbook
import numpy as np
import onnx
import skimage.data
import torch
import yaml
from facenet_pytorch import MTCNN
from PIL import Image

from ..dataset.folders import npm_package
from ..files import ROOT, one_sentence, write_atomic
from ..photos.draw import cartoonize
from ..photos.onnx import exported, to_onnx
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
    hopper = Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    names = {"portraits": {"collins": skimage.data.astronaut(), "hopper": np.asarray(hopper.convert("RGB"))}}
    names |= {"runtime": runtime, "shown": {}, "filters": {}}
    for style in styles():
        generator = load(style)
        _pack(folder / f"{style}.js", {"network": _light(onnx.load_from_string(to_onnx(generator)))})
        names["shown"][style] = cartoonize(generator, names["portraits"]["collins"])[20:200, 135:315]
        names["filters"][style] = {"radius": generator.filter_radius, "eps": generator.filter_eps}
    environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__), undefined=jinja2.StrictUndefined)
    environment.filters["address"] = _address
    write_atomic(folder / "index.html", environment.get_template("index.html.j2").render(names))
    print(f"Open {folder / 'index.html'} in a browser, or python -m http.server -d {folder}.")
    print("To publish the page, copy this folder to GitHub Pages, or to any other web server.")


def _pack(path: Path, parts: dict[str, bytes]) -> None:
    """Write a script that hands the page these parts, as base64 of gzip."""
    packed = {part: base64.b64encode(gzip.compress(content, mtime=0)).decode() for part, content in parts.items()}
    write_atomic(path, f"received({json.dumps(path.stem)}, {json.dumps(packed)});\n")


def _light(model: onnx.ModelProto) -> bytes:
    """A generator's model without its guided filter, and with weights in half precision, as they were shipped."""
    del model.graph.output[0]
    for tensor in [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        cast = onnx.helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=onnx.TensorProto.FLOAT)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{tensor.name}.half"))
        model.graph.node.insert(0, cast)
    return model.SerializeToString()


def _address(picture: np.ndarray) -> str:
    """A picture, uint8 (H, W, 3), as the address of a JPEG that it holds itself."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    with one_sentence():
        main()
