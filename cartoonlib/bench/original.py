"""The training step of the original code, written anew from what is known of it, to be measured beside ours."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from skimage import color, segmentation
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import DataLoader

from .. import features, files, losses, representations
from ..images import to_tensor
from ..networks import Generator, PatchDiscriminator
from ..profile import Profile
from ..report.published import PUBLISHED


def vgg19_without_download() -> features.Frozen:
    """VGG19 up to conv4_4; when its weights are not at hand, with random ones: the time does not depend on them."""
    if weights_at_hand("vgg19"):
        return features.vgg19_conv4_4()
    return features.Frozen(features.vgg19_layers(), "VGG19 conv4_4 with random weights")


def weights_at_hand(perceptual: str) -> bool:
    """Whether a perceptual network can be had without a download."""
    return perceptual != "vgg19" or any((files.WEIGHTS / n).exists() for n in features.VGG19_FILES)


class OriginalStep:
    """The original's training step, with what is known to make it slow: five losses, float32, NCHW, image by image.

    Known, and rebuilt: a new loader iterator for every step; VGG19 collects weight gradients, which nothing clears, for
    photo, output and structure target alike; each image of the batch goes to the host, through scikit-image's SLIC and
    label2rgb, and back; the discriminators collect gradients in the generator's turn; the generator runs again for
    their turn and gets gradients there, for it is not detached; colour-shift weights for every pixel; dead skips,
    LeakyReLU 0.01, tanh, sigmoid, guided filters of eps 0.1 (output) and 0.2 (surface); Adam with its defaults.

    Not known, or not to be had, and built so that it should not slow the original down:
    - joblib is not installed: threads of a pool that stays, one a core, which copy nothing (SLIC lets others run; on
      many cores processes may be faster);
    - label2rgb(kind="mix") raises today: kind="avg";
    - the images come out of memory, not out of files, and the loader starts no workers;
    - VGG19 sees the output once for both of its losses;
    - the guided filters are ours, separable; what they return is put back to NCHW;
    - the weights of the colour shift serve both turns of a step.
    """

    def __init__(self, profile: Profile, device: torch.device):
        torch.manual_seed(profile.seed)
        self.profile, self.device, self.dtype = profile, device, torch.float32
        shape = {"slope": 0.01, "tanh": True, "skips": False, "padding": "zeros"}
        self.generator = Generator(**shape, filter_eps=0.1, filter_radius=1).to(device)
        self.d_surface = PatchDiscriminator(3, slope=0.01, sigmoid=True).to(device)
        self.d_texture = PatchDiscriminator(1, slope=0.01, sigmoid=True).to(device)
        self.perceptual = vgg19_without_download().requires_grad_(True).to(device)
        discriminators = [*self.d_surface.parameters(), *self.d_texture.parameters()]
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.99))
        self.d_optimizer = torch.optim.Adam(discriminators, lr=2e-4, betas=(0.5, 0.99))
        self._threads = ThreadPoolExecutor(os.cpu_count())

    def __call__(self, photos: list[np.ndarray], cartoons: list[np.ndarray]) -> dict[str, Tensor]:
        """One update, on a batch out of the images, uint8 (S, S, 3) each; returns the losses."""
        p = self.profile
        how = {"shuffle": True, "drop_last": True, "collate_fn": lambda images: torch.stack([*map(to_tensor, images)])}
        with record_function("loader"):
            loaders = (DataLoader(images, p.batch, **how) for images in (photos, cartoons))
            photo, cartoon = (next(iter(loader)).to(self.device) for loader in loaders)
        grey = representations.color_shift_weights(torch.default_generator, (p.size, p.size)).to(self.device)

        with record_function("generator"):
            output = self.generator(photo).contiguous()
        with record_function("discriminators, generator's turn"):
            surface, texture = self._views(output, grey)
            terms = {"surface": losses.surface(self.d_surface(surface))}
            terms["texture"] = losses.texture(self.d_texture(texture))
        with record_function("superpixels"):
            target = self._superpixels(output)
        with record_function("perceptual"):
            of_photo, of_output, of_target = (self.perceptual(images) for images in (photo, output, target))
        size = of_output[0].numel()
        terms["content"] = torch.nn.functional.l1_loss(of_output, of_photo) / size
        terms["structure"] = torch.nn.functional.l1_loss(of_output, of_target) / size
        terms["total_variation"] = losses.total_variation(output) / output[0].numel()
        total = sum(PUBLISHED["original"][name] * value for name, value in terms.items())
        self.g_optimizer.zero_grad()
        with record_function("backward"):
            total.backward()
        self.g_optimizer.step()

        with record_function("discriminators' turn"):
            fakes = self._views(self.generator(photo).contiguous(), grey)
            reals = self._views(cartoon, grey)
            d_terms = {
                "d_surface": losses.discriminator(self.d_surface(reals[0]), self.d_surface(fakes[0])),
                "d_texture": losses.discriminator(self.d_texture(reals[1]), self.d_texture(fakes[1])),
            }
            self.d_optimizer.zero_grad()
            sum(d_terms.values()).backward()
            self.d_optimizer.step()
        return {name: value.detach() for name, value in (terms | d_terms).items()}

    def _views(self, images: Tensor, grey: Tensor) -> tuple[Tensor, Tensor]:
        surface = representations.guided_filter(images, images, radius=5, eps=0.2).contiguous()
        return surface, representations.texture(images, grey)

    def _superpixels(self, images: Tensor) -> Tensor:
        def paint(image: np.ndarray) -> np.ndarray:
            labels = segmentation.slic(image, self.profile.segments, compactness=10, sigma=1)
            return color.label2rgb(labels, image, kind="avg", bg_label=-1)

        arrays = images.detach().permute(0, 2, 3, 1).cpu().numpy() * 0.5 + 0.5
        painted = np.stack(list(self._threads.map(paint, arrays))).astype(np.float32)
        return torch.from_numpy(painted).permute(0, 3, 1, 2).contiguous().to(self.device) * 2 - 1
