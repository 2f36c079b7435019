"""Coherent lines: on pictures whose lines are known, where they are, how wide, and what is no line."""

import math

import pytest
import torch

from cartoonlib.dataset.lines import coherent_lines, flow

SIDE = 64
Y, X = torch.meshgrid(torch.arange(SIDE) - 31.5, torch.arange(SIDE) - 31.5, indexing="ij")


def picture(grey: torch.Tensor) -> torch.Tensor:
    return grey.expand(1, 3, SIDE, SIDE).contiguous()


def stroke(angle: float) -> torch.Tensor:
    """A dark straight line of about 2 px through the middle of a light ground, turned by an angle."""
    away = (X * math.sin(angle) - Y * math.cos(angle)).abs()
    return picture(0.6 - 1.2 * (1.5 - away).clamp(0, 1))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, math.pi / 2, 2.5])
def test_a_line_is_found_where_it_is_whatever_its_direction(angle):
    found = coherent_lines(stroke(angle), 0.8, 3.0)[0, 0]
    away = (X * math.sin(angle) - Y * math.cos(angle)).abs()
    inside = (X.abs() < 24) & (Y.abs() < 24)
    assert found.shape == (SIDE, SIDE) and found.min() >= 0
    assert found[inside & (away < 0.75)].min() > 0.13 and found[inside & (away > 5)].max() < 1e-3


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2])
def test_the_flow_runs_along_a_line(angle):
    across, along = flow(stroke(angle), 2.0)
    on = (X * math.sin(angle) - Y * math.cos(angle)).abs() < 3
    direction = torch.tensor([math.cos(angle), math.sin(angle)])[:, None]
    assert ((along[0][:, on] * direction).sum(dim=0).abs() > 0.97).all()  # one way or the other
    assert torch.allclose((across * along).sum(dim=1), torch.zeros(1, SIDE, SIDE), atol=1e-5)
    assert torch.allclose(across.norm(dim=1), torch.ones(1, SIDE, SIDE), atol=1e-5)


def test_a_circle_closes():
    radius = (X**2 + Y**2).sqrt()
    found = coherent_lines(picture(0.6 - 1.2 * (1.5 - (radius - 20).abs()).clamp(0, 1)), 0.8, 4.0)[0, 0]
    assert found[(radius - 20).abs() < 0.7].min() > 0.1 and found[(radius - 20).abs() > 6].max() < 0.02


def test_what_runs_on_is_darker_than_a_speck():
    """The longer the mean along the flow, the less is left of a speck; a line stays as it is."""
    speck = picture(0.6 - 1.2 * (2 - (X**2 + Y**2).sqrt()).clamp(0, 1))
    line, dot = ([coherent_lines(of, 0.8, length).max() for length in (1.0, 5.0)] for of in (stroke(0.4), speck))
    assert line[1] > 0.9 * line[0] and dot[1] < 0.5 * dot[0]


def test_a_wider_line_is_asked_for_by_a_larger_width():
    wide = picture(0.6 - 1.2 * (4.5 - Y.abs()).clamp(0, 1))
    thin, broad = (coherent_lines(wide, width, 3.0)[0, 0, 31:33].mean() for width in (0.7, 2.5))
    assert broad > 3 * thin


def test_light_lines_even_ground_and_noise_are_no_lines():
    assert coherent_lines(picture(torch.full((SIDE, SIDE), 0.3)), 0.8, 3.0).max() < 1e-4
    light = coherent_lines(-stroke(0.0), 0.8, 3.0)[0, 0]
    assert light[31:33].max() < 0.01  # on it; its two sides are darker than it
    noise = 0.05 * torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert coherent_lines(picture(noise), 0.8, 3.0).max() < 0.1 * coherent_lines(stroke(0.0), 0.8, 3.0).max()


def test_a_picture_does_not_depend_on_its_batch():
    both = torch.cat([stroke(0.3), stroke(1.2)])
    assert torch.allclose(coherent_lines(both, 0.8, 3.0)[1:], coherent_lines(both[1:], 0.8, 3.0), atol=1e-6)
