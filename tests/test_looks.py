"""What the structure start teaches: each setting of a look does what it says, on pictures whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from cartoonlib import looks
from cartoonlib.looks import drawn
from cartoonlib.profile import Look
from cartoonlib.representations import luma

PLAIN = Look(flow=0.0, lift=0.0, vivid=1.0, width=0.9, ink=0.0)  # draws the flat picture as it is
EDGE = slice(28, 36)  # columns around the step in the middle of 64
LOOKS = [PLAIN, Look(flow=0.0), Look(flow=0.0, lift=0.5, vivid=2.0, width=1.7, ink=1.0, coloured=1.0)]


def structure(flat: torch.Tensor, features: float = 0.0) -> torch.Tensor:
    """A flat picture (B, 3, H, W) with a fourth channel: how far all of it is eyes and mouth, from 0 to 1."""
    return torch.cat([flat, torch.full_like(flat[:, :1], 2 * features - 1)], dim=1)


def flowing(flat: torch.Tensor, lines: float | torch.Tensor = 0.0, features: float = 0.0, face: float = 0.0):
    """The same with two channels more: how dark lines are, of looks.DARKEST, and how far all of it is a face."""
    masks = torch.zeros_like(flat[:, :2])
    masks[:, :1], masks[:, 1:] = lines, face
    return torch.cat([structure(flat, features), masks * 2 - 1], dim=1)


def colour(*rgb: float, side: int = 64) -> torch.Tensor:
    return torch.tensor(rgb).view(1, 3, 1, 1).repeat(1, 1, side, side)


def step(left: tuple[float, ...], right: tuple[float, ...]) -> torch.Tensor:
    """Two colours side by side, (1, 3, 64, 64)."""
    return torch.cat([colour(*left)[..., :32], colour(*right)[..., 32:]], dim=-1)


def look(**changes) -> Look:
    return Look(**PLAIN.model_dump() | changes)


@pytest.mark.parametrize("of", LOOKS)
def test_a_drawing_is_a_picture_without_a_graph(of, faces_tensor):
    features = F.interpolate(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 128) * 2 - 1
    given = torch.cat([faces_tensor, features], dim=1).requires_grad_()
    found = drawn(given, of)
    assert found.shape == faces_tensor.shape and found.dtype == torch.float32 and not found.requires_grad
    assert found.isfinite().all() and found.min() >= -1 and found.max() <= 1
    assert torch.equal(found[1:], drawn(given[1:], of))  # an image does not depend on its batch


def test_a_look_that_changes_nothing_gives_the_flat_picture(faces_tensor):
    assert torch.allclose(drawn(structure(faces_tensor), PLAIN), faces_tensor, atol=1e-5)


@pytest.mark.parametrize("of", LOOKS)
def test_blacks_stay_black(of):
    assert (drawn(structure(colour(-1.0, -1.0, -1.0)), of) == -1).all()
    assert drawn(structure(colour(1.0, 1.0, 1.0)), of).min() > 0.98  # and whites white


@pytest.mark.parametrize("turned", [False, True])
def test_lines_are_dark_where_a_step_is_and_nowhere_else(turned):
    flat = step((0.5, 0.5, 0.5), (-0.2, -0.2, -0.2))
    flat = flat.mT if turned else flat
    found = drawn(structure(flat), look(ink=1.0))
    found, flat = (found.mT, flat.mT) if turned else (found, flat)
    assert found[..., EDGE].amin(dim=-1).max() < -0.9  # all along the step
    assert torch.allclose(found[..., :28], flat[..., :28], atol=1e-5)
    assert torch.allclose(found[..., 36:], flat[..., 36:], atol=1e-5)
    weak = drawn(structure(flat), look(ink=0.5))
    assert torch.allclose(weak - flat, (found - flat) / 2, atol=1e-5)  # ink: how dark they are
    faint = step((0.5, 0.5, 0.5), (0.49, 0.49, 0.49))
    assert torch.allclose(drawn(structure(faint), look(ink=1.0)), faint, atol=1e-5)  # a shade is no step


def inked(given: torch.Tensor, **changes) -> float:
    """How much darker a drawing is for its lines, a mean over its pixels."""
    return (drawn(given, look(**changes)) - drawn(given, look(**changes, ink=1.0))).mean().item()


def test_contours_are_as_wide_as_the_look_says_and_thin_on_eyes_and_mouth():
    flat = step((0.5, 0.5, 0.5), (-0.4, -0.4, -0.4))
    widths = [inked(structure(flat), width=width) for width in (0.7, 1.2, 2.0)]
    assert 0 < 1.2 * widths[0] < widths[1] < widths[2] / 1.2
    on_features = [inked(structure(flat, 1.0), width=width) for width in (0.7, 2.0)]
    assert on_features[0] == on_features[1] == pytest.approx(inked(structure(flat), width=looks.FINE), rel=1e-5)


def test_coloured_contours_are_a_deeper_tone_of_the_colour_beside_them():
    flat = step((0.9, 0.6, 0.5), (0.4, -0.2, -0.4))
    black, deep = (drawn(structure(flat), look(ink=1.0, coloured=coloured)) for coloured in (0.0, 1.0))
    darkest = luma(black)[0, 0, 32].argmin()
    share = (1 - (black[0, :, 32, darkest] + 1) / (flat[0, :, 32, darkest] + 1)).tolist()  # of full ink
    assert 28 <= darkest < 36 and share == pytest.approx([share[0]] * 3, abs=1e-4) and share[0] > 0.8
    for found, plain in zip((deep[0, :, 32, darkest] / 2 + 0.5).tolist(), (0.7, 0.4, 0.3)):
        assert found == pytest.approx(plain + share[0] * (plain**2.2 - plain), abs=1e-4)
    assert torch.equal(black[..., :28], deep[..., :28]) and torch.equal(black[..., 36:], deep[..., 36:])


def test_a_look_with_a_flow_draws_the_lines_that_come_with_the_structure():
    flat = step((0.5, 0.5, 0.5), (-0.2, -0.2, -0.2))
    lines = torch.zeros(1, 1, 64, 64)
    lines[..., 10:12], lines[..., 50:52] = 1.0, looks.FAINT / looks.DARKEST  # the darkest, and too faint a one
    found = drawn(flowing(flat, lines), look(ink=1.0, flow=3.0))
    wanted = flat.clone()
    wanted[..., 10:12] = -1
    assert torch.allclose(found, wanted, atol=1e-4)  # and none on the border of the two colours
    half = drawn(flowing(flat, lines), look(ink=0.5, flow=3.0))
    assert torch.allclose(half[..., 10:12], (flat[..., 10:12] - 1) / 2, atol=1e-4)


def test_lines_of_a_face_are_no_black_but_on_its_eyes_and_mouth():
    flat = colour(0.6, 0.2, 0.0)

    def line(coloured: float, **place: float) -> torch.Tensor:
        return drawn(flowing(flat, 1.0, **place), look(ink=1.0, flow=3.0, coloured=coloured))

    black = torch.full_like(flat, -1.0)
    assert torch.allclose(line(0.0), black) and torch.allclose(line(0.0, face=1.0, features=1.0), black)
    brown = line(0.0, face=1.0)
    assert torch.allclose(brown, line(0.5)) and torch.allclose(line(0.5, face=1.0), brown)  # as with half of the tone
    assert brown[0, 0].min() > brown[0, 2].max() > -1  # redder than blue, as the skin is
    assert torch.equal(line(0.8, face=1.0), line(0.8))  # a look's own, where that is lighter


def test_a_face_is_less_vivid_than_what_is_around_it():
    flat = colour(0.6, 0.2, 0.0)

    def chroma(vivid: float, face: float) -> torch.Tensor:
        found = drawn(flowing(flat, face=face), look(vivid=vivid, flow=3.0))
        return (found - luma(found)).abs().mean()

    assert chroma(1.5, 1.0) == pytest.approx(chroma(1.3, 0.0).item(), rel=1e-4)
    for vivid in (0.6, 1.0):  # a face that is pale already is as it would be elsewhere
        assert chroma(vivid, 1.0) == pytest.approx(chroma(vivid, 0.0).item(), rel=1e-4)


def test_shadows_have_the_light_and_the_warmth_of_the_look():
    for tone, share in ((-1.0, 1.0), (0.0, 0.25), (1.0, 0.0)):  # of a black's: the square of what it lacks of white
        grey = structure(colour(tone, tone, tone))
        changes = [{"shade": 0.1}, {"shade": -0.1}, *({"shade": 0.1, "warmth": warmth} for warmth in (0.1, -0.1))]
        lighter, darker, warm, cold = (drawn(grey, look(**change))[0, :, 0, 0] - tone for change in changes)
        assert lighter.tolist() == pytest.approx([0.2 * share] * 3, abs=1e-5)  # in units of light, half of the range
        assert darker.tolist() == pytest.approx([-0.2 * share * (tone > -1)] * 3, abs=1e-5)
        brown, blue = ([2 * share * (0.1 + sign * 0.1 * part) for part in looks.BROWN] for sign in (1, -1))
        assert warm.tolist() == pytest.approx(brown, abs=1e-5) and cold.tolist() == pytest.approx(blue, abs=1e-5)
        assert warm[0] >= warm[1] >= warm[2] and cold[0] <= cold[1] <= cold[2]  # red over blue, and blue over red
    on_a_face = drawn(flowing(colour(-1.0, -1.0, -1.0), face=1.0), look(shade=0.1, flow=3.0)) + 1
    assert on_a_face.mean().item() == pytest.approx(0.1, abs=1e-5)  # half: else skin is what is tinted


def test_lift_lightens_the_middle_tones_alone():
    for tone, expected in ((-1.0, -1.0), (0.0, 0.3), (1.0, 1.0)):  # 4 b (1 - b) of the lift at brightness b
        assert drawn(structure(colour(tone, tone, tone)), look(lift=0.3)).mean().item() == pytest.approx(expected)
    quarter = drawn(structure(colour(-0.5, -0.5, -0.5)), look(lift=0.3)).mean().item()
    assert quarter == pytest.approx(0.5 * (1 + 0.3 * 0.75) - 1, abs=1e-5)


def test_vivid_multiplies_chroma_and_keeps_luma():
    flat = colour(0.3, 0.0, -0.2)
    found = drawn(structure(flat), look(vivid=1.5))
    assert torch.allclose(luma(found), luma(flat), atol=1e-5)
    assert torch.allclose(found - luma(found), 1.5 * (flat - luma(flat)), atol=1e-5)
    grey = colour(0.1, 0.1, 0.1)
    assert torch.allclose(drawn(structure(grey), look(vivid=3.0)), grey, atol=1e-5)


def test_flatten_is_no_part_of_the_drawing(faces_tensor):
    """It decides the flat regions (dataset.structures), which are made before."""
    given = structure(faces_tensor)
    assert torch.equal(drawn(given, Look(flow=0.0, flatten=0.01)), drawn(given, Look(flow=0.0, flatten=0.1)))
