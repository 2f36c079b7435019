import kornia
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from cartoonlib.representations import (
    COLOR_SHIFT_RANGES,
    box_mean,
    color_shift_weights,
    guided_filter,
    surface,
    texture,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- surface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 5])
def test_box_mean_is_the_average_of_the_window(radius):
    x = torch.randn(2, 3, 17, 23, generator=rng())
    naive = F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)
    assert torch.allclose(box_mean(x, radius), naive, atol=1e-5)


def test_box_mean_never_pools_in_channels_last_on_a_gpu():
    """There padded pooling has had a wrong gradient. What is pooled keeps its layout, and fake tensors need no GPU."""
    with FakeTensorMode():
        x = torch.empty(2, 3, 17, 23, device="cuda").contiguous(memory_format=torch.channels_last)
        assert box_mean(x, 2).is_contiguous()


@pytest.mark.gpu
@pytest.mark.parametrize("function", [surface, lambda x: guided_filter(x.detach().flip(0), x, 2, 1e-2)])
def test_gradients_are_those_of_the_processor_on_a_gpu(function, faces_tensor):
    weights, gradients = torch.randn(faces_tensor.shape, generator=rng()), []
    for device in ("cpu", "cuda"):
        x = faces_tensor.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
        (function(x) * weights.to(device)).sum().backward()
        gradients.append(x.grad.cpu())
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("radius, eps", [(1, 1e-2), (5, 0.2)])
def test_guided_filter_equals_kornias_inside_the_border(faces_tensor, radius, eps):
    guide, source = faces_tensor[:, :, 40:90, 40:80], faces_tensor[:, :, 30:80, 50:90]
    ours = guided_filter(guide, source, radius, eps)
    channels = [x.reshape(6, 1, 50, 40) for x in (guide, source)]
    theirs = kornia.filters.guided_blur(*channels, 2 * radius + 1, eps).reshape(2, 3, 50, 40)
    inside = slice(2 * radius, -2 * radius)
    assert torch.allclose(ours[..., inside, inside], theirs[..., inside, inside], atol=1e-5)


def test_guided_filter_keeps_a_constant_and_follows_its_guide():
    constant = torch.full((1, 3, 20, 20), 0.3)
    assert torch.allclose(guided_filter(torch.randn(1, 3, 20, 20, generator=rng()), constant, 2, 1e-2), constant)
    step = torch.zeros(1, 1, 20, 20)
    step[..., 10:] = 1
    assert (guided_filter(step, step, 1, 1e-4) - step).abs().max() < 0.01  # an edge of the guide stays
    assert (guided_filter(step * 0, step, 1, 1e-4) - step).abs().max() > 0.3  # any other is blurred


def test_guided_filter_computes_in_float32_under_autocast(faces_tensor):
    expected = guided_filter(faces_tensor, faces_tensor, 1, 1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        output = guided_filter(faces_tensor, faces_tensor, 1, 1e-2)
        half = guided_filter(faces_tensor.bfloat16(), faces_tensor.bfloat16(), 1, 1e-2)
    assert torch.equal(output, expected) and half.dtype == torch.float32


def test_surface_drops_texture_at_any_size(faces_tensor):
    noisy = (faces_tensor + 0.1 * torch.randn(faces_tensor.shape, generator=rng())).clamp(-1, 1)
    assert surface(noisy).diff(dim=-1).abs().mean() < 0.5 * noisy.diff(dim=-1).abs().mean()
    large = F.interpolate(faces_tensor, 256, mode="bilinear")  # the same part of a face at every resolution
    assert (F.interpolate(surface(large), 128, mode="area") - surface(faces_tensor)).abs().mean() < 0.02


# --- texture -----------------------------------------------------------------------------------------------------


def test_color_shift_weights_add_up_to_one_and_are_in_range():
    weights = torch.cat([color_shift_weights(rng(seed)) for seed in range(200)])
    assert weights.shape == (200, 3, 1, 1)
    assert torch.allclose(weights.sum(dim=1), torch.ones(200, 1, 1))
    low, high = torch.tensor(COLOR_SHIFT_RANGES).T
    for c in range(3):  # lowest share: the others are high
        others = [i for i in range(3) if i != c]
        smallest, largest = low[c] / (low[c] + high[others].sum()), high[c] / (high[c] + low[others].sum())
        assert smallest <= weights[:, c].min() and weights[:, c].max() <= largest
        assert weights[:, c].max() - weights[:, c].min() > 0.5 * (largest - smallest)
    assert torch.allclose(weights.mean(dim=0).flatten(), torch.tensor([0.299, 0.587, 0.114]), atol=0.02)
    assert torch.equal(color_shift_weights(rng(3)), color_shift_weights(rng(3)))


def test_one_draw_for_the_batch_or_one_for_every_pixel():
    flat = torch.tensor([0.9, -0.3, 0.1]).view(1, 3, 1, 1).expand(4, 3, 8, 8)
    once = texture(flat, color_shift_weights(rng()))
    assert once.shape == (4, 1, 8, 8) and once.std() < 1e-6
    noise = texture(flat, color_shift_weights(rng(), (8, 8)))
    assert noise.shape == (4, 1, 8, 8) and noise[0].std() > 0.01
    assert torch.equal(noise[0], noise[3])


@pytest.mark.parametrize("shape", [(1, 1), (8, 8)])
def test_a_grey_image_is_its_own_texture(shape):
    grey = torch.rand(2, 1, 8, 8, generator=rng())
    assert torch.allclose(texture(grey.expand(2, 3, 8, 8), color_shift_weights(rng(), shape)), grey, atol=1e-6)
