import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cartoonlib import representations
from cartoonlib.representations import (
    COLOR_SHIFT_RANGES,
    SEGMENTATIONS,
    box_mean,
    color_shift_weights,
    fill_segments,
    guided_filter,
    segment_felzenszwalb,
    structure,
    surface,
    texture,
)  # fmt: skip


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# --- surface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 5])
def test_box_mean_is_the_average_of_the_window(radius):
    x = torch.randn(2, 3, 17, 23, generator=rng())
    naive = F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)
    assert torch.allclose(box_mean(x, radius), naive, atol=1e-5)


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


# --- structure ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def face(face_photos):
    return face_photos[0] / 255


@pytest.mark.parametrize("method", SEGMENTATIONS)
def test_every_segment_has_one_colour(face, faces_tensor, method):
    labels = SEGMENTATIONS[method](face, 100)
    assert labels.min() == 0 and labels.shape == (128, 128)
    filled = fill_segments(face, labels)
    for label in np.unique(labels):
        colours = filled[labels == label]
        assert np.ptp(colours, axis=0).max() == 0
    result = structure(faces_tensor[:1], method, segments=100)
    assert result.shape == (1, 3, 128, 128) and result.dtype == torch.float32 and result.abs().max() <= 1
    assert len(result[0].flatten(1).T.unique(dim=0)) <= labels.max() + 1
    assert np.abs(result[0].permute(1, 2, 0).numpy() / 2 + 0.5 - face).mean() < 0.06  # and it is the picture


def test_slic_has_at_most_the_segments_that_were_asked_for(face):
    for segments in (30, 200):
        assert 0.5 * segments < len(np.unique(SEGMENTATIONS["slic"](face, segments))) <= segments


@pytest.mark.parametrize("segments", [60, 200])
def test_merging_reaches_the_segments_that_were_asked_for(face_photos, segments):
    for photo in face_photos:
        labels = segment_felzenszwalb(photo / 255, segments)
        assert sorted(np.unique(labels)) == list(range(labels.max() + 1))
        assert labels.max() + 1 == segments


def test_the_most_similar_neighbours_are_merged_first():
    """Five stripes; grey levels 0.0 0.3 0.4 0.7 0.72 end as three pairs' worth: neither by order nor by place."""
    stripes = np.repeat([0.0, 0.3, 0.4, 0.7, 0.72], 12)[None, :, None] * np.ones((24, 1, 3))
    labels = segment_felzenszwalb(stripes, 3)[0, 6::12]
    assert labels[1] == labels[2] and labels[3] == labels[4] and len(set(labels)) == 3


def test_an_image_of_few_segments_is_not_merged():
    halves = np.zeros((32, 32, 3))
    halves[:, 16:] = 1
    labels = segment_felzenszwalb(halves, 200)
    assert labels[0, 0] != labels[0, -1]


def test_the_first_segment_is_not_painted_black():
    white = torch.ones(1, 3, 32, 32)
    for method in SEGMENTATIONS:
        assert structure(white, method, segments=9).min() > 0.99


@pytest.mark.parametrize("deviation, share", [(10, 0.0), (30, 0.5), (60, 1.0)])  # on the 0-255 scale; of the median
def test_adaptive_colouring_is_mean_or_median_by_deviation(deviation, share):
    """A segment of three quarters a and one quarter b deviates by sqrt(3)/4 |b - a|; its mean is not its median."""
    a, b = 0.2, 0.2 + deviation / 255 * 4 / np.sqrt(3)
    image = np.full((8, 8, 3), a)
    image[:, 6:] = b
    mean, median = 0.75 * a + 0.25 * b, a
    labels = np.zeros((8, 8), int)
    assert fill_segments(image, labels) == pytest.approx(np.full((8, 8, 3), (1 - share) * mean + share * median))
    assert fill_segments(image, labels, adaptive=False) == pytest.approx(np.full((8, 8, 3), mean))


def test_medians_of_several_segments_and_of_even_counts():
    values = np.random.default_rng(0).random((12, 12, 3))  # deviation 0.29 * 255: all are medians
    labels = np.random.default_rng(1).integers(0, 5, (12, 12)) * 2  # odd labels are empty
    filled = fill_segments(values, labels)
    for label in np.unique(labels):
        assert np.allclose(filled[labels == label][0], np.median(values[labels == label], axis=0))


def test_brighten_brightens_in_range():
    image, labels = np.full((4, 4, 3), 0.4), np.zeros((4, 4), int)
    assert fill_segments(image, labels, brighten=1.2)[0, 0, 0] == pytest.approx(0.4 ** (1 / 1.2))
    assert fill_segments(image, labels, brighten=1.2).max() > 0.4
    extremes = np.array([[[0.0, 0.5, 1.0]]])
    assert fill_segments(extremes, np.zeros((1, 1), int), brighten=1.2)[0, 0, [0, 2]].tolist() == [0, 1]


def test_no_gradient_and_values_outside_the_range():
    image = (torch.randn(1, 3, 32, 32, generator=rng()) * 2).requires_grad_()
    result = structure(image, segments=20)
    assert not result.requires_grad and result.abs().max() <= 1


def test_there_is_one_segmentation_for_each_profile_setting():
    assert set(representations.SEGMENTATIONS) == {"slic", "felzenszwalb"}
