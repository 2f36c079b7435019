import kornia
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from cartoonlib.representations import (
    COLOR_SHIFT_RANGES,
    CONTRASTS,
    RELIT,
    SHUT,
    box_mean,
    color_shift_weights,
    edges,
    gated,
    guided_filter,
    in_light_of,
    luma,
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


# --- the photos' light, and how much passes on their faces ---------------------------------------------------------


def face_light(images):
    """Mean and deviation of luma over the middle of the face, (B,) each: rows 0.45 to 0.8, columns 0.3 to 0.7."""
    middle = luma(images)[..., 58:102, 38:90].flatten(1)
    return middle.mean(dim=1), middle.std(dim=1)


def test_luma_is_that_of_bt_601():
    assert luma(torch.eye(3)[:, :, None, None]).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])


@pytest.mark.parametrize("contrast, left", [(1.0, 1.0), (0.8, 0.8), (0.1, CONTRASTS[0]), (9.0, CONTRASTS[1])])
def test_cartoons_go_three_quarters_to_the_light_of_the_photos(faces_tensor, contrast, left):
    """In mean and, within limits, in contrast; `left`: what is left of the contrast that is asked for."""
    assert RELIT == 0.75
    cartoons = faces_tensor.flip(0) * 0.5 + 0.3
    photos = luma(cartoons).expand(-1, 3, -1, -1) * contrast - 0.4  # the same picture in another light, and grey
    found = in_light_of(cartoons, photos)
    (mean, deviation), (wanted, _), (moved, made) = map(face_light, (cartoons, photos, found))
    assert torch.allclose(moved, mean + 0.75 * (wanted - mean), atol=1e-4)
    assert torch.allclose(made, deviation * (1 + 0.75 * (left - 1)), rtol=1e-2)
    assert torch.allclose(found - luma(found), cartoons - luma(cartoons), atol=1e-5)  # the colours stay
    assert torch.allclose(in_light_of(cartoons[1:], photos[1:]), found[1:])  # image by image


def test_a_cartoon_in_its_own_light_stays_as_it_is_and_a_flat_one_is_finite(faces_tensor):
    assert torch.allclose(in_light_of(faces_tensor, faces_tensor), faces_tensor, atol=1e-5)
    flat = torch.zeros_like(faces_tensor)
    assert in_light_of(flat, faces_tensor).isfinite().all() and in_light_of(faces_tensor, flat).isfinite().all()


def test_edges_are_the_largest_steps_within_a_pixel():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 0.5
    expected = torch.zeros(16)
    expected[6:10] = 0.5  # the two columns of the step, and one beside each
    assert torch.allclose(edges(image), expected.expand(1, 1, 16, 16))
    assert torch.allclose(edges(image.mT), expected[:, None].expand(1, 1, 16, 16))
    assert edges(torch.full((1, 3, 8, 8), 0.3)).max() == 0 and not edges(image.requires_grad_()).requires_grad


def passed(photo):
    """How much of a gradient passes the gate at each pixel, (H, W); the values must be those that were given."""
    images = torch.randn(photo.shape, generator=rng()).requires_grad_()
    found = gated(images, photo)
    assert torch.allclose(found, images, atol=1e-6)
    found.sum().backward()
    assert torch.allclose(images.grad, images.grad[:, :1].expand_as(images))
    return images.grad[0, 0]


def test_little_passes_where_a_face_is_flat_and_all_of_it_outside():
    gate = passed(torch.zeros(1, 3, 128, 128))
    assert gate[64, 64].item() == gate.min().item() == pytest.approx(1 - SHUT, abs=1e-4)
    assert gate[24:104, 64].max() < 0.5 and gate[64, 36:92].max() < 0.5  # an oval, higher than wide
    assert (
        torch.cat([gate[:4].flatten(), gate[-4:].flatten(), gate[:, :16].flatten(), gate[:, -16:].flatten()]).min()
        > 0.9
    )
    assert torch.allclose(gate, gate.flip(0), atol=1e-5) and torch.allclose(gate, gate.flip(1), atol=1e-5)


def test_all_of_it_passes_at_edges_of_the_face():
    photo = torch.zeros(1, 3, 128, 128)
    photo[..., 64:] = 1
    gate = passed(photo)
    assert gate[64, 62:66].min() > 0.999 and gate[64, [60, 67]].max() < 0.3
    shade = torch.zeros(1, 3, 128, 128)
    shade[..., 64:] = 0.04  # a shade, half of an edge
    assert 0.3 < passed(shade)[64, 63].item() < 0.6


def test_the_gate_has_no_gradient_for_the_photo(faces_tensor):
    photo = faces_tensor.clone().requires_grad_()
    gated(torch.zeros_like(photo).requires_grad_(), photo).sum().backward()
    assert photo.grad is None
