"""The cartoon representations of White-box Cartoonization (Wang & Yu, CVPR 2020, section 3).

Surface: a guided filter keeps the composition and drops the texture (3.1). Structure: superpixels filled with one
colour each (3.2). Texture: one random grey version, so that colour and luminance cannot be used (3.3).
All take and give float images (B, C, H, W) in [-1, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import superpixels


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a (2 radius + 1)-wide window, cut off at the border: float (B, C, H, W) -> (B, C, H, W).

    Columns, then rows, as depthwise convolutions: on a CPU several times faster than pooling. On a GPU convolutions may
    round to TF32, which variances do not survive, so pooling does it there, and not in channels_last, in which padded
    pooling has had a wrong gradient (pytorch/pytorch#188344).
    """
    if x.is_cuda:
        x = x.contiguous()
        x = F.avg_pool2d(x, (2 * radius + 1, 1), stride=1, padding=(radius, 0), count_include_pad=False)
        return F.avg_pool2d(x, (1, 2 * radius + 1), stride=1, padding=(0, radius), count_include_pad=False)
    x = x.contiguous(memory_format=torch.channels_last)
    ones = x.new_ones(x.shape[1], 1, 2 * radius + 1, 1)
    sums = F.conv2d(x, ones, padding=(radius, 0), groups=x.shape[1])
    sums = F.conv2d(sums, ones.transpose(2, 3), padding=(0, radius), groups=x.shape[1])
    rows, columns = (_window_sizes(length, radius, x.device) for length in x.shape[-2:])
    return sums / (rows[:, None] * columns)


def _window_sizes(length: int, radius: int, device: torch.device) -> Tensor:
    """How many pixels the window around each pixel of an axis holds: 2 radius + 1, and fewer at the ends."""
    position = torch.arange(length, device=device)
    return position.clamp(max=radius) + (length - 1 - position).clamp(max=radius) + 1


def guided_filter(guide: Tensor, source: Tensor, radius: int, eps: float) -> Tensor:
    """Guided image filter, channel by channel (He, Sun & Tang, TPAMI 2013, eq. 5, 6 and 8; White-box 3.1).

    Smooths `source` and keeps the edges of `guide`; both (B, C, H, W). `eps` is in squared units of the guide: the
    larger, the stronger the edges that go. In float32, for variances are differences of nearly equal numbers.
    """
    slope, intercept = guided_coefficients(guide, source, radius, eps)
    return slope * guide.float() + intercept


def guided_coefficients(guide: Tensor, source: Tensor, radius: int, eps: float) -> tuple[Tensor, Tensor]:
    """Slope and intercept, (B, C, H, W) each, of the guided filter, whose output is slope * guide + intercept.

    They are smooth, so that those of a small copy can be enlarged and applied to the large guide, whose edges then are
    as sharp as ever (He & Sun 2015, "Fast Guided Filter").
    """
    with torch.autocast(guide.device.type, enabled=False):
        guide, source = guide.float(), source.float()
        mean_guide, mean_source = box_mean(guide, radius), box_mean(source, radius)
        variance = box_mean(guide * guide, radius) - mean_guide**2
        covariance = box_mean(guide * source, radius) - mean_guide * mean_source
        slope = covariance / (variance + eps)
        intercept = mean_source - slope * mean_guide
        return box_mean(slope, radius), box_mean(intercept, radius)


def surface(images: Tensor, radius: int = 5, eps: float = 0.2) -> Tensor:
    """Surface representation: the image filtered with itself as guide (White-box 3.1).

    The radius is in pixels of a 128 px image, and is scaled to the size at hand, so that it means the same part of
    a face at every resolution.
    """
    return guided_filter(images, images, max(1, round(radius * images.shape[-1] / 128)), eps)


EDGE = 0.08  # a step of brightness, of 2, that is an edge of the photo and no shade
# Ranges of the random weights of R, G and B, around the luma weights (.299, .587, .114) of ITU-R BT.601.
COLOR_SHIFT_RANGES = ((0.199, 0.399), (0.487, 0.687), (0.014, 0.214))


