"""The losses: values by hand, zero at the optimum, where gradients go, and independence of the resolution."""

import pytest
import torch
import torch.nn.functional as F

from cartoonlib import landmarks, looks, losses, representations
from cartoonlib.networks import Generator, PatchDiscriminator
from cartoonlib.profile import Look


def scalar(value) -> float:
    assert value.shape == () and value.dtype == torch.float32
    return value.item()


# --- values ------------------------------------------------------------------------------------------------------


def test_content_and_structure_by_hand():
    output = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])[:, :, None, None]
    target = torch.tensor([[-1.0, 2.0, 5.0], [10.0, 10.0, 10.0]])[:, :, None, None]
    for loss in (losses.content, losses.structure):  # mean (2, 0, 2) over mean (1, 2, 5), 9 over 10: images count alike
        assert scalar(loss(output, target)) == pytest.approx((0.5 + 0.9) / 2)
        assert scalar(loss(target, target)) == 0


@pytest.mark.parametrize("brightness", [0.1, losses.USUAL])  # one price everywhere is the plain one
def test_anchor_by_hand(brightness):
    target = torch.full((2, 3, 32, 32), 2 * brightness - 1)
    red = target + torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1)  # Y .299, U -.169, V .5 of it
    brighter = target + 0.5  # chroma is the same, so only luma counts
    for output, expected in ((red, 0.5 * (0.299 + losses.CHROMA * (0.169 + 0.5))), (brighter, 0.5), (target, 0)):
        assert scalar(losses.anchor(output, target)) == pytest.approx(expected, abs=1e-6)
    halves = target.clone()
    halves[..., 16:] += 0.5  # one slope in 31, beside the difference itself
    for output, turned in ((halves, target), (halves.mT, target.mT)):
        assert scalar(losses.anchor(output, turned)) == pytest.approx(0.25 + losses.SLOPES * 0.5 / 31, abs=1e-6)


def test_a_soft_line_costs_more_than_a_shade_as_far_from_the_target():
    target = torch.full((1, 3, 32, 32), 2 * losses.USUAL - 1)
    target[..., 15:17] -= 1
    soft = target.clone()
    soft[..., 13:19] = soft[..., 13:19].mean(dim=-1, keepdim=True)
    shade = target + (soft - target).abs().mean()
    assert losses.anchor(soft, target) > 1.5 * losses.anchor(shade, target) > 0


def test_anchor_is_dearer_in_the_dark():
    target = torch.full((1, 3, 64, 64), 2 * losses.USUAL - 1)
    target[..., :32] = -0.8  # brightness 0.1 on the left
    costs = []
    for x in (8, 48):
        output = target.clone()
        output[..., 30:34, x : x + 4] += torch.tensor([0.2, 0.1, 0.0]).view(3, 1, 1)
        costs.append(scalar(losses.anchor(output, target)))
    assert costs[0] == pytest.approx(costs[1] * (losses.USUAL + losses.OFFSET) / (0.1 + losses.OFFSET), rel=1e-3)


def test_total_variation_by_hand():
    image = torch.tensor([[0.0, 1.0], [0.0, 3.0]])[None, None]
    assert scalar(losses.total_variation(image)) == pytest.approx((0 + 4) / 2 + (1 + 9) / 2)
    assert scalar(losses.total_variation(torch.full((2, 3, 4, 5), 0.7))) == 0


def test_landmark_by_hand():
    photo = torch.zeros(1, 2, 2)
    output = torch.tensor([[[0.3, 0.4], [0.0, 0.1]]])
    assert scalar(losses.landmark(output, photo, face_width=0.5)) == pytest.approx((0.5 + 0.1) / 2 / 0.5, rel=1e-4)
    assert scalar(losses.landmark(output, output, face_width=0.5)) == pytest.approx(0, abs=1e-9)


def test_least_squares_by_hand():
    for loss in (losses.surface, losses.texture):
        assert scalar(loss(torch.ones(2, 1, 3, 3))) == 0
        assert scalar(loss(torch.tensor([0.0, 3.0]))) == pytest.approx((1 + 4) / 2)
    real, fake = torch.ones(4), torch.zeros(4)
    assert scalar(losses.discriminator(real, fake)) == 0
    assert scalar(losses.discriminator(real / 2, real / 2)) == 0.25  # it cannot tell
    assert scalar(losses.discriminator(fake, real)) == 1
    assert scalar(losses.discriminator(real * 3, fake)) == 2


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(faces_tensor):
    """A photo, a generator, both discriminators, each ready to show which gradients arrive."""
    torch.manual_seed(0)
    photo = F.interpolate(faces_tensor, 64, mode="area")
    return photo, Generator(), PatchDiscriminator(3), PatchDiscriminator(1)


