"""The faces in a picture, found by MTCNN."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..files import InputError

LARGEST_SIDE = 1024  # pixels; larger images are shrunk for detection
SMALLEST_SIDE = 20  # pixels; MTCNN's smallest face


@dataclass(frozen=True)
class Face:
    """One detected face: points (5, 2), see landmarks.py, and box (left, top, right, bottom) in pixels, probability in [0, 1]."""

    points: np.ndarray
    box: np.ndarray
    probability: float


def detect_faces(images: list[np.ndarray]) -> list[list[Face]]:
    """Find all faces with MTCNN (Zhang et al. 2016, facenet-pytorch's weights), largest first.

    images: uint8 RGB arrays H x W x 3 of any size; one list of faces per image comes back, empty where there is none.
    Loading the detector costs about as much as one small image: give it many images at once.
    """
    from facenet_pytorch import MTCNN

    mtcnn = MTCNN(min_face_size=SMALLEST_SIDE, keep_all=True, device=torch.device("cpu"))
    return [_detect(mtcnn, image) for image in images]


def _detect(mtcnn, image: np.ndarray) -> list[Face]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"Face detection takes RGB images, uint8 H x W x 3, not {image.dtype} {image.shape}.")
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    if min(height, width) * scale < SMALLEST_SIDE:
        return []
    if scale < 1:
        shrunk = (round(width * scale), round(height * scale))
        image = np.asarray(Image.fromarray(image).resize(shrunk, Image.Resampling.BILINEAR))
    boxes, probabilities, points = mtcnn.detect(image, landmarks=True)
    if boxes is None:
        return []
    ratio = np.array([width / image.shape[1], height / image.shape[0]])
    boxes, points = boxes.astype(np.float64) * np.tile(ratio, 2), points.astype(np.float64) * ratio
    return [Face(p, box, float(q)) for p, box, q in zip(points, boxes, probabilities, strict=True)]
