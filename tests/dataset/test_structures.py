"""Photos in flat regions: L0 smoothing, where eyes and mouth are, made once, and in step with the photos' batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cartoonlib import files
from cartoonlib.dataset import structures as module
from cartoonlib.dataset.batches import Batches
from cartoonlib.dataset.structures import face_mask, features_mask, flat, smooth_l0, structure, structures
from cartoonlib.images import to_tensor, to_uint8
from cartoonlib.media.faces import CANONICAL
from cartoonlib.looks import DARKEST
from cartoonlib.profile import Look

POINTS = torch.from_numpy(CANONICAL)[None]
PRICE = 0.02
LOOK, FLOWING = Look(flatten=PRICE, flow=0.0), Look(flatten=PRICE, width=0.8, flow=3.0)


def silent(_line: str) -> None:
    pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PROCESSED", tmp_path)
    return tmp_path


def steps(images: torch.Tensor) -> int:
    """How many neighbours differ."""
    return sum(int((images.diff(dim=dim).abs().amax(dim=1) > 0.01).sum()) for dim in (2, 3))


# --- flat regions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_smoothing_keeps_a_step_and_flattens_noise(turned):
    clean = torch.full((1, 3, 32, 32), 0.3)
    clean[..., 16:] = 0.7
    clean = clean.mT if turned else clean
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    smooth = smooth_l0(noisy, PRICE)
    assert (smooth - clean).abs().max() < 0.02 < 0.08 < (noisy - clean).abs().max()
    halves = smooth.split(16, dim=2 if turned else 3)
    assert all(half.flatten(2).std(dim=2).max() < 0.002 for half in halves)


def test_smoothing_for_nothing_changes_nothing(faces_tensor):
    images = faces_tensor / 2 + 0.5
    assert (smooth_l0(images, 1e-9) - images).abs().max() < 1e-3


def test_the_larger_the_price_the_fewer_the_steps(faces_tensor):
    images = faces_tensor / 2 + 0.5
    found = [steps(smooth_l0(images, price)) for price in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert steps(images) > found[0] and found == sorted(found, reverse=True) and found[-1] < found[0] / 4


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 3), st.integers(2, 40), st.integers(2, 40), st.floats(1e-5, 1), st.integers(0, 1000))
def test_smoothing_keeps_shape_and_range(count, height, width, price, seed):
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = smooth_l0(images, price)
    assert smooth.shape == images.shape and smooth.isfinite().all() and smooth.min() >= 0 and smooth.max() <= 1
    assert torch.allclose(smooth_l0(images[:1], price), smooth[:1], atol=1e-4)  # an image does not depend on its batch


def test_steps_of_a_dark_photo_count_more():
    """Square roots of the light: what is a step on dark skin is noise in the light."""
    photo = torch.full((1, 3, 64, 64), -0.9)
    photo[..., 32:] = 0.6
    photo[..., 20:40, 10:22] += 0.15
    photo[..., 20:40, 42:54] += 0.15
    found = flat(photo, torch.zeros(1, 1, 64, 64), PRICE)[0].mean(dim=0)
    dark, light = (found[30, x].item() - found[8, x].item() for x in (16, 48))
    assert dark > 0.1 and abs(light) < 0.02


def test_eyes_and_mouth_are_shown_in_full(faces_tensor):
    whole, regions = (flat(faces_tensor, torch.full((2, 1, 128, 128), share), 0.1) for share in (1.0, 0.0))
    assert torch.equal(whole, flat(faces_tensor, torch.ones(2, 1, 128, 128), 1e-3))  # whatever the price
    assert (whole - faces_tensor).abs().mean() < 0.05 < 0.07 < (regions - faces_tensor).abs().mean()
    half = flat(faces_tensor, torch.full((2, 1, 128, 128), 0.5), 0.1)
    assert torch.allclose(half, (whole + regions) / 2, atol=1e-5)


@pytest.mark.parametrize("side", [36, 128])
def test_the_mask_is_whole_on_eyes_and_mouth_and_nothing_elsewhere(side):
    mask = features_mask(POINTS, side)
    assert mask.shape == (1, 1, side, side) and mask.min() >= 0 and mask.max() <= 1

    def at(x, y):
        return mask[0, 0, int(y * side), int(x * side)].item()

    left, right, nose, *corners = CANONICAL
    assert min(at(*left), at(*right), at(*(sum(corners) / 2)), *(at(*corner) for corner in corners)) > 0.6
    assert at(*nose) < 0.25  # the mouth ends under it
    assert max(at(0.5, 0.25), at(0.5, 0.95), at(0.15, 0.6), at(0.03, 0.03)) < 0.05
    assert mask.gt(0.5).float().mean() < 0.15


def test_the_mask_moves_and_grows_with_the_points():
    mask = features_mask(POINTS, 128)
    moved = features_mask(POINTS + torch.tensor([8 / 128, 4 / 128]), 128)
    assert torch.allclose(moved[..., 4:, 8:], mask[..., :-4, :-8], atol=1e-4)
    small = features_mask((POINTS - 0.5) / 2 + 0.5, 128)
    assert small.sum().item() == pytest.approx(mask.sum().item() / 4, rel=0.02)


@pytest.mark.parametrize("side", [36, 128])
def test_the_face_is_inside_its_contour(side):
    mask = face_mask(POINTS, side)[0, 0]
    assert mask.shape == (side, side) and mask.min() >= 0 and mask.max() <= 1
    assert all(mask[int(y * side), int(x * side)] > 0.6 for x, y in CANONICAL)
    assert max(mask[0].max(), mask[:, 0].max(), mask[:, -1].max()) < 0.05  # hair, and beside the face
    assert mask[-1].max() < 0.3  # under the chin


def test_two_more_channels_hold_lines_and_face_of_a_look_that_has_a_flow(faces_tensor):
    points = POINTS.expand(len(faces_tensor), -1, -1)
    plain, flowing = (structure(faces_tensor, points, look) for look in (LOOK, FLOWING))
    assert plain.shape == (2, 4, 128, 128) and flowing.shape == (2, 6, 128, 128)
    assert torch.equal(flowing[:, 3], plain[:, 3])
    assert torch.allclose(flowing[:, 5:] / 2 + 0.5, face_mask(points, 128), atol=1e-6)
    lines = flowing[:, 4] / 2 + 0.5
    assert lines.min() >= 0 and lines.max() <= 1 and 0.02 < lines.gt(0.2).float().mean() < 0.3
    wide = structure(faces_tensor, points, FLOWING.model_copy(update={"width": 2.0}))[:, 4] / 2 + 0.5
    changed = (wide - lines).abs().mean(dim=0)
    eyes = features_mask(POINTS, 128)[0, 0] > 0.99
    assert changed[eyes].mean() < 0.1 * changed[~eyes].mean()  # on eyes and mouth they are as thin as ever


def test_lines_of_the_face_are_fainter_than_those_around_it(faces_tensor, monkeypatch):
    monkeypatch.setattr(module, "coherent_lines", lambda images, *_: torch.full_like(images[:, :1], 0.06))
    found = structure(faces_tensor[:1], POINTS, FLOWING)
    lines, face = found[0, 4] / 2 + 0.5, face_mask(POINTS, 128)[0, 0]
    cheek, beside = (face > 0.97) & (features_mask(POINTS, 128)[0, 0] < 0.01), face < 0.01
    for place, times in ((cheek, 0.5), (beside, 1.3)):
        kept = 0.06 * times - 0.5 * min(0.05, 0.06 * times)  # less what lines side by side lose
        assert lines[place].mean().item() == pytest.approx(kept / DARKEST, abs=0.01)


def test_regions_of_the_face_are_smaller(faces_tensor):
    """At half the price, which keeps the form of nose and cheeks; those around it are as large as without a face."""
    points = POINTS.expand(2, -1, -1)
    plain, flowing = (structure(faces_tensor, points, look)[:, :3] for look in (LOOK, FLOWING))
    cheaper = flat(faces_tensor, features_mask(points, 128), PRICE / 2)
    face = face_mask(POINTS, 128)[0, 0]
    for place, same, other in ((face > 0.97, cheaper, plain), (face < 0.01, plain, cheaper)):
        near, far = ((flowing - each).abs()[..., place].mean() for each in (same, other))
        assert near < 0.5 * far


def test_a_price_for_each_pixel_is_that_pixels(faces_tensor):
    images = faces_tensor / 2 + 0.5
    assert torch.equal(smooth_l0(images, torch.full((2, 1, 128, 128), 0.01)), smooth_l0(images, 0.01))
    price = torch.full((2, 1, 128, 128), 0.001)
    price[..., 64:] = 0.1
    found = smooth_l0(images, price)
    assert 4 * steps(found[..., 66:126]) < steps(found[..., 2:62])


# --- made once ---------------------------------------------------------------------------------------------------


def test_structures_are_made_once_and_mapped(folder, face_set, monkeypatch):
    lines = []
    made = structures(face_set, LOOK, lines.append)
    assert made.shape == (6, 36, 36, 4) and made.dtype == np.uint8 and isinstance(made, np.memmap)
    assert lines == ["faces: flat regions of 6 photos"]
    monkeypatch.setattr(module, "smooth_l0", None)  # would fail if anything were made
    assert np.array_equal(structures(face_set, LOOK, lines.append), made) and len(lines) == 1
    (kept,) = folder.glob("structures-36-*")
    assert [path.name for path in kept.iterdir()] == ["images.npy"]
    with pytest.raises(ValueError):
        made[0] = 0  # nothing that reads it can change it


def test_structures_are_those_of_their_photos(folder, face_set, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)  # six photos: one whole chunk, and a part of one
    made = structures(face_set, LOOK, silent)
    features = features_mask(torch.from_numpy(face_set.points), 36)
    expected = flat(to_tensor(face_set.images), features, PRICE)
    assert np.abs(made[..., :3].astype(int) - to_uint8(expected)).max() <= 1
    assert np.abs(made[..., 3] / 255 - features[:, 0].numpy()).max() < 0.01
    assert np.abs(made[2:4, :, ::-1].astype(int) - made[:2]).mean() < 3  # photos 2 and 3 are mirrored


def test_other_photos_and_another_price_are_made_anew(folder, face_set):
    first = structures(face_set, LOOK, silent)
    pairs = (face_set, Look(flatten=4 * PRICE, flow=0.0)), (replace(face_set, hash="other"), LOOK)
    others = [structures(*pair, silent) for pair in pairs]
    assert len(list(folder.glob("structures-36-*"))) == 3
    assert not np.array_equal(first, others[0]) and np.array_equal(first, others[1])
    made = structures(face_set, FLOWING, silent)
    assert made.shape == (6, 36, 36, 6) and np.array_equal(made[..., 3], first[..., 3])
    for change in ({"width": 1.5}, {"flow": 2.0}):
        assert not np.array_equal(structures(face_set, FLOWING.model_copy(update=change), silent), made)
    assert len(list(folder.glob("structures-36-*"))) == 6
    drawn_otherwise = Look(flatten=PRICE, flow=0.0, ink=0.1, vivid=3.0, width=9.0)
    assert np.array_equal(structures(face_set, drawn_otherwise, silent), first)


# --- beside their photos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_structures_are_cropped_turned_and_lit_like_their_photos(face_set, augment, shard):
    """A fourth channel beside the photos themselves: what both batches share must be equal, and it keeps its values."""
    ramp = np.broadcast_to(np.arange(36, dtype=np.uint8)[:, None] + 36 * np.arange(6, dtype=np.uint8), (36, 6))
    ramp = np.repeat(ramp.T[:, :, None], 36, axis=2)  # which photo and which row it is, in one byte
    both = replace(face_set, images=np.concatenate([face_set.images, ramp[..., None]], axis=3))
    photos, structured = (Batches(s, 32, 4, 3, "cpu", augment, shard, relight=True) for s in (face_set, both))
    for step in (0, 5):
        found = structured(step)
        assert torch.equal(found[:, :3], photos(step)) and found.is_contiguous(memory_format=torch.channels_last)
        draw = photos._draw(step)
        photo, corner = draw["image"], draw["corner"] if augment else torch.full((len(found), 2), 2)
        rows = (found[:, 3, :, 0] + 1) * 127.5
        assert torch.allclose(rows, (36 * photo + corner[:, 0])[:, None] + torch.arange(32.0), atol=1e-3)


def test_half_of_the_photos_are_relit(face_set):
    plain, relit = (Batches(face_set, 32, 4, 0, relight=relight) for relight in (False, True))
    gammas = []
    for step in range(40):
        before, after = (batches(step).double() / 2 + 0.5 for batches in (plain, relit))
        for one, other in zip(before, after):
            inside = (one > 0.05) & (one < 0.95)
            powers = other[inside].log() / one[inside].log()
            assert powers.std() < 1e-3
            gammas.append(powers.mean().item())
    gammas = np.array(gammas)
    assert 0.35 < np.mean(np.abs(gammas - 1) < 1e-3) < 0.65
    assert 0.5 <= gammas.min() < 0.6 and 1.7 < gammas.max() <= 2 + 1e-6
    assert 0.4 < np.mean(gammas[np.abs(gammas - 1) > 1e-3] > 1) < 0.6  # darker as often as lighter
