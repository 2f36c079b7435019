import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cartoonlib.networks import (
    Generator,
    PatchDiscriminator,
    ResidualBlock,
    count_parameters,
    load_generator,
    save_generator,
)
from cartoonlib.representations import guided_filter

DEAD_IN_THE_SEED = 64 * 64 * 9 + 64 + 32 * 32 * 9 + 32  # the second convolutions of both up-sampling blocks: 46,176


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def dead_parameters(module: nn.Module, *inputs: torch.Tensor) -> int:
    """How many numbers get no gradient; none may get a gradient that is not finite."""
    output = module(*inputs)
    (output * images(*output.shape, seed=1)).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    return sum(p.numel() if p.grad is None else int((p.grad == 0).sum()) for p in module.parameters())


def test_numbers_of_parameters():
    assert count_parameters(Generator()) == 1_467_075
    assert count_parameters(Generator(skips=False)) == 1_467_075  # they exist and do nothing
    assert count_parameters(PatchDiscriminator(3)) - count_parameters(PatchDiscriminator(1)) == 2 * 32 * 9
    feature_head = count_parameters(PatchDiscriminator(1, features=24)) - count_parameters(PatchDiscriminator(1))
    assert feature_head == (24 + 1) * 128 + (128 * 9 + 1) * 128 + 128 + 1
    assert count_parameters(Generator().requires_grad_(False)) == 0


@pytest.mark.parametrize("settings", [{}, {"tanh": True}, {"slope": 0.01}])
def test_no_parameter_of_the_generator_is_dead(settings):
    torch.manual_seed(0)
    assert dead_parameters(Generator(**settings), images(2, 3, 32, 32)) == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_no_parameter_of_a_discriminator_is_dead(channels, sigmoid):
    torch.manual_seed(0)
    assert dead_parameters(PatchDiscriminator(channels, sigmoid=sigmoid), images(2, channels, 32, 32)) == 0


def test_no_parameter_of_a_discriminator_with_features_is_dead():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, features=24)
    assert dead_parameters(discriminator, images(2, 1, 32, 32), images(2, 24, 8, 8)) == 0


def test_without_skips_the_seeds_parameters_are_dead():
    torch.manual_seed(0)
    assert dead_parameters(Generator(skips=False), images(2, 3, 32, 32)) == DEAD_IN_THE_SEED == 46_176


def test_both_skips_carry_signal():
    """With the deeper layers silenced, what comes out still depends on the photo."""
    torch.manual_seed(0)
    generator = Generator()
    for up in (generator.up1, generator.up2):
        nn.init.zeros_(up[0].weight)
        x = images(1, 3, 32, 32)
        assert (generator.unfiltered(x) - generator.unfiltered(-x)).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(17, 33), (101, 96), (4, 4), (5, 1), (32, 64)])
