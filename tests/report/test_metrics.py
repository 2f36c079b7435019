import dataclasses
import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from cartoonlib.dataset import catalogue
from cartoonlib.files import InputError
from cartoonlib.images import center_crop
from cartoonlib.media import faces
from cartoonlib.media.faces import align
from cartoonlib.report import london, metrics, tables
from cartoonlib.report.metrics import Evaluator, estimate, flatness, kid, landmark_errors, mean_estimate


def normal(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def contains(estimate) -> bool:
    tolerance = 1e-9 * abs(estimate.value)
    return estimate.low - tolerance <= estimate.value <= estimate.high + tolerance


# --- intervals ---------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_the_normal_one_and_repeats():
    values = normal(400, 1)[:, 0] * 3 + 7
    estimate = mean_estimate(values)
    assert estimate.value == pytest.approx(values.mean()) and estimate.n == 400
    assert estimate.low == pytest.approx(values.mean() - 1.96 * 3 / 20, abs=0.06)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * 3 / 20, abs=0.06)
    assert mean_estimate(values) == estimate
    assert mean_estimate(np.full(5, 2.5)) == metrics.Estimate(2.5, 2.5, 2.5, 5, draws=np.empty(0))


@pytest.mark.parametrize("n", [2, 3, 12, 100])
def test_intervals_are_finite_and_contain_the_value(n):
    x, y = normal(n, 8), normal(n, 8, seed=1)
    for found in (mean_estimate(x[:, 0]), kid(x, y), kid(x, y + 1), kid(x, y).over(kid(x, y + 1))):
        assert np.isfinite([found.low, found.high]).all() and contains(found) and found.n == n


def test_other_statistics_than_the_mean_have_the_same_resampling():
    values = normal(101, 1)[:, 0]
    assert estimate(values, np.mean).value == pytest.approx(mean_estimate(values).value)
    assert estimate(values, np.mean).low == pytest.approx(mean_estimate(values).low)
    median = estimate(values, np.median)
    assert median.value == np.median(values) and 0.1 < median.high - median.low < 1


def test_a_distance_in_units_of_another_has_the_interval_of_the_ratio():
    """Images that are far from both cancel: twice the distance is exactly twice."""
    x, y = normal(40, 8), normal(40, 8, seed=1) + 1
    whole = kid(x, y)
    double = metrics.Estimate(2 * whole.value, 2 * whole.low, 2 * whole.high, 40, 2 * whole.draws)
    ratio = double.over(whole)
    assert ratio.value == pytest.approx(2) and ratio.high - ratio.low < 1e-9
    assert kid(x + 0.2, y).over(whole).high < 1
    near = kid(x, x)  # below 0: sets that are no distance apart give no unit
    assert np.isfinite(whole.over(near).value)


def test_the_interval_of_a_difference_is_that_of_the_paired_differences():
    hard, gain = normal(50, 1)[:, 0] * 10, normal(50, 1, seed=1)[:, 0] * 0.1 + 1
    before, after = mean_estimate(hard), mean_estimate(hard + gain)
    difference = after.minus(before)
    assert difference.value == pytest.approx(gain.mean())
    assert 0.9 < difference.low < difference.high < 1.1  # although each mean is known to +-2.8 only
    assert after.low < before.high


def test_distances_to_the_photos_do_not_count_an_output_and_its_own_photo():
    x = normal(14, 8)
    assert kid(x, x, paired=True).value == pytest.approx(0)
    assert kid(x, x).value < -100  # what counting the pairs would say


def test_one_image_is_too_few_for_a_distance():
    with pytest.raises(InputError, match="too few"):
        kid(normal(1, 8), normal(9, 8))


# --- kernel distance ---------------------------------------------------------------------------------------------


def naive_kid(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return 1000 * (within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m))


def test_kid_equals_a_double_loop():
    x, y = normal(7, 5), normal(9, 5, seed=1) + 0.5
    assert kid(x, y).value == pytest.approx(naive_kid(x, y), rel=1e-9)


def test_kid_is_unbiased():
    """Over many small samples of one distribution the mean is 0; with the pairs (i, i) it would be about 1000."""
    values = [kid(normal(6, 8, seed), normal(6, 8, 1000 + seed)).value for seed in range(150)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values)) < 200


def test_resampling_adds_no_bias():
    """Images that are drawn twice are no pairs: the centre of the interval stays at the value."""
    estimate = kid(normal(12, 8), normal(12, 8, seed=1))
    assert abs((estimate.low + estimate.high) / 2 - estimate.value) < 0.25 * (estimate.high - estimate.low)
    kernel, counts = normal(5, 5), np.array([2.0, 0, 1, 3, 0])
    drawn = np.repeat(np.arange(5), counts.astype(int))
    pairs = [kernel[i, j] for i in drawn for j in drawn if i != j]
    assert metrics._off_diagonal_mean(kernel, counts) == pytest.approx(np.mean(pairs))


