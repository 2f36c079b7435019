import kornia
import numpy as np
import pytest
import skimage
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cartoonlib import superpixels
from cartoonlib.bench.segmentation import (
    boundary_recall,
    explained_variance,
    fill_segments,
    segment_felzenszwalb,
    segment_slic,
    undersegmentation_error,
)
from cartoonlib.representations import structure
from cartoonlib.superpixels import fill, rgb_to_lab, slic, slic_grid, smooth

SEGMENTATIONS = {"slic": segment_slic, "felzenszwalb": segment_felzenszwalb}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def to_array(images: torch.Tensor) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] -> (B, H, W, 3) in [0, 1]."""
    return images.permute(0, 2, 3, 1).double().numpy() / 2 + 0.5


def fill_one(image: np.ndarray, labels: np.ndarray, adaptive: bool = True, brighten: float = 1.0) -> np.ndarray:
    """`fill` as `fill_segments` is called."""
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1
    return to_array(fill(tensor, torch.from_numpy(labels)[None], labels.max() + 1, adaptive, brighten))[0]


@pytest.fixture(scope="module")
def face(face_photos):
    return face_photos[0] / 255


# --- SLIC --------------------------------------------------------------------------------------------------------


def test_lab_is_that_of_kornia_and_of_scikit_image(faces_tensor):
    rgb = torch.cat([faces_tensor / 2 + 0.5, torch.rand(2, 3, 128, 128, generator=rng())])
    lab = rgb_to_lab(rgb)
    assert torch.allclose(lab, kornia.color.rgb_to_lab(rgb), atol=2e-3)
    assert np.abs(lab.permute(0, 2, 3, 1).numpy() - skimage.color.rgb2lab(rgb.permute(0, 2, 3, 1).numpy())).max() < 2e-3


@pytest.mark.parametrize("size", [(20, 31), (3, 1)])  # the second is smaller than the window
def test_smoothing_is_that_of_scikit_image(size):
    image = torch.rand(1, 3, *size, generator=rng())
    expected = skimage.filters.gaussian(image[0].numpy(), sigma=1, mode="reflect", channel_axis=0)
    assert np.allclose(smooth(image, 1.0)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("segments", [1, 2, 30, 60, 200, 1000])
def test_the_grid_is_near_the_segments_that_were_asked_for_and_not_above(segments):
    for height, width in [(128, 128), (64, 96), (200, 50)]:
        rows, columns = slic_grid(height, width, segments)
        assert 0.7 * segments <= rows * columns <= segments
    assert slic_grid(128, 128, 200) == (14, 14)
    assert slic_grid(2, 3, 1000) == (2, 3)  # a pixel each


def plain_slic(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The definition, in float64: (H, W, 3) in [0, 1] -> labels (H, W)."""
    height, width, _ = image.shape
    lab = skimage.color.rgb2lab((image - image.min()) / (image.max() - image.min()))
    lab = skimage.filters.gaussian(lab, superpixels.SIGMA, mode="reflect", channel_axis=2) / superpixels.COMPACTNESS
    y, x = np.mgrid[:height, :width]
    step = np.sqrt(height * width / (rows * columns))
    features = np.concatenate([lab, np.stack([y, x], axis=2) / step], axis=2)
    row, column = y * rows // height, x * columns // width
    labels = row * columns + column
    centers = {}
    for _ in range(superpixels.ITERATIONS):
        best = np.full((height, width), np.inf)
        previous, labels = labels, labels.copy()
        for k in range(rows * columns):
            if (previous == k).any():
                centers[k] = features[previous == k].mean(axis=0)
            near = (abs(row - k // columns) <= 1) & (abs(column - k % columns) <= 1)
            distance = np.where(near, np.square(features - centers[k]).sum(axis=2), np.inf)
            labels[distance < best] = k
            best = np.minimum(best, distance)
    return labels


@pytest.mark.parametrize("height, width, segments", [(37, 53, 40), (64, 32, 7), (48, 48, 36)])
def test_slic_is_its_definition(faces_tensor, height, width, segments):
    images = faces_tensor[:, :, 40 : 40 + height, 30 : 30 + width]
    labels = slic(images, segments)
    assert labels.shape == (2, height, width) and labels.dtype == torch.int64
    for image, ours in zip(to_array(images), labels.numpy()):
        expected = plain_slic(image, *slic_grid(height, width, segments))
        assert (ours == expected).mean() > 0.998  # float32 and float64 part where two segments are equally near


def test_an_empty_segment_keeps_its_centre(monkeypatch):
    """Both halves of the middle cell are more like their neighbours than like their mean; no soft edge is like it."""
    monkeypatch.setattr(superpixels, "SIGMA", 0.1)
    image = np.zeros((36, 36, 3))
    image[12:, :18, 0] = 1
    image[12:, 18:, 2] = 1
    labels = slic(torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1, 9)[0].numpy()
    assert 4 not in labels
    assert (labels == plain_slic(image, 3, 3)).all()


@pytest.mark.parametrize("height, width, segments", [(128, 128, 200), (37, 53, 40), (5, 64, 30), (3, 2, 6), (4, 4, 1)])
def test_a_segment_stays_around_its_cell(height, width, segments):
    images = torch.rand(2, 3, height, width, generator=rng()) * 2 - 1
    labels = slic(images, segments)
    rows, columns = slic_grid(height, width, segments)
    assert labels.min() >= 0 and labels.max() < rows * columns
    row, column = torch.arange(height)[:, None] * rows // height, torch.arange(width) * columns // width
    assert (labels // columns - row).abs().max() <= 1 and (labels % columns - column).abs().max() <= 1


@pytest.mark.parametrize("segments", [30, 200])
def test_nearly_all_segments_are_used(faces_tensor, segments):
    for labels in slic(faces_tensor, segments):
        assert 0.8 * segments < len(labels.unique()) <= segments


def test_an_image_does_not_depend_on_its_batch(faces_tensor):
    images = torch.cat([faces_tensor, torch.rand(2, 3, 128, 128, generator=rng()) * 2 - 1])
    labels = slic(images, 200)
    colored = fill(images, labels, 196)
    for i in range(4):
        assert torch.equal(slic(images[i : i + 1], 200)[0], labels[i])
        assert torch.equal(fill(images[i : i + 1], labels[i : i + 1], 196)[0], colored[i])


def test_the_order_in_memory_does_not_matter(faces_tensor):
    channels_last = faces_tensor.contiguous(memory_format=torch.channels_last)
    for segments in (7, 200):
        expected = structure(faces_tensor, segments)
        assert torch.equal(structure(channels_last, segments), expected)


def test_contrast_and_brightness_do_not_matter_to_slic(faces_tensor):
    assert (slic(faces_tensor * 0.3 - 0.2, 200) == slic(faces_tensor, 200)).float().mean() > 0.99


def test_slic_computes_in_float32_under_autocast(faces_tensor):
    expected = structure(faces_tensor, 200)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(structure(faces_tensor, 200), expected)


def test_slic_is_as_good_as_scikit_images(face_photos, faces_tensor):
    """With no more segments: better, as fragments may go where they fit. The third segmentation favours neither."""
    quality = {"torch": [], "scikit-image": []}
    for photo, image in zip(face_photos / 255, faces_tensor):
        reference = segment_felzenszwalb(photo, 60)
        theirs = segment_slic(photo, 200)
        ours = slic(image[None], len(np.unique(theirs)))[0].numpy()
        for name, labels in [("torch", ours), ("scikit-image", theirs)]:
            recall, error = boundary_recall(labels, reference, 1), undersegmentation_error(labels, reference)
            quality[name].append([recall, 1 - error, explained_variance(photo, labels)])
    ours, theirs = np.mean(quality["torch"], axis=0), np.mean(quality["scikit-image"], axis=0)
    assert (ours > 0.98 * theirs).all(), quality


class OnlyOn(TorchDispatchMode):
    """Raises where a tensor is on another device, and notes the operations."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.seen = device, set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves((arguments, options, result)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != self.device:
                raise RuntimeError(f"{function} on {tensor.device}")
        self.seen.add(function.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("adaptive", [True, False])
def test_nothing_waits_for_the_device_and_no_sum_depends_on_an_order(adaptive):
    """Fake tensors have no values: they raise at .item(), nonzero, masks and whatever else needs one. No GPU needed."""
    with FakeTensorMode(), OnlyOn("cuda") as mode:
        images = torch.empty(4, 3, 60, 96, device="cuda", dtype=torch.bfloat16)
        images = images.contiguous(memory_format=torch.channels_last)
        colored = structure(images, 60, adaptive, 1.2)
    superpixels._gaussian_matrix.cache_clear()  # fake ones
    assert colored.shape == images.shape and colored.dtype == torch.float32
    assert {"baddbmm", "sort"} <= mode.seen
    assert not [name for name in mode.seen if "scatter" in name or name in ("index_add", "index_put", "bincount")]


@pytest.mark.gpu
def test_a_cuda_graph_records_it(faces_tensor):
    static = torch.zeros_like(faces_tensor, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        structure(static, 200)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        colored = structure(static, 200)
    static.copy_(faces_tensor)
    graph.replay()
    assert torch.equal(colored, structure(static, 200))
    assert (colored.cpu() - structure(faces_tensor, 200)).abs().mean() < 1e-3


# --- one colour per segment --------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [True, False])
def test_filling_is_that_of_the_reference(face_photos, faces_tensor, adaptive):
    labels = slic(faces_tensor, 200)
    ours = to_array(fill(faces_tensor, labels, 196, adaptive, brighten=1.2))
    for photo, own_labels, filled in zip(face_photos / 255, labels.numpy(), ours):
        assert np.allclose(filled, fill_segments(photo, own_labels, adaptive, brighten=1.2), atol=1e-6)


@pytest.mark.parametrize("count", [5, 2**15])  # the second does not fit into 32 bits
def test_filling_rounds_colours_between_the_8_bit_levels(count):
    images = torch.rand(2, 3, 40, 30, generator=rng()) * 2 - 1
    labels = torch.randint(0, 5, (2, 40, 30), generator=rng()) * (count // 5)
    for image, own_labels, filled in zip(to_array(images), labels.numpy(), to_array(fill(images, labels, count))):
        assert np.allclose(filled, fill_segments(image, own_labels), atol=1e-5)


@pytest.mark.parametrize("method", SEGMENTATIONS)
def test_every_segment_has_one_colour(face, faces_tensor, method):
    labels = SEGMENTATIONS[method](face, 100)
    assert labels.min() == 0 and labels.shape == (128, 128)
    filled = fill_segments(face, labels)
    for label in np.unique(labels):
        colours = filled[labels == label]
        assert np.ptp(colours, axis=0).max() == 0
    if method == "felzenszwalb":
        return  # compared alone, not trained with
    result = structure(faces_tensor, 100)
    assert result.shape == (2, 3, 128, 128) and result.dtype == torch.float32 and result.abs().max() <= 1
    assert len(result[0].flatten(1).T.unique(dim=0)) <= 100
    assert np.abs(to_array(result)[0] - face).mean() < 0.06  # and it is the picture


@pytest.mark.parametrize("filling", [fill_segments, fill_one])
@pytest.mark.parametrize("deviation, share", [(10, 0.0), (30, 0.5), (60, 1.0)])  # on the 0-255 scale; of the median
def test_adaptive_colouring_is_mean_or_median_by_deviation(filling, deviation, share):
    """A segment of three quarters a and one quarter b deviates by sqrt(3)/4 |b - a|; its mean is not its median."""
    a, b = 0.2, 0.2 + deviation / 255 * 4 / np.sqrt(3)
    image = np.full((8, 8, 3), a)
    image[:, 6:] = b
    mean, median = 0.75 * a + 0.25 * b, a
    labels = np.zeros((8, 8), int)
    expected = np.full((8, 8, 3), (1 - share) * mean + share * median)
    assert filling(image, labels) == pytest.approx(expected, abs=1e-5)
    assert filling(image, labels, adaptive=False) == pytest.approx(np.full((8, 8, 3), mean), abs=1e-5)


@pytest.mark.parametrize("filling", [fill_segments, fill_one])
def test_medians_of_several_segments_and_of_even_counts(filling):
    values = np.random.default_rng(0).random((12, 12, 3))  # deviation 0.29 * 255: all are medians
    labels = np.random.default_rng(1).integers(0, 5, (12, 12)) * 2  # odd labels are empty
    filled = filling(values, labels)
    for label in np.unique(labels):
        assert np.allclose(filled[labels == label][0], np.median(values[labels == label], axis=0), atol=1e-5)


@pytest.mark.parametrize("filling", [fill_segments, fill_one])
def test_brighten_brightens_in_range(filling):
    image, labels = np.full((4, 4, 3), 0.4), np.zeros((4, 4), int)
    assert filling(image, labels, brighten=1.2)[0, 0, 0] == pytest.approx(0.4 ** (1 / 1.2), abs=1e-5)
    assert filling(image, labels, brighten=1.2).max() > 0.4
    extremes = np.array([[[0.0, 0.5, 1.0]]])
    assert filling(extremes, np.zeros((1, 1), int), brighten=1.2)[0, 0, [0, 2]].tolist() == [0, 1]


# --- scikit-image, one image after the other ---------------------------------------------------------------------


def test_scikit_images_slic_has_at_most_the_segments_that_were_asked_for(face):
    for segments in (30, 200):
        assert 0.5 * segments < len(np.unique(segment_slic(face, segments))) <= segments


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


# --- quality -----------------------------------------------------------------------------------------------------


def stripes(*edges: int) -> np.ndarray:
    """Labels (6, 12), cut into vertical stripes at some columns."""
    return np.searchsorted(edges, np.arange(12), side="right")[None] * np.ones((6, 1), int)


def test_boundary_recall_counts_what_is_near():
    assert boundary_recall(stripes(4, 8), stripes(4, 8), 0) == 1
    assert boundary_recall(stripes(5, 8), stripes(4, 8), 0) == 0.75  # columns 3, 4 and 7, 8 are wanted; 3 is missed
    assert boundary_recall(stripes(5, 8), stripes(4, 8), 1) == 1
    assert boundary_recall(stripes(8), stripes(4, 8), 1) == 0.5
    assert np.isnan(boundary_recall(stripes(4), stripes(), 1))


def test_undersegmentation_error_counts_what_leaks():
    assert undersegmentation_error(stripes(2, 4, 8), stripes(4)) == 0  # cut too finely is no leak
    # Columns 4 to 9 are 1 : 5 on the two sides of 5, and the smaller part counts for both regions.
    assert undersegmentation_error(stripes(4, 10), stripes(5)) == pytest.approx(2 / 12)


def test_explained_variance_is_the_share_that_the_means_keep(face):
    image = stripes(4, 8)[:, :, None] * np.array([0.1, 0.2, 0.3])
    assert explained_variance(image, stripes(4, 8)) == pytest.approx(1)
    assert explained_variance(image, stripes()) == pytest.approx(0)
    assert explained_variance(image, stripes(8)) == pytest.approx(0.75)  # 2 (1/2)^2 + 1 of 2: 0 and 1 become 1/2
    assert np.isnan(explained_variance(np.ones((6, 12, 3)), stripes(4)))
    assert 0.8 < explained_variance(face, segment_slic(face, 100)) < explained_variance(face, segment_slic(face, 300))


# --- for the structure representation ----------------------------------------------------------------------------


def test_the_first_segment_is_not_painted_black():
    assert structure(torch.ones(1, 3, 32, 32), 9).min() > 0.99


def test_no_gradient_values_outside_the_range_and_none_at_all():
    images = torch.randn(2, 3, 32, 32, generator=rng()) * 2
    images[0, :, 5, 7], images[0, 1, 9, 9], images[1] = torch.inf, -torch.inf, torch.nan
    images.requires_grad_()
    result = structure(images, 20)
    assert not result.requires_grad and result.abs().max() <= 1
    assert (result[1] == -1).all()