def test_any_size_comes_back(size):
    generator = Generator().requires_grad_(False)
    photo = images(1, 3, *size)
    output = generator(photo)
    assert output.shape == photo.shape and output.dtype == torch.float32 and output.isfinite().all()
    padded = F.pad(photo, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
    same = generator.unfiltered(padded)[..., : size[0], : size[1]]
    assert torch.allclose(generator.unfiltered(photo), same, atol=1e-6)


def test_the_output_is_filtered_with_the_photo_as_guide():
    generator = Generator(filter_eps=0.1).requires_grad_(False)
    photo = images(1, 3, 16, 16)
    expected = guided_filter(photo, generator.unfiltered(photo), radius=1, eps=0.1)
    assert torch.equal(generator(photo), expected)
    assert not torch.allclose(generator(photo), guided_filter(photo, generator.unfiltered(photo), radius=1, eps=0.01))


def test_far_pixels_do_not_matter():
    """No statistic runs over the whole image, so a large photo can be done in tiles."""
    generator = Generator().requires_grad_(False)
    photo = images(1, 3, 256, 16)
    changed = photo.clone()
    changed[:, :, :64] = 1
    difference = (generator(photo) - generator(changed)).abs().amax(dim=(0, 1, 3))
    assert difference[:64].max() > 0 and difference[-64:].max() == 0


def test_linear_output_can_leave_the_range_and_tanh_cannot():
    linear, bounded = Generator().requires_grad_(False), Generator(tanh=True).requires_grad_(False)
    for generator in (linear, bounded):
        generator.tail.bias += 3
    photo = images(1, 3, 16, 16)
    assert linear(photo).max() > 1.5
    assert bounded.unfiltered(photo).abs().max() <= 1


def test_the_defaults_are_whiteboxes_but_for_the_padding():
    settings = {"slope": 0.2, "tanh": False, "skips": True, "padding": "replicate"}
    settings |= {"filter_eps": 0.01, "filter_radius": 1}
    assert Generator().settings() == settings
    assert PatchDiscriminator(3).layers[1].negative_slope == 0.2


def test_blocks_start_near_the_identity():
    block = ResidualBlock(128, slope=0.2, padding="zeros")
    x = images(1, 128, 8, 8)
    assert 0 < (block(x) - x).std() < 0.1 * x.std()


def test_the_slope_is_used_everywhere():
    activations = []
    steep, flat = Generator(slope=0.5).requires_grad_(False), Generator(slope=0.01).requires_grad_(False)
    flat.load_state_dict(steep.state_dict())
    photo = images(1, 3, 16, 16)
    for generator in (steep, flat):
        assert generator.blocks[0].slope == generator.slope
        activations.append(generator._act(torch.tensor(-1.0)).item())
    assert activations == pytest.approx([-0.5, -0.01])
    assert not torch.allclose(steep(photo), flat(photo))
    discriminator = PatchDiscriminator(3, slope=0.01, features=24)
    leaky = [layer for layer in discriminator.modules() if isinstance(layer, nn.LeakyReLU)]
    assert len(leaky) == 6 + 2 and all(layer.negative_slope == 0.01 for layer in leaky)


def test_scores_are_patches_and_only_the_seeds_are_bounded():
    x = images(2, 1, 40, 64)
    free, bounded = PatchDiscriminator(1).requires_grad_(False), PatchDiscriminator(1, sigmoid=True)
    assert free(x).shape == (2, 1, 5, 8)
    free.layers[-1].bias += 5
    assert free(x).max() > 1
    scores = bounded(x)
    assert 0 < scores.min() and scores.max() < 1


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (33, 47), (101, 96), (4, 5)])
def test_the_scores_of_the_features_follow_those_of_the_image(size):
    x, features = images(2, 1, *size), images(2, 24, *(side // 4 for side in size))
    discriminator = PatchDiscriminator(1, features=24).requires_grad_(False).eval()
    scores, count = discriminator(x, features), math.prod(-(-side // 8) for side in size)
    assert scores.shape == (2, count + math.prod(-(-(side // 4) // 2) for side in size))
    other_image, other_features = discriminator(-x, features), discriminator(x, -features)
    assert torch.equal(scores[:, :count], other_features[:, :count])
    assert torch.equal(scores[:, count:], other_image[:, count:])
    assert not (scores == other_image)[:, :count].any() and not (scores == other_features)[:, count:].any()


def test_every_convolution_of_a_discriminator_has_spectral_norm_one():
    discriminator = PatchDiscriminator(3, features=24).requires_grad_(False)
    for _ in range(40):  # the power iteration goes on in every forward pass of training
        discriminator(images(1, 3, 16, 16), images(1, 24, 4, 4))
    discriminator.eval()
    layers = (*discriminator.layers, *discriminator.feature_layers)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in convolutions]
    assert len(norms) == 7 + 3 and norms == pytest.approx([1.0] * 10, abs=0.1)


def test_a_file_that_names_no_padding_and_no_radius_is_drawn_as_it_was(tmp_path):
    """Files of before these settings had zeros and 1."""
    generator = Generator(filter_radius=1, padding="zeros")
    about = generator.settings()
    del about["filter_radius"], about["padding"]
    generator.settings = lambda: about
    save_generator(generator, tmp_path / "old.safetensors")
    loaded = load_generator(tmp_path / "old.safetensors")
    assert (loaded.filter_radius, loaded.padding) == (1, "zeros")


def test_a_saved_generator_comes_back_to_the_bit(tmp_path):
    generator = Generator(slope=0.3, tanh=True, skips=False, filter_eps=0.07, filter_radius=3)
    save_generator(generator, tmp_path / "new" / "generator.safetensors", title="a test")
    loaded = load_generator(tmp_path / "new" / "generator.safetensors")
    photo = images(1, 3, 20, 24)
    assert loaded.settings() == generator.settings() and not loaded.training
    assert torch.equal(loaded(photo), generator(photo).detach())
    assert count_parameters(loaded) == 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["generator.safetensors"]  # no temporary file is left
