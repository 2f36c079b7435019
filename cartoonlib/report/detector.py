"""The landmark detector of the evaluation, which no loss uses."""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataset.folders import npm_package
from ..landmarks import Square, _Frozen

FACEAPI_SQUARE = Square(0.5, 0.66, 0.82)


class FaceApiLandmarks(_Frozen):
    """68 points by face-api.js's separable dense network (MIT licence): an independent detector for evaluation.

    The weights are those of the npm package @vladmandic/face-api, which is fetched when it is absent.
    """

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterDict(faceapi_weights(npm_package("@vladmandic/face-api")))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces (B, 3, H, W) in [-1, 1] -> points (B, 68, 2) in units of the image side."""
        mean = images.new_tensor([122.782, 117.001, 104.298])[:, None, None]  # RGB of the training images
        x = (FACEAPI_SQUARE.crop(images, 112) + 1) / 2 - mean / 255
        for block in range(4):
            total = self._convolution(x, f"dense{block}/conv0", stride=2).relu()
            x = total
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


def faceapi_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of face-api's 68-point network from its unpacked npm package, by their names there, in torch's layout."""
    stem = folder / "model" / "face_landmark_68_model"
    manifest = json.loads(Path(f"{stem}-weights_manifest.json").read_text(encoding="utf-8"))
    content = np.frombuffer(Path(f"{stem}.bin").read_bytes(), np.uint8)
    layouts = {"depthwise_filter": (2, 3, 0, 1), "pointwise_filter": (3, 2, 0, 1), "filters": (3, 2, 0, 1)}
    tensors, start = {}, 0
    for entry in manifest[0]["weights"]:  # 8-bit codes, one tensor after the other
        name, shape, code = entry["name"], entry["shape"], entry["quantization"]
        codes = content[start : start + math.prod(shape)].reshape(shape)
        values = torch.from_numpy(codes * np.float32(code["scale"]) + np.float32(code["min"]))
        axes = layouts.get(name.rpartition("/")[2], range(len(shape)))  # there: height, width, inputs, outputs or 1
        tensors[name], start = values.permute(*axes).contiguous(), start + codes.size
    return tensors


DETECTOR = "faceapi68"  # of the landmark error: a network that no loss uses
