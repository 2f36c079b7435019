"""Faces: found by MTCNN, and aligned, so that eyes, nose and mouth lie at fixed places of a square."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..files import InputError

LARGEST_SIDE = 1024  # pixels; larger images are shrunk for detection
SMALLEST_SIDE = 20  # pixels; MTCNN's smallest face
# Mean MTCNN points of 206 faces with the framing of FFHQ's thumbnails, made symmetrical and rounded. Units: image side.
CANONICAL = np.array([[0.377, 0.472], [0.623, 0.472], [0.5, 0.617], [0.386, 0.724], [0.614, 0.724]], dtype=np.float32)


class Face(NamedTuple):
    """A detected face: points (5, 2), see landmarks.py, and box (left, top, right, bottom) in pixels, float64."""

    points: np.ndarray
    box: np.ndarray
    probability: float


@lru_cache
def _detector():
    from facenet_pytorch import MTCNN

    return MTCNN(min_face_size=SMALLEST_SIDE, keep_all=True, device=torch.device("cpu"))


def detect_faces(image: np.ndarray) -> list[Face]:
    """All faces in an image, uint8 (H, W, 3) RGB of any size, the largest first; InputError for another array.

    The detector is MTCNN (Zhang et al. 2016) with facenet-pytorch's weights.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"Face detection takes RGB images, uint8 H x W x 3, not {image.dtype} {image.shape}.")
    height, width = image.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    if min(height, width) * scale < SMALLEST_SIDE:
        return []
    if scale < 1:
        shrunk = (round(width * scale), round(height * scale))
        image = np.asarray(Image.fromarray(image).resize(shrunk, Image.Resampling.BILINEAR))
    boxes, probabilities, points = _detector().detect(image, landmarks=True)
    if boxes is None:
        return []
    ratio = np.array([width / image.shape[1], height / image.shape[0]])
    boxes, points = boxes.astype(np.float64) * np.tile(ratio, 2), points.astype(np.float64) * ratio
    return [Face(p, box, float(q)) for p, box, q in zip(points, boxes, probabilities, strict=True)]


def align(image: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn, scale and shift a face so that its points lie near CANONICAL (least squares over similarity transforms).

    image: uint8 (H, W, 3); points: (5, 2) in pixels. Returns the face, uint8 (size, size, 3), its borders reflected,
    antialiased, and its points (5, 2) float32 in units of the side. Raises InputError when the points coincide.
    """
    matrix, offset = _similarity(points)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ matrix.T + offset
    first = np.floor(corners.min(axis=0)).astype(int) - 2
    last = np.ceil(corners.max(axis=0)).astype(int) + 2
    rows = _reflect(np.arange(first[1], last[1]), image.shape[0])
    columns = _reflect(np.arange(first[0], last[0]), image.shape[1])
    region = Image.fromarray(image[rows[:, None], columns])
    shrink = math.hypot(*matrix[0]) / size  # source pixels per pixel of the result
    samples = max(1, math.ceil(shrink - 0.05))  # a finer grid, averaged below, is the antialiasing
    side = size * samples
    coefficients = np.column_stack((matrix / side, offset - first)).ravel()
    aligned = region.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(aligned.reduce(samples)), ((points - offset) @ np.linalg.inv(matrix).T).astype(np.float32)


def cut_off(points: np.ndarray, height: int, width: int) -> float:
    """Share of the aligned face that lies outside its picture, where `align` reflects.

    points: (5, 2), in pixels; height, width: of the picture, in pixels.
    """
    matrix, offset = _similarity(points)
    centres = (np.arange(16) + 0.5) / 16
    grid = np.stack(np.meshgrid(centres, centres), axis=-1) @ matrix.T + offset
    return float(((grid < 0) | (grid > (width, height))).any(axis=-1).mean())


def _similarity(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares (matrix (2, 2), offset (2,)) without reflection: points ~ CANONICAL @ matrix.T + offset."""
    source, target = CANONICAL.astype(np.float64), np.asarray(points, np.float64)
    x, y = source - source.mean(axis=0), target - target.mean(axis=0)
    real, imaginary = (x * y).sum(), (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum()
    a, b = np.array([real, imaginary]) / (x**2).sum()
    if not math.hypot(a, b) > 1e-3:  # also when a coordinate is not a number
        raise InputError("The five landmarks of this face coincide or are not numbers: leave the image out.")
    matrix = np.array([[a, -b], [b, a]])
    return matrix, target.mean(axis=0) - matrix @ source.mean(axis=0)


def _reflect(indices: np.ndarray, length: int) -> np.ndarray:
    """Indices of any value, reflected at both borders (the border pixel repeats) into [0, length)."""
    indices = indices % (2 * length)
    return np.minimum(indices, 2 * length - 1 - indices)
