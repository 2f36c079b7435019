"""The six losses, the anchor and the loss of the discriminators: pure functions of tensors.

Each but the last is named as its weight in the profile (`weights:`), and the generator minimises their weighted sum
(White-box eq. 6, and the landmark loss).

The losses are scale-free, so that weights carry over from one resolution and perceptual network to another: content and
structure are relative to the size of the features that they compare, the anchor is a mean over pixels, landmarks are in
units of the face's width. Total variation is per pixel: a picture of twice the size has smaller steps and a smaller
value. `report.published` converts the published weights.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .device import mean_over_processes
from .representations import EDGE, box_mean, edges

CHROMA, SLOPES = 2.0, 2.0  # of the anchor: how much dearer than of luma a difference of chroma is, and one of slopes
# Brightness, of 1, at which a difference has its plain price, that of light skin; and how much is added to it and to
# the photo's before they are divided, so that the price ends at 5 in black.
USUAL, OFFSET = 0.6, 0.15
# RGB to luma and chroma of ITU-R BT.601; the rows are Y, U (blue - luma) and V (red - luma).
RGB_TO_YUV = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def relative_l1(features: Tensor, target: Tensor) -> Tensor:
    """Mean over images of mean |features - target| / mean |target|: (B, C, H, W) each -> scalar.

    Image by image, so that a batch split over several processes has the same loss. No gradient flows to the target.
    """
    target = target.detach().float()
    distance = (features.float() - target).abs().mean(dim=(1, 2, 3))
    return (distance / (target.abs().mean(dim=(1, 2, 3)) + 1e-8)).mean()


def content(output_features: Tensor, photo_features: Tensor) -> Tensor:
    """L1 between the features of output and photo (White-box eq. 8): keeps what the photo shows.

    White-box divides by C * H * W, here their mean magnitude does: weights hold for any network and resolution.
    """
    return relative_l1(output_features, photo_features)


def anchor(output: Tensor, target: Tensor) -> Tensor:
    """L1 between output and target, and between their slopes, (B, 3, H, W) in [-1, 1] -> scalar. Not in the paper.

    The target is what the structure start taught (see looks.py), or the photo where there was none. The texture branch
    sees grey images, and deep features hardly see hue, so nothing else holds the colour of skin: without this term red
    and green patches spread over faces. Luma and chroma are compared, chroma CHROMA times as dear, so that a style may
    shade a picture and hardly tint it. Slopes, differences of neighbours, count SLOPES times: L1 alone is content
    with a soft line. All of it is dearer in the dark, where mouth and nose differ least from the skin around them.
    """
    price = _dearness(target)
    difference = _yuv(output.float() - target.float()) * (price / mean_over_processes(price.mean()))
    slopes = [difference.diff(dim=dim) for dim in (-2, -1)]
    return _luma_and_chroma(difference) + SLOPES * sum(map(_luma_and_chroma, slopes))


def _luma_and_chroma(difference: Tensor) -> Tensor:
    return difference[:, 0].abs().mean() + CHROMA * difference[:, 1:].abs().sum(dim=1).mean()


def _yuv(images: Tensor) -> Tensor:
    """Luma and chroma of ITU-R BT.601: (B, 3, H, W) -> (B, 3, H, W)."""
    return (_yuv_matrix(images.device) @ images.flatten(2)).unflatten(2, images.shape[2:])


@lru_cache
def _yuv_matrix(device: torch.device) -> Tensor:
    """Copied to the device once, for a copy in every step would wait for it."""
    return torch.tensor(RGB_TO_YUV, device=device)


def structure(output_features: Tensor, structure_features: Tensor) -> Tensor:
    """L1 between the features of the output and of its own superpixel version (White-box eq. 3): flattens regions."""
    return relative_l1(output_features, structure_features)


def total_variation(images: Tensor, photo: Tensor | None = None) -> Tensor:
    """Mean squared difference of vertical and of horizontal neighbours (White-box eq. 7), (B, C, H, W) -> scalar.

    With the photo, (B, 3, H, W), differences are absolute and count where that is smooth, fading within a pixel of its
    edges: contours may grow on edges that are there, while strokes across a cheek and ripples cost, and regions become
    flat, for absolute differences, unlike squared ones, leave no slope cheaper than one step. They cost more where the
    photo is darker: at one price everywhere, drawings with light skin and dark hair teach the generator to draw strands
    of hair on dark skin, where they differ least from it. And they are those of luma and chroma, added up: were they
    of red, green and blue, green alone would be the cheapest way to change grey, and strokes magenta.
    Not in the paper, whose loss cannot tell a contour from noise.
    """
    images = images.float()
    if photo is None:
        return images.diff(dim=-2).square().mean() + images.diff(dim=-1).square().mean()
    images = _yuv(images)
    vertical, horizontal = (_absolute(images.diff(dim=dim)).sum(dim=1, keepdim=True) for dim in (-2, -1))
    price = _price(photo)
    return (price[..., 1:, :] * vertical).mean() + (price[..., :, 1:] * horizontal).mean()


def _absolute(x: Tensor) -> Tensor:
    """|x|, rounded off near 0, where its derivative jumps and a step would overshoot."""
    return (x.square() + 1e-4).sqrt() - 1e-2


@torch.no_grad()
def _price(photo: Tensor) -> Tensor:
    """Of a difference: 1 where a photo is flat and as bright as skin, more where darker, falling to 0 at its edges.

    (B, 3, H, W) -> (B, 1, H, W).
    """
    return torch.exp(-edges(photo) / EDGE) * _dearness(photo)


@torch.no_grad()
def _dearness(photo: Tensor) -> Tensor:
    """Of a difference: 1 where a photo is as bright as light skin, up to 5 in black; (B, 3, H, W) -> (B, 1, H, W)."""
    grey = photo.float().mean(dim=1, keepdim=True)
    brightness = box_mean(grey, max(1, round(grey.shape[-1] / 32))) / 2 + 0.5
    return (USUAL + OFFSET) / (brightness + OFFSET)


def landmark(output_points: Tensor, photo_points: Tensor, face_width: float) -> Tensor:
    """Mean distance between the landmarks of output and photo, in units of the face's width.

    The original report has this loss in its formula and not in its code. (B, K, 2) each, in units of the image's
    side; `face_width` is the width of the face in the same units. No gradient flows to the photo's points.
    """
    difference = output_points - photo_points.detach()
    # The derivative of a norm is undefined at 0, where output and photo agree; eps keeps it finite.
    return (difference.square().sum(dim=-1) + 1e-12).sqrt().sub(1e-6).mean() / face_width


def surface(fake_scores: Tensor) -> Tensor:
    """Adversarial loss of the surface branch (White-box eq. 1): D sees guided-filtered outputs and cartoons.

    Least squares, mean (D(fake) - 1)^2 (Mao et al. 2017): White-box writes the logarithmic form and implements this
    one. Scores of any shape -> scalar; 1 where D is sure that it sees an output.
    """
    return _least_squares(fake_scores)


def texture(fake_scores: Tensor) -> Tensor:
    """Adversarial loss of the texture branch (White-box eq. 5), as surface: D sees colour-shifted pictures."""
    return _least_squares(fake_scores)


def _least_squares(fake_scores: Tensor) -> Tensor:
    return F.mse_loss(fake_scores.float(), torch.ones_like(fake_scores, dtype=torch.float32))


def discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Least-squares loss of a discriminator: (mean (D(real) - 1)^2 + mean D(fake)^2) / 2; 0.25 when it cannot tell."""
    return (real_scores.float() - 1).square().mean() / 2 + fake_scores.float().square().mean() / 2
