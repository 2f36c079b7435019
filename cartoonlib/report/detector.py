"""The landmark detector and the recogniser of persons of the evaluation, which no loss uses."""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataset.catalogue import find
from ..dataset.folders import npm_package
from ..landmarks import Square, _Frozen

PACKAGE = "@vladmandic/face-api"
FACEAPI_SQUARE = Square(0.5, 0.66, 0.82)
PERSON_SQUARE = Square(0.5, 0.61, 0.70)  # what face-api.js cuts out for it, with the eyes and mouth of aligned faces
PERSON_BLOCKS = """conv32_1 conv32_2 conv32_3 conv64_down conv64_1 conv64_2 conv64_3
conv128_down conv128_1 conv128_2 conv256_down conv256_1 conv256_2 conv256_down_out"""
PERSON_STAGES = (2, 6, 9)  # conv32_3, conv64_3, conv128_2
FACEAPI_MEAN = (122.782, 117.001, 104.298)  # RGB of the training images of both


class _FaceApi(_Frozen):
    """A network with the weights of a `model` in the npm package @vladmandic/face-api, which is fetched if absent."""

    model: str

    def __init__(self):
        super().__init__()
        package = next(package for package in find("embedded_faces").packages if package["name"] == PACKAGE)
        self.weights = nn.ParameterDict(faceapi_weights(npm_package(package), self.model))
        self.requires_grad_(False).eval()


class FaceApiLandmarks(_FaceApi):
    """68 points by face-api.js's separable dense network (MIT licence): an independent detector for evaluation."""

    model = "face_landmark_68_model"

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) in [-1, 1] -> points (B, 68, 2) in units of the image side."""
        x = (FACEAPI_SQUARE.crop(images, 112) + 1) / 2 - images.new_tensor(FACEAPI_MEAN)[:, None, None] / 255
        for block in range(4):
            x = total = self._convolution(x, f"dense{block}/conv0", stride=2).relu()
            for layer in (1, 2, 3):  # each layer sees the sum of all earlier ones
                total = total + self._convolution(x, f"dense{block}/conv{layer}", stride=1)
                x = total.relu()
        x = F.avg_pool2d(x, 7).flatten(1) @ self.weights["fc/weights"] + self.weights["fc/bias"]
        return FACEAPI_SQUARE.to_frame(x.unflatten(1, (68, 2)))

    def _convolution(self, x: Tensor, name: str, stride: int) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))  # TensorFlow's "same" for even sides
        bias = self.weights[f"{name}/bias"]
        if name == "dense0/conv0":
            return F.conv2d(x, self.weights[f"{name}/filters"], bias, stride)
        x = F.conv2d(x, self.weights[f"{name}/depthwise_filter"], stride=stride, groups=x.shape[1])
        return F.conv2d(x, self.weights[f"{name}/pointwise_filter"], bias)


class FaceApiPersons(_FaceApi):
    """Whose face it is: dlib's residual network of 29 layers (King 2017, public domain), as face-api.js has it."""

    model = "face_recognition_model"

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) in [-1, 1] -> (B, 128): shots of one person lie less than 0.6 apart (dlib)."""
        return self.maps(images)[-1].mean(dim=(2, 3)) @ self.weights["fc"]

    def maps(self, images: Tensor) -> list[Tensor]:
        """What each of PERSON_BLOCKS gives, at 1/4 of 150 px and less: PERSON_STAGES end the first three sizes."""
        x = ((PERSON_SQUARE.crop(images, 150) + 1) * 127.5 - images.new_tensor(FACEAPI_MEAN)[:, None, None]) / 256
        x, maps = F.max_pool2d(self._convolution(x, "conv32_down", stride=2).relu(), 3, 2), []
        for block in PERSON_BLOCKS.split():
            down = "down" in block
            y = self._convolution(x, f"{block}/conv1", stride=2 if down else 1).relu()
            y = self._convolution(y, f"{block}/conv2", stride=1)
            x = F.avg_pool2d(x, 2) if down else x
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
            x = (F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y).relu()
            maps.append(x)
        return maps

    def _convolution(self, x: Tensor, name: str, stride: int) -> Tensor:
        filters, bias = self.weights[f"{name}/conv/filters"], self.weights[f"{name}/conv/bias"]
        x = F.conv2d(x, filters, bias, stride, padding=0 if stride == 2 else 1)
        weights, biases = (self.weights[f"{name}/scale/{part}"][:, None, None] for part in ("weights", "biases"))
        return x * weights + biases


def faceapi_weights(folder: Path, model: str) -> dict[str, Tensor]:
    """Tensors of one of face-api's networks from its unpacked npm package, by their names there, in torch's layout."""
    stem = folder / "model" / model
    manifest = json.loads(Path(f"{stem}-weights_manifest.json").read_text(encoding="utf-8"))
    content = Path(f"{stem}.bin").read_bytes()
    layouts = {"depthwise_filter": (2, 3, 0, 1), "pointwise_filter": (3, 2, 0, 1), "filters": (3, 2, 0, 1)}
    tensors, start = {}, 0
    for entry in manifest[0]["weights"]:  # one tensor after the other, most in 8-bit codes
        name, shape, code = entry["name"], entry["shape"], entry.get("quantization")
        codes = np.frombuffer(content, np.uint8 if code else np.float32, math.prod(shape), start).reshape(shape)
        values = torch.from_numpy(codes * np.float32(code["scale"]) + np.float32(code["min"]) if code else codes.copy())
        axes = layouts.get(name.rpartition("/")[2], range(len(shape)))  # there: height, width, inputs, outputs or 1
        tensors[name], start = values.permute(*axes).contiguous(), start + codes.nbytes
    return tensors


DETECTOR = "faceapi68"  # of the landmark error: a network that no loss uses
PERSONS = "faceapi128"  # of the likeness, likewise