def _terms(name, output, photo, lite0, onet, d_surface, d_texture):
    weights = representations.color_shift_weights(torch.Generator().manual_seed(0))
    return {
        "content": lambda: losses.content(lite0(output), lite0(photo)),
        "anchor": lambda: losses.anchor(output, photo.detach()),  # as every caller's, it has no graph
        "structure": lambda: losses.structure(lite0(output), lite0(representations.structure(output, segments=40))),
        "total_variation": lambda: losses.total_variation(output),
        "total variation beside edges": lambda: losses.total_variation(output, photo),
        "landmark": lambda: losses.landmark(onet(output), onet(photo), landmarks.FACE_WIDTH),
        "surface": lambda: losses.surface(d_surface(representations.surface(output))),
        "texture": lambda: losses.texture(d_texture(representations.texture(output, weights))),
    }[name]()


NAMES = ["content", "anchor", "structure", "total_variation", "landmark", "surface", "texture",
         "total variation beside edges"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_gradient_goes_to_the_generator_and_to_nothing_frozen(name, scene, lite0, onet):
    photo, generator, d_surface, d_texture = scene
    generator.zero_grad(set_to_none=True)
    d_surface.requires_grad_(False), d_texture.requires_grad_(False)  # as in the generator's update
    target = photo.clone().requires_grad_()
    _terms(name, generator(photo), target, lite0, onet, d_surface, d_texture).backward()
    for parameter in generator.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
    assert target.grad is None
    for frozen in (lite0, onet, d_surface, d_texture):
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


def test_anchor_moves_every_pixel_of_the_output_and_not_the_target(faces_tensor):
    structure = torch.cat([faces_tensor, torch.zeros(2, 1, 128, 128)], dim=1).requires_grad_()
    noise = torch.Generator().manual_seed(0)
    output = (faces_tensor + 0.2 * torch.randn(faces_tensor.shape, generator=noise)).requires_grad_()
    target = looks.drawn(structure, Look(flow=0.0))
    losses.anchor(output, target).backward()
    assert not target.requires_grad and structure.grad is None and output.grad.isfinite().all()
    assert (output.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize("name", ["content", "anchor", "landmark"])
def test_zero_where_the_output_is_the_photo(name, faces_tensor, lite0, onet):
    output = faces_tensor.clone().requires_grad_()
    loss = _terms(name, output, faces_tensor, lite0, onet, None, None)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert output.grad.isfinite().all()


def test_structure_is_zero_on_a_picture_of_its_own_superpixels(lite0):
    blocks = torch.zeros(1, 3, 64, 64)
    blocks[..., 32:], blocks[:, 0, :32] = 0.8, -0.6
    filled = representations.structure(blocks, segments=4)
    again = representations.structure(filled, segments=4)
    assert losses.structure(lite0(filled), lite0(again)) < 0.02
    noisy = blocks + 0.3 * torch.randn(blocks.shape, generator=torch.Generator().manual_seed(0))
    assert losses.structure(lite0(noisy), lite0(representations.structure(noisy, segments=4))) > 0.1


def test_the_landmark_loss_has_a_finite_gradient_at_its_optimum():
    points = torch.rand(2, 5, 2).requires_grad_()
    losses.landmark(points, points.detach().clone(), face_width=0.5).backward()
    assert points.grad.abs().max() < 1e-6  # and not NaN


# --- resolution --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth(faces_tensor):
    """Two smooth pictures at 64 px, and the same ones at 128 px."""
    small = F.interpolate(faces_tensor, 16, mode="area")
    return tuple(F.interpolate(small, side, mode="bicubic").split(1) for side in (64, 128))


def test_anchor_is_independent_of_the_resolution_but_for_its_slopes(smooth, monkeypatch):
    small, large = (losses.anchor(*pair).item() for pair in smooth)
    monkeypatch.setattr(losses, "SLOPES", 0.0)
    plain_small, plain_large = (losses.anchor(*pair).item() for pair in smooth)
    assert plain_large == pytest.approx(plain_small, rel=0.03)
    assert large - plain_large == pytest.approx((small - plain_small) / 2, rel=0.1)  # half the differences


def test_content_and_structure_are_independent_of_size_and_magnitude_of_features():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 8, 6, 6, generator=generator), torch.randn(2, 8, 6, 6, generator=generator)
    for loss in (losses.content, losses.structure):
        value = loss(output, target)
        assert loss(100 * output, 100 * target).item() == pytest.approx(value.item(), rel=1e-5)
        larger = loss(F.interpolate(output, 12), F.interpolate(target, 12))
        assert larger.item() == pytest.approx(value.item(), rel=1e-5)


def test_content_of_a_real_network_hardly_depends_on_the_resolution(smooth, lite0):
    small, large = (losses.content(lite0(a), lite0(b)).item() for a, b in smooth)
    assert large == pytest.approx(small, rel=0.5)


def test_total_variation_spares_the_edges_of_the_photo(faces_tensor):
    photo = torch.zeros(1, 3, 32, 32)
    photo[..., 16:] = 1
    contour, stroke = photo.clone(), photo.clone()
    contour[..., 15:17], stroke[..., 6:8] = -1, -1
    assert scalar(losses.total_variation(photo, photo)) < 1e-4
    assert scalar(losses.total_variation(contour, photo)) < 1e-4 < 0.05 < scalar(losses.total_variation(stroke, photo))
    output = faces_tensor.clone().requires_grad_()
    losses.total_variation(output, torch.zeros_like(output)).backward()  # nowhere an edge: every pixel is held
    assert output.grad.isfinite().all() and output.grad.ne(0).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("turned", [False, True])
def test_the_same_stroke_costs_more_where_the_photo_is_darker(turned):
    """Relative to the mean brightness around it, 1 for that of light skin, whatever the resolution."""
    values = {}
    for side in (32, 64):
        stroke = torch.zeros(1, 3, side, side)
        stroke[..., side // 2] = 0.1
        stroke = stroke.mT if turned else stroke
        for brightness in (0.1, 0.3, losses.USUAL, 1.0):
            photo = torch.full_like(stroke, 2 * brightness - 1)
            values[side, brightness] = scalar(losses.total_variation(photo + stroke, photo))
    plain = [values[side, losses.USUAL] for side in (32, 64)]
    assert plain[0] == pytest.approx(2 * ((0.1**2 + 1e-4) ** 0.5 - 1e-2) / 31, rel=1e-4)
    for (side, brightness), value in values.items():
        relative = (losses.USUAL + losses.OFFSET) / (brightness + losses.OFFSET)
        assert value == pytest.approx(plain[side == 64] * relative, rel=1e-4)


def test_the_price_of_a_difference_follows_the_brightness_around_it():
    for side in (64, 128, 256):
        photo = torch.full((1, 3, 32, side), 0.2)
        middle, radius = side // 2, side // 32
        photo[..., :middle] = -0.8  # brightness 0.1 on the left and 0.6 on the right
        price = losses._price(photo)[0, 0, 8]
        assert price[middle - 2 : middle + 2].max() < 1e-4  # the edge, and a pixel to each side of it
        light = max(0, radius - 2) / (2 * radius + 1)  # part of the window around the first pixel beside these
        assert scalar(price[middle - 3]) == pytest.approx(0.75 / (0.1 + 0.5 * light + 0.15), rel=1e-3)
        assert scalar(price[0]) == pytest.approx(3) and scalar(price[-1]) == pytest.approx(1)
    colored = torch.tensor([0.8, 0.0, -0.2]).view(1, 3, 1, 1).expand(1, 3, 16, 16)  # of mean 0.2
    assert losses._price(colored).mean().item() == pytest.approx(1)


def test_a_coloured_stroke_costs_more_than_a_grey_one_that_looks_the_same_in_grey():
    photo = torch.full((1, 3, 16, 16), 0.2)
    luma = torch.tensor(losses.RGB_TO_YUV[0])
    grey, *coloured = torch.cat([torch.ones(1, 3), torch.eye(3) / luma[:, None]])  # all of luma 1
    costs = []
    for color in (grey, *coloured):
        stroke = photo.clone()
        stroke[..., 8] -= 0.1 * color[:, None]
        turned = losses.total_variation(stroke.mT, photo.mT)
        assert scalar(turned) == pytest.approx(scalar(losses.total_variation(stroke, photo)), rel=1e-4)
        assert scalar((luma[:, None, None] * (photo - stroke)[0]).sum(dim=0).max()) == pytest.approx(0.1, rel=1e-4)
        costs.append(scalar(losses.total_variation(stroke, photo)))
    assert min(costs[1:]) > 1.5 * costs[0] > 0


def test_absolute_differences_prefer_one_step_to_a_slope():
    flat = torch.zeros(1, 3, 16, 32)
    slope = flat + torch.linspace(-1, 1, 32)
    step = flat + torch.where(torch.arange(32) < 16, -1.0, 1.0)
    squared = [scalar(losses.total_variation(image)) for image in (slope, step)]
    absolute = [scalar(losses.total_variation(image, flat)) for image in (slope, step)]
    assert squared[0] < squared[1] / 10 and absolute[0] == pytest.approx(absolute[1], rel=0.25)


def test_total_variation_is_per_pixel(smooth):
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tiled = noise.tile(1, 1, 4, 4)  # 16 times as many pixels
    assert losses.total_variation(tiled).item() == pytest.approx(losses.total_variation(noise).item(), rel=0.05)
    small, large = (losses.total_variation(pair[0]).item() for pair in smooth)
    assert large == pytest.approx(small / 4, rel=0.1)  # the same slopes on twice as many pixels: half the differences


def test_landmark_is_in_units_of_the_face(faces_tensor, onet):
    """The same movement of the face costs the same at every resolution."""
    values = []
    for side in (64, 128):
        photo = F.interpolate(faces_tensor, side, mode="bilinear", antialias=True)
        moved = photo.roll(side // 16, dims=3)
        values.append(losses.landmark(onet(moved), onet(photo), landmarks.FACE_WIDTH).item())
    assert values[0] == pytest.approx(1 / 16 / landmarks.FACE_WIDTH, rel=0.25)
    assert values[1] == pytest.approx(values[0], rel=0.15)


def test_losses_are_float32_under_bf16_features():
    half = torch.rand(2, 3, 8, 8).bfloat16()
    for value in (losses.content(half, half), losses.anchor(half, half), losses.total_variation(half),
                  losses.surface(half), losses.discriminator(half, half)):  # fmt: skip
        assert value.dtype == torch.float32