def test_kid_sees_a_shift_and_nothing_between_a_set_and_itself():
    x = normal(300, 8)
    same, shifted = kid(x, x), kid(x, x + 0.5)
    assert abs(same.value) < 0.1 * shifted.value and shifted.low > 0


# --- per image ---------------------------------------------------------------------------------------------------


def test_landmark_errors_by_hand():
    reference = np.zeros((2, 68, 2))
    reference[:, 36], reference[:, 45] = (0.3, 0.5), (0.7, 0.5)  # outer eye corners, 0.4 apart
    moved = reference.copy()
    moved[1] += (0.06, 0.08)
    assert landmark_errors(moved, reference) == pytest.approx([0, 0.1 / 0.4])


def test_flatness_of_a_flat_image_of_noise_and_of_halves():
    flat = np.full((32, 32, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    halves = flat.copy()
    halves[:, 16:] = 200  # of 30 inner columns the 2 at the edge are not flat
    values = flatness(np.stack([flat, noise, halves]))
    assert values[0] == 1 and values[1] < 0.01 and values[2] == pytest.approx(28 / 30)


@pytest.mark.parametrize("step, expected", [(3, 1.0), (5, 0.0)])
def test_flat_means_within_four_levels_of_all_eight_neighbours(step, expected):
    board = (np.indices((16, 16)).sum(axis=0) % 2 * step + 100).astype(np.uint8)
    assert flatness(np.stack([board] * 3, axis=-1)[None]) == pytest.approx([expected])


# --- evaluator ---------------------------------------------------------------------------------------------------


class BrightPoints(nn.Module):
    """A detector of 68 points that follow the image: each is the centre of brightness, plus its own offset."""

    def forward(self, images):
        weight = (images.mean(dim=1) + 1).flatten(1) + 1e-3
        y, x = torch.meshgrid(*[torch.linspace(0, 1, side) for side in images.shape[2:]], indexing="ij")
        centre = torch.stack([(weight * axis.flatten()).sum(1) / weight.sum(1) for axis in (x, y)], dim=-1)
        return centre[:, None] + torch.linspace(-0.2, 0.2, 68)[:, None]


@pytest.fixture(scope="module")
def evaluator(face_set, cartoon_set, lite0):
    photos, cartoons = (center_crop(images.images, 32) for images in (face_set, cartoon_set))
    return Evaluator(photos, cartoons, lite0, lite0, BrightPoints())


@pytest.fixture(scope="module")
def measured(evaluator):
    """Metrics of the untouched photos, and of photos made flat and dark on one side."""
    changed = evaluator.photos.copy()
    changed[:, :, :16] = 40
    return evaluator.measure(evaluator.photos), evaluator.measure(changed)


def test_the_untouched_photo_has_no_error(measured):
    photo, _ = measured
    for name in ("landmark_error", "content_distance", *metrics.SKIN, "skin_worst", "blacks"):
        assert (photo[name].value, photo[name].low, photo[name].high) == (0, 0, 0)
    for name in ("style_distance", "face_style_distance", "stroke", "mesh"):
        assert (photo[name].value, photo[name].low, photo[name].high) == pytest.approx((1, 1, 1))
    assert photo["kid_photo"].value < photo["kid_cartoon"].value


def test_a_changed_photo_is_measured_as_changed(measured):
    photo, changed = measured
    assert list(photo) == list(changed) == [*tables.DISTANCES, *tables.FAULTS]
    assert {e.n for name, e in photo.items() if name not in (*metrics.SKIN, "blacks")} == {6}
    for name in ("landmark_error", "content_distance", "flatness", "kid_photo", "skin_worst"):
        assert changed[name].value > photo[name].value
    assert all(contains(e) for e in changed.values())
    two = changed["style_distance"], changed["face_style_distance"]
    assert all(abs(e.value - 1) > 0.01 for e in two) and two[0].value != two[1].value  # each is of its own network


def test_a_row_says_of_each_metric_which_network_saw_what(evaluator, measured):
    estimates = measured[1] | {"milliseconds": mean_estimate(np.ones(6))}
    rows = metrics.rows(estimates, evaluator.networks, Still(), "drawn", "original", "added", 1)
    about = {"style": "drawn", "variant": "original", "group": "added", "steps": 7, "seed": 1, "code": "abc"}
    assert all(about.items() <= row.items() and row["low"] <= row["value"] <= row["high"] for row in rows)
    networks = {row["metric"]: row["features"] for row in rows}
    lite = "EfficientNet-Lite0"
    assert networks == dict.fromkeys((*tables.FAULTS, "flatness", "milliseconds"), "-") | {
        "style_distance": lite, "face_style_distance": "faceapi128", "kid_cartoon": lite, "kid_photo": lite,
        "landmark_error": "faceapi68", "likeness": "faceapi128", "content_distance": lite,
    }  # fmt: skip


def test_generate_returns_bytes_in_the_order_of_the_photos(face_set):
    photos = center_crop(face_set.images, 32)
    assert np.array_equal(metrics.generate(nn.Identity(), photos), photos)
    many = np.concatenate([photos] * 12)  # more than one batch
    assert len(many) > metrics.BATCH and np.array_equal(metrics.generate(nn.Identity(), many), many)


def test_points_set_by_hand_follow_their_face(tmp_path, monkeypatch):
    source = dataclasses.replace(catalogue.find("london"), folder=str(tmp_path))
    monkeypatch.setattr(catalogue, "find", lambda name: source)
    assert london.hand_made_points(64) is None
    astronaut = skimage.data.astronaut()
    Image.fromarray(astronaut).save(tmp_path / "one.jpg", quality=95)
    face = faces.detect_faces(astronaut)[0]
    points = np.zeros((189, 2))
    points[[18, 22, 23, 27, 55, 87, 93]] = face.points[[0, 0, 1, 1, 2, 3, 4]] - 0.5  # there, 0 is a pixel's centre
    (tmp_path / "points189.json").write_text(json.dumps({"one": points.tolist()}), encoding="utf-8")
    found = london.hand_made_points(64)
    pictures, truth = found.aligned(found.pictures), found.truth
    aligned = align(astronaut, face.points, 64)[1]
    assert pictures.shape == (1, 64, 64, 3)
    assert abs(truth[0] - aligned[[0, 0, 1, 1, 2, 3, 4]]).max() < 0.02  # JPEG moves the detector a little
    width = np.linalg.norm(truth[0, 0] - truth[0, 3])
    assert landmark_errors(truth, truth, london.EYES) == 0
    assert landmark_errors(truth + [width, 0], truth, london.EYES) == pytest.approx(1)
    both = json.dumps(dict.fromkeys(("one", "two"), points.tolist()))
    (tmp_path / "points189.json").write_text(both, encoding="utf-8")
    Image.fromarray(astronaut).save(tmp_path / "two.jpg")
    assert [len(london.hand_made_points(64, most).pictures) for most in (None, 1)] == [2, 1]


class Still:
    """A finished run whose generator changes nothing."""

    summary = {"steps": 7, "code": "abc"}

    def generator(self, device="cpu"):
        return nn.Identity()


def test_rows_of_the_london_set_hold_the_photos_and_every_style(face_set):
    photos = center_crop(face_set.images, 32)
    truth = metrics.landmarks_of(BrightPoints(), photos)[:, london.AMONG_68]
    shift = np.linalg.norm(truth[:, 0] - truth[:, 3], axis=-1)[:, None, None] * [0.5, 0.0]
    points = [faces.CANONICAL * 32] * len(photos)  # so that they are cut as they are
    found = london.Faces(list(photos), points, truth + shift, 32)
    rows = london.measured_rows(found, {"anime": Still()}, BrightPoints(), 3, "cpu")
    assert [(row["style"], row["variant"], row["steps"], row["code"]) for row in rows] == [
        ("-", "untouched photo", 0, "-"), ("anime", "full method", 7, "abc"),
    ]  # fmt: skip
    for row in rows:
        assert row["value"] == pytest.approx(0.5) and row["low"] <= row["value"] <= row["high"]
        assert (row["group"], row["metric"], row["seed"], row["n"]) == ("london", "hand_made_error", 3, 6)


def test_whole_pictures_are_drawn_and_then_judged_by_their_faces(evaluator):
    """Each picture goes to `draw` as it came; what comes back is cut at the points of its photo."""
    photos = evaluator.photos
    wide = [np.pad(photo, ((8, 8), (20, 4), (0, 0))) for photo in photos]
    points = [faces.CANONICAL * photos.shape[1] + [20, 8] for _ in photos]
    found = london.Faces(wide, points, np.zeros((len(photos), 7, 2)), photos.shape[1])
    assert abs(found.aligned(wide).astype(int) - photos).max() <= 1
    seen = []
    rows = london.whole_rows(
        found, Still(), "anime", evaluator, 3, lambda generator, picture: (seen.append(picture.shape), 255 - picture)[1]
    )
    assert seen == [picture.shape for picture in wide]
    aligned, whole = ([row for row in rows if row["variant"] == title] for title in ("aligned faces", "whole pictures"))
    changes = [{row["metric"]: row["value"] for row in part}["content_distance"] for part in (aligned, whole)]
    assert changes[0] == 0 < changes[1] and {row["group"] for row in rows} == {"london"}


def test_a_style_of_photos_lies_near_to_the_photos(face_set, cartoon_set, lite0):
    photos = dataclasses.replace(face_set, name="my comics", images=face_set.images[:, 1:-1, 1:-1])
    near, far = (metrics.from_photos(images, face_set, lite0.embed) for images in (photos, cartoon_set))
    assert near.value < 1000 < far.value  # what found_data asks about
