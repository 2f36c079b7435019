"""Films without flicker: what stays is averaged along the film's motion, what is new is drawn as it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from cartoonlib.images import to_tensor
from cartoonlib.photos import shipped
from cartoonlib.photos.cartoonizer import Cartoonizer
from cartoonlib.photos.steady import Steady, moved, optical_flow

PHOTO = astronaut()[:256, 128:384].astype(np.float32)


def noisy(frames, deviation=2.0, seed=0):
    noise = np.random.default_rng(seed)
    return [np.clip(frame + noise.normal(0, deviation, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def pan(right: int, down: int, frames=6, side=160):
    return [PHOTO[down * t : down * t + side, right * t : right * t + side] for t in range(frames)]


def flickering(seed=1):
    """Stands for a generator: the darker half of the frame, with blocks that are lighter or darker in every frame."""
    random = np.random.default_rng(seed)

    def draw(frame):
        blocks = random.choice([-6, 6], (frame.shape[0] // 8, frame.shape[1] // 8, 1)).repeat(8, 0).repeat(8, 1)
        return np.clip(frame // 2 + 40 + blocks, 0, 255).astype(np.uint8)

    return draw


def steadied(draw, frames):
    """The steady cartoons of frames that are drawn one by one."""
    return list(map(Steady(), frames, map(draw, frames)))


def change(frames, right: int, down: int) -> float:
    """Mean difference of neighbours, their motion taken out."""
    rest, side = 16, len(frames[0]) - 32
    before = [frame[rest + down : rest + down + side, rest + right : rest + right + side] for frame in frames[:-1]]
    after = [frame[rest : rest + side, rest : rest + side] for frame in frames[1:]]
    return float(np.abs(np.array(after, float) - before).mean())


@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 1), (5, 3)])
def test_a_cartoon_flickers_no_more_than_its_film(right, down):
    frames = noisy(pan(right, down))
    alone, steady = list(map(flickering(), frames)), steadied(flickering(), frames)
    bound = 1.05 * change(frames, right, down)
    assert change(alone, right, down) > 2 * bound and change(steady, right, down) < bound
    assert np.array_equal(alone[0], steady[0])  # nothing comes before
    assert all(np.array_equal(a, b) for a, b in zip(steady, steadied(flickering(), frames)))


@pytest.mark.skipif(not shipped.styles(), reason="needs the shipped generators")
@pytest.mark.parametrize(("multiplied", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_film_is_drawn_like_a_photo(multiplied, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplied)
    frame, cartoonizer = noisy(pan(0, 0, 1))[0], Cartoonizer(shipped.styles()[0], strength=0.9)
    before = [parameter.clone() for parameter in cartoonizer.generator.parameters()]
    draw = cartoonizer.for_film(iter([np.zeros((1024, 1600, 3), np.uint8)]))
    assert (draw.scale, draw.strength, draw.generator.tail.weight.dtype) == (0.5, 0.9, dtype)
    exact = replace(cartoonizer, scale=0.5)(frame).astype(int)
    assert abs(draw(frame) - exact).max() <= 1 + multiplied and abs(draw(frame) - exact).mean() < 0.3
    assert all(torch.equal(*pair) for pair in zip(before, cartoonizer.generator.parameters()))  # photos stay the same
    runtime = Cartoonizer(lambda photo: photo, scale=0.3)
    assert runtime.for_film([]).generator is runtime.generator


def test_the_number_of_threads_changes_no_more_than_rounding():
    frames, found, before = noisy(pan(2, 1, 4)), [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(np.array(steadied(flickering(), frames), int))
    torch.set_num_threads(before)
    assert abs(found[0] - found[1]).max() <= 1


def test_no_ghost_stays_behind_a_cut():
    frames = noisy(pan(1, 1, 4)) + noisy(pan(1, 1, 2)[::-1], seed=3)
    frames[4:] = [frame[::-1, ::-1].copy() for frame in frames[4:]]
    alone, steady = list(map(flickering(), frames)), steadied(flickering(), frames)
    assert np.array_equal(steady[4], alone[4]) and not np.array_equal(steady[3], alone[3])
    assert not np.array_equal(steady[5], alone[5])  # what comes behind it is steady again


@pytest.mark.parametrize("step", [2, 7, 20])
def test_a_moving_edge_does_not_trail(step):
    """A face before another picture: what a frame alone gives is there, beside the edge too, but for its noise."""
    rows, columns = np.mgrid[:96, :96]
    round_face = (np.hypot(rows - 48, columns - 48) < 44)[..., None]
    frames = []
    for t in range(6):
        frame = PHOTO[::-1, :, ::-1][:160].copy()
        place = frame[32:128, 8 + step * t : 104 + step * t]
        place[:] = np.where(round_face, PHOTO[20:116, 40:136], place)
        frames.append(frame)
    frames = noisy(frames)
    differences = [abs(steady.astype(int) - frame) for steady, frame in zip(steadied(np.copy, frames), frames)]
    assert 0.5 < np.mean(differences[-1]) < 3 and np.percentile(differences[-1], 99.9) < 20


def test_other_sizes_begin_anew_and_the_smallest_are_drawn():
    steady = Steady()
    for size in ((64, 64), (48, 64), (16, 16), (16, 16), (16, 300), (16, 300)):
        frame = np.full((*size, 3), 90, np.uint8)
        assert np.array_equal(steady(frame, frame), frame)


def test_a_light_that_goes_on_leaves_nothing_behind():
    dark, light = (PHOTO[:160, :160] * share for share in (0.3, 0.9))
    frames = noisy([dark, dark, light])
    assert np.array_equal(steadied(np.copy, frames)[2], frames[2])


def test_the_flow_is_where_pixels_were():
    frames = noisy([PHOTO[4:164, 7:167], PHOTO[:160, :160]])
    old, new = (to_tensor(frame[None]).mean(1, keepdim=True) for frame in frames)
    flow = optical_flow(new, old)
    assert flow.shape == (1, 2, 160, 160)
    inner = flow[0, :, 24:-24, 24:-24]  # new(x) = old(x - 7, y - 4)
    assert (inner + torch.tensor([7.0, 4.0])[:, None, None]).abs().median() < 0.1
    ramp, by = torch.arange(12.0).expand(1, 1, 8, 12), torch.tensor([2.0, 1.0])[:, None, None].expand(1, 2, 8, 12)
    assert torch.allclose(moved(ramp, by)[0, 0, 3, :10], torch.arange(2.0, 12))