def color_shift_weights(generator: torch.Generator, shape: tuple[int, ...] = (1, 1)) -> Tensor:
    """Random weights of a grey version, (1, 3, *shape), adding up to 1.

    One draw for a whole batch and for both domains (shape (1, 1)) is what White-box does. The original draws them anew
    for every pixel (shape (H, W)), which hands white noise to the discriminator.
    """
    low, high = torch.tensor(COLOR_SHIFT_RANGES).T.reshape(2, 1, 3, 1, 1)
    weights = low + (high - low) * torch.rand((1, 3, *shape), generator=generator)
    return weights / weights.sum(dim=1, keepdim=True)


def texture(images: Tensor, weights: Tensor) -> Tensor:
    """Texture representation: random colour shift (White-box eq. 4, without its mix with plain luma, as in its code).

    (B, 3, H, W) and weights (1, 3, 1, 1) or (1, 3, H, W) -> (B, 1, H, W).
    """
    return (images * weights.to(images.device)).sum(dim=1, keepdim=True)


# The middle of an aligned face in units of the side: rows and columns, by which its light is measured.
MIDDLE = (0.45, 0.8), (0.3, 0.7)
RELIT, CONTRASTS = 0.75, (0.7, 1.4)  # how far cartoons go to a photo's light, and by what at most contrast changes


def in_light_of(cartoons: Tensor, photos: Tensor) -> Tensor:
    """Each cartoon in the light of a photo's face, (B, 3, H, W) each -> (B, 3, H, W). Not in the paper.

    Drawings are lighter than any photo, so that discriminators that see them as they are ask for lighter skin.
    """
    light, wanted = luma(cartoons), luma(photos)
    (mean, deviation), (wanted_mean, wanted_deviation) = map(_light_of_face, (light, wanted))
    contrast = (wanted_deviation / deviation).clamp(*CONTRASTS)
    return cartoons + RELIT * (wanted_mean - mean + (contrast - 1) * (light - mean))


def _light_of_face(light: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of luma over the middle of the face, (B, 1, 1, 1) each."""
    (top, bottom), (left, right) = (
        [round(end * length) for end in ends] for ends, length in zip(MIDDLE, light.shape[2:])
    )
    face = light[..., top:bottom, left:right]
    return face.mean(dim=(2, 3), keepdim=True), face.std(dim=(2, 3), keepdim=True) + 1e-4


def luma(images: Tensor) -> Tensor:
    """Brightness by ITU-R BT.601: (B, 3, H, W) -> (B, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


NEIGHBOURS = ((0, 1), (2, 1), (1, 0), (1, 2))  # above, below, left and right in an image padded by 1


@torch.no_grad()
def edges(images: Tensor) -> Tensor:
    """The largest step of brightness within a pixel: (B, 3, H, W) -> (B, 1, H, W)."""
    grey = images.float().mean(dim=1, keepdim=True)
    height, width = grey.shape[-2:]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    steps = [(padded[..., y : y + height, x : x + width] - grey).abs() for y, x in NEIGHBOURS]
    return F.max_pool2d(torch.stack(steps).amax(dim=0), 3, stride=1, padding=1)


OVAL, SHUT = (0.38, 0.30), 0.8  # half axes of the face, in units of the side; how little passes on flat skin


def gated(images: Tensor, photos: Tensor) -> Tensor:
    """The images, (B, 3, H, W), with less gradient where a photo's face is flat. Not in the paper.

    Foreheads of drawings carry hair: without this the texture branch strokes them.
    """
    height, width = photos.shape[2:]
    y, x = (torch.linspace(-0.5, 0.5, n, device=photos.device) / half for n, half in zip((height, width), OVAL))
    face = torch.sigmoid((1 - (x**2 + y[:, None] ** 2).sqrt()) / 0.08)
    passes = 1 - SHUT * torch.exp(-edges(photos) / EDGE) * face
    return passes * images + (1 - passes) * images.detach()


def structure(images: Tensor, segments: int = 200, adaptive: bool = True, brighten: float = 1.0) -> Tensor:
    """Structure representation: superpixels of one colour each (White-box 3.2). No gradient flows through it.

    (B, 3, H, W) in [-1, 1] -> float32 of the same shape. segments: per image; the nearest grid without more is taken.
    adaptive, brighten: see superpixels.fill.
    """
    count = math.prod(superpixels.slic_grid(*images.shape[2:], segments))
    return superpixels.fill(images, superpixels.slic(images, segments), count, adaptive, brighten)
