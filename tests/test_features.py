import copy
import hashlib
from urllib.error import URLError

import pytest
import torch
from torch import nn

from cartoonlib import features, files
from cartoonlib.features import VGG19_FILES, vgg19_conv4_4
from cartoonlib.files import InputError


def frozen(network: nn.Module) -> bool:
    return not network.training and not any(p.requires_grad for p in network.parameters())


# --- EfficientNet-Lite0 ------------------------------------------------------------------------------------------


def test_lite0_shapes(lite0):
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    assert lite0(images).shape == (2, 40, 8, 12)
    assert lite0.embed(images).shape == (2, 112)


def test_lite0_is_trained(lite0, faces_tensor):
    """Features of a pretrained network: a mirrored face is near, another face is farther, noise is farthest."""
    face, other = lite0.embed(faces_tensor)
    mirrored = lite0.embed(faces_tensor.flip(-1))[0]
    noise = lite0.embed(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1)[0]
    assert (face - mirrored).norm() < 0.8 * (face - other).norm() < 0.8 * (face - noise).norm()


def test_lite0_is_frozen_and_passes_gradient_to_the_image(lite0):
    image = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    lite0(image).abs().mean().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
    assert frozen(lite0) and all(p.grad is None for p in lite0.parameters())


def test_training_mode_never_reaches_a_frozen_network(lite0):
    whole = nn.Sequential(lite0).train()
    assert whole.training and frozen(lite0) and not any(m.training for m in lite0.modules())
    before = {k: v.clone() for k, v in lite0.state_dict().items()}
    lite0(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in lite0.state_dict().items())  # batch statistics among them


def test_images_are_normalised_as_for_imagenet(lite0):
    mean = torch.tensor(features.IMAGENET_MEAN).view(1, 3, 1, 1) * 2 - 1
    assert lite0.normalised(mean).abs().max() < 1e-6
    white = lite0.normalised(torch.ones(1, 3, 1, 1)).flatten().tolist()
    assert white == pytest.approx([2.2489, 2.4286, 2.6400], abs=1e-3)
    seen = []
    handle = lite0.layers._conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    lite0(images), lite0.embed(images)
    handle.remove()
    assert len(seen) == 2 and all(torch.equal(x, lite0.normalised(images)) for x in seen)


# --- what the texture discriminator sees ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["EfficientNet-Lite0", "VGG19"])
def early(request, lite0):
    """A network and the number of channels of its early features; VGG19 has random weights."""
    if request.param == "VGG19":
        torch.manual_seed(0)
        return features.Frozen(features.vgg19_layers(), "random"), 256
    return lite0, 24


@pytest.mark.parametrize("size, quarter", [((64, 96), (16, 24)), ((33, 46), (8, 11))])
def test_early_features_lie_at_a_quarter_of_the_size(early, size, quarter):
    network, channels = early
    shape = network.early(torch.rand(2, 3, *size) * 2 - 1).shape
    assert shape[:2] == (2, channels) and network.early_channels == channels
    assert all(0 <= found - wanted <= 1 for found, wanted in zip(shape[2:], quarter))


def test_early_features_have_a_mean_square_of_1_for_each_image(early, faces_tensor):
    faint = torch.cat([faces_tensor, faces_tensor / 10 - 0.5]).requires_grad_()
    maps = early[0].early(faint)
    assert maps.square().mean(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 4, rel=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert early[0].early(faint).dtype == torch.float32


def test_early_features_pass_gradient_to_the_image_and_to_nothing_else(early):
    image = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    early[0].early(image).abs().mean().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
    assert frozen(early[0]) and all(p.grad is None for p in early[0].parameters())


def test_early_features_that_are_all_zero_stay_so():
    network = features.Frozen(nn.Sequential(nn.ReLU()), "no features of black", 3)
    image = torch.full((1, 3, 8, 8), -1.0).requires_grad_()
    maps = network.early(image)
    maps.sum().backward()
    assert (maps == 0).all() and (image.grad == 0).all()  # and not NaN


def test_vgg19_early_ends_after_the_relu_of_conv3_1():
    network, seen = features.Frozen(features.vgg19_layers(), "random"), []
    for layer in network.layers:
        layer.register_forward_hook(lambda layer, _inputs, _output: seen.append(type(layer)))
    maps = network.early(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert seen.count(nn.Conv2d) == 5 and seen[-1] is nn.ReLU and maps.min() == 0


def test_early_features_see_normalised_images(early, monkeypatch):
    images, seen = torch.rand(1, 3, 32, 32) * 2 - 1, []
    _early = early[0]._early
    monkeypatch.setattr(early[0], "_early", lambda x: seen.append(x) or _early(x))
    early[0].early(images)
    assert torch.equal(seen[0], early[0].normalised(images))


# --- VGG19 -------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    for name in VGG19_FILES:
        (tmp_path / name).write_bytes(b"half a file")
        with pytest.raises(InputError, match="SHA-256.*delete it"):
            vgg19_conv4_4()
        (tmp_path / name).unlink()


def test_weights_that_torch_has_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WEIGHTS", tmp_path / "empty")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({"a": torch.ones(1)}, tmp_path / "checkpoints" / "net.pth")
    digest = hashlib.sha256((tmp_path / "checkpoints" / "net.pth").read_bytes()).hexdigest()
    assert files.load_weights({"net.pth": digest[:8]}, "", "net", "")["a"] == 1


@pytest.mark.parametrize("problem", [URLError("no network"), RuntimeError("invalid hash value")])
def test_without_file_and_network_it_says_what_to_do(tmp_path, monkeypatch, problem):
    def load_state_dict_from_url(*_, **__):
        raise problem

    monkeypatch.setattr(files, "WEIGHTS", tmp_path)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", load_state_dict_from_url)
    with pytest.raises(InputError, match="vgg19-dcbb9e9d.pth.*efficientnet_lite0"):
        vgg19_conv4_4()


@pytest.fixture(scope="module")
def vgg19():
    if not any((files.WEIGHTS / name).exists() for name in VGG19_FILES):
        pytest.skip(
            f"no weights of VGG19 at hand: put {' or '.join(VGG19_FILES)} (the second is torchvision's own file) into "
            f"{files.WEIGHTS}, or let $CARTOONLIB_WEIGHTS be the folder that holds it"
        )
    return vgg19_conv4_4()


def test_vgg19_ends_before_the_relu_of_conv4_4(vgg19, faces_tensor):
    maps = vgg19(faces_tensor)
    assert maps.shape == (2, 512, 16, 16)
    assert maps.min() < 0 < maps.max()  # a ReLU would leave no negative value
    convolutions = [layer for layer in vgg19.layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 12 and vgg19.layers[-1] is convolutions[-1]


def test_vgg19_is_frozen_and_passes_gradient_to_the_image(vgg19, faces_tensor):
    image = faces_tensor[:1, :, ::2, ::2].clone().requires_grad_()
    vgg19.train()
    vgg19(image).abs().mean().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0
    assert frozen(vgg19) and all(p.grad is None for p in vgg19.parameters())


def test_vgg19_without_in_place_relu_gives_the_same(vgg19, faces_tensor):
    published = copy.deepcopy(vgg19)
    for layer in published.layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    small = faces_tensor[:1, :, ::2, ::2].clone()
    before = small.clone()
    assert torch.equal(vgg19(small), published(small)) and torch.equal(small, before)


def test_every_perceptual_setting_has_a_network():
    assert set(features.PERCEPTUAL) == {"vgg19", "efficientnet_lite0"}
