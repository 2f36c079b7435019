"""The six losses and the least-squares adversarial pair: pure functions of tensors.

The losses are scale-free, so that weights carry over from one resolution and perceptual network to another: content and
structure are relative to the size of the features that they compare, colour is a mean over pixels, landmarks are in
units of the face's width. Total variation is per pixel: a picture of twice the size has smaller steps and a smaller
value. `profiles.scale_free_weights` converts the published weights.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .representations import box_mean

# RGB to luma and chroma of ITU-R BT.601; the rows are Y, U (blue - luma) and V (red - luma).
RGB_TO_YUV = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))


def relative_l1(features: Tensor, target: Tensor) -> Tensor:
    """Mean over images of mean |features - target| / mean |target|, (B, C, H, W) each -> scalar, 0 where they are equal.

    Image by image, so that a batch split over several processes has the same loss. No gradient flows to the target.
    """
    target = target.detach().float()
    distance = (features.float() - target).abs().mean(dim=(1, 2, 3))
    return (distance / (target.abs().mean(dim=(1, 2, 3)) + 1e-8)).mean()


def content(output_features: Tensor, photo_features: Tensor) -> Tensor:
    """L1 between the features of output and photo (White-box eq. 8): keeps what the photo shows.

    White-box divides by C * H * W of the features; dividing by their mean magnitude instead makes the weight
    independent of the network and of the resolution.
    """
    return relative_l1(output_features, photo_features)


def color(output: Tensor, photo: Tensor) -> Tensor:
    """L1 between the local mean colours (YUV) of output and photo, (B, 3, H, W) in [-1, 1]. Not in the paper.

    Part of the content loss with a weight of its own. The texture branch sees grey images, and deep features hardly
    see hue, so nothing else holds the colour of skin: without this term red and green patches spread over faces,
    light skin bleaches and dark skin darkens. The window (1/16 of the side) leaves contours free.
    """
    difference = torch.einsum("yc,bchw->byhw", _yuv_matrix(output.device), output.float() - photo.detach().float())
    return box_mean(difference, max(1, output.shape[-1] // 32)).abs().mean()


@lru_cache
def _yuv_matrix(device: torch.device) -> Tensor:
    """Copied to the device once, for a copy in every step would wait for it."""
    return torch.tensor(RGB_TO_YUV, device=device)


def structure(output_features: Tensor, structure_features: Tensor) -> Tensor:
    """L1 between the features of the output and of its own superpixel version (White-box eq. 3): flattens regions."""
    return relative_l1(output_features, structure_features)


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of vertical and of horizontal neighbours (White-box eq. 7), (B, C, H, W) -> scalar."""
    images = images.float()
    vertical = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    horizontal = (images[..., :, 1:] - images[..., :, :-1]).square().mean()
    return vertical + horizontal


def landmark(output_points: Tensor, photo_points: Tensor, face_width: float) -> Tensor:
    """Mean distance between the landmarks of output and photo, in units of the face's width.

    The original report has this loss in its formula and not in its code. (B, K, 2) each, in units of the image's
    side; `face_width` is the width of the face in the same units. No gradient flows to the photo's points.
    """
    difference = output_points - photo_points.detach()
    # The derivative of a norm is undefined at 0, where output and photo agree; eps keeps it finite.
    return (difference.square().sum(dim=-1) + 1e-12).sqrt().sub(1e-6).mean() / face_width


def adversarial_generator(fake_scores: Tensor) -> Tensor:
    """Least-squares loss of the generator: mean (D(fake) - 1)^2 (Mao et al. 2017; White-box eq. 1 and 5).

    Serves the surface branch, where D sees guided-filtered images, and the texture branch, where it sees colour-shifted
    ones. White-box writes the logarithmic form and implements this one.
    """
    return F.mse_loss(fake_scores.float(), torch.ones_like(fake_scores, dtype=torch.float32))


def adversarial_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Least-squares loss of a discriminator: (mean (D(real) - 1)^2 + mean D(fake)^2) / 2; 0.25 when it cannot tell."""
    return (real_scores.float() - 1).square().mean() / 2 + fake_scores.float().square().mean() / 2
