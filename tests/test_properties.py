"""What holds for any shape, picture and profile (hypothesis): the smallest counterexample is printed if it does not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cartoonlib import losses, representations
from cartoonlib.dataset.batches import Batches
from cartoonlib.files import InputError
from cartoonlib.images import to_tensor, to_uint8
from cartoonlib.networks import Generator
from cartoonlib.profile import Profile, profile_of

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None)
sides = st.integers(16, 70)
seeds = st.integers(0, 2**32 - 1)
PICTURE = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), sides, sides, st.just(3)), elements=st.integers(0, 255))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@FEW
@given(PICTURE)
def test_bytes_survive_the_way_to_the_networks_and_back(images):
    tensor = to_tensor(images)
    assert tensor.shape == (len(images), 3, *images.shape[1:3]) and tensor.abs().max() <= 1
    assert np.array_equal(to_uint8(tensor), images)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator().eval().requires_grad_(False)


@FEW
@given(height=sides, width=sides, seed=seeds)
def test_a_generator_keeps_any_shape(generator, height, width, seed):
    output = generator(noise(seed, 1, 3, height, width))
    assert output.shape == (1, 3, height, width) and output.isfinite().all()


@FEW
@given(height=st.integers(32, 70), width=st.integers(32, 70), seed=seeds)
def test_representations_keep_shape_and_range(height, width, seed):
    images = noise(seed, 2, 3, height, width)
    surface = representations.surface(images)
    assert surface.shape == images.shape and surface.isfinite().all() and surface.abs().max() <= 1 + 1e-3
    weights = representations.color_shift_weights(torch.Generator().manual_seed(seed % 2**31))
    texture = representations.texture(images, weights)
    assert texture.shape == (2, 1, height, width) and texture.abs().max() <= 1 + 1e-5
    structure = representations.structure(images, segments=20)
    assert structure.shape == images.shape and structure.isfinite().all() and structure.abs().max() <= 1 + 1e-5


@FEW
@given(colour=st.tuples(*[st.floats(-1, 1)] * 3), side=st.integers(32, 70))
def test_a_flat_picture_is_its_own_representation(colour, side):
    images = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, side, side).contiguous()
    assert torch.allclose(representations.surface(images), images, atol=1e-4)
    assert torch.allclose(representations.structure(images, segments=20, brighten=1.0), images, atol=1e-4)


@FEW
@given(height=st.integers(32, 70), width=st.integers(32, 70), seed=seeds)
def test_losses_are_zero_for_a_picture_and_itself_and_never_negative(height, width, seed):
    one, other = noise(seed, 2, 3, height, width), noise(seed ^ 1, 2, 3, height, width)
    for loss in (losses.content, losses.structure, losses.anchor):
        assert loss(one, one).abs() < 1e-5 and loss(one, other) >= 0
    assert losses.total_variation(one) > 0
    assert losses.total_variation(torch.zeros_like(one)).abs() < 1e-5
    points = noise(seed, 2, 5, 2)
    assert losses.landmark(points, points, 1.0) == 0 <= losses.landmark(points, points + 0.1, 1.0)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["x4", "bf16", "slic", "vgg19", "stop"]),
)  # fmt: skip
FIELDS = list(Profile.model_fields)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=8)), VALUES, max_size=4))
def test_any_settings_make_a_profile_or_one_sentence(changes):
    try:
        profile = profile_of({"name": "any"} | changes)
    except InputError as problem:
        assert len(str(problem)) > 10 and str(problem).endswith((".", ")", "`?", "?"))
    else:
        assert profile.replace() == profile and len(profile.key()) == 8
        assert all(type(value) is not list for value in profile.model_dump().values())


@FEW
@given(count=st.integers(1, 5), step=st.integers(0, 10**6), seed=st.integers(0, 100))
def test_batches_are_functions_of_seed_and_step(face_set, count, step, seed):
    batches = [Batches(face_set, 32, count, seed) for _ in range(2)]
    first, second = (batch(step) for batch in batches)
    assert torch.equal(first, second) and first.shape == (count, 3, 32, 32) and first.abs().max() <= 1
