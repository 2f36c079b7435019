"""What a loss says of a picture and where it pushes it: by hand, for losses whose gradients are known."""

import numpy as np
import pytest
import torch

from cartoonlib.files import InputError
from cartoonlib.images import to_uint8
from cartoonlib.report import pushes


def towards(target):
    """A loss that pulls every pixel towards a picture."""
    return lambda y, x, t: (y - target).abs().mean()


@pytest.fixture
def pictures():
    """Output, photo and target: two small pictures each."""
    return [torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(3)]


def test_each_picture_is_looked_at_alone_beside_its_own_photo_and_target(pictures):
    output, photo, target = pictures
    found = pushes.push(lambda y, x, t: (y * x).sum() + 2 * t.sum(), *pictures)
    expected = [((y * x).sum() + 2 * t.sum()).item() for y, x, t in zip(output, photo, target)]
    assert found.values == pytest.approx(expected)
    assert torch.equal(found.gradient, photo)
    assert not output.requires_grad


def test_a_heat_map_is_orange_where_descent_makes_lighter_violet_where_darker_and_white_elsewhere():
    gradient = torch.zeros(2, 3, 10, 10)
    gradient[0, :, :5, :5], gradient[0, :, 5:, 5:] = -1, 1
    gradient[1] = gradient[0] * 1e-3  # each picture has its own scale
    red, green, blue = pushes.heat_map(gradient)[0].astype(int).transpose(2, 0, 1)
    assert (red > blue + 50)[:5, :5].all() and (blue > green + 50)[5:, 5:].all()
    assert min(red[0, 9], green[0, 9], blue[0, 9]) > 230
    first, second = pushes.heat_map(gradient)
    assert np.array_equal(first, second)
    assert (pushes.heat_map(torch.zeros(1, 3, 4, 4)) > 230).all()


def test_a_picture_that_follows_a_loss_comes_closer_step_by_step(pictures):
    output, photo, target = pictures
    kept = output.clone()
    shown, values = pushes.descend(towards(target), *pictures, steps=20, rate=0.05)
    assert len(shown) == len(values) == 21 and np.array_equal(shown[0], to_uint8(output))
    assert values[0] == pytest.approx((output - target).abs().mean().item())
    assert values[-1] < values[10] < values[0]
    assert torch.equal(output, kept) and not output.requires_grad  # a copy has moved
    assert all(picture.shape == (2, 8, 8, 3) and picture.dtype == np.uint8 for picture in shown)


def test_a_network_inside_a_loss_learns_nothing(pictures):
    network = torch.nn.Conv2d(3, 1, 3)
    before = network.weight.clone()
    pushes.descend(lambda y, x, t: network(y).square().mean(), *pictures, steps=2)
    assert network.weight.grad is None and torch.equal(network.weight, before)


def test_the_figure_says_the_values_and_wants_as_many_pictures_as_photos(pictures):
    found = {"total_variation": pushes.push(towards(pictures[2]), *pictures)}
    photos = np.zeros((2, 8, 8, 3), np.uint8)
    texts = [text.get_text() for text in pushes.push_figure(photos, {"output": photos}, found).axes[0].texts]
    assert "total variation pushes" in [text.replace("\n", " ") for text in texts]
    values = found["total_variation"].values
    assert f"{values[0]:.3g} and {values[1]:.3g}" in texts
    with pytest.raises(InputError, match="different numbers of images"):
        pushes.push_figure(photos[:1], {}, found)
