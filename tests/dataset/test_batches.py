"""Images as tensors, and batches of them: functions of seed and step, crops, mild augmentation, several processes."""

import numpy as np
import torch

from cartoonlib.dataset.batches import Batches, PerStep
from cartoonlib.dataset.prepare import ImageSet
from cartoonlib.images import center_crop, to_tensor, to_uint8


def test_conversions_are_inverse():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    tensor = to_tensor(images)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert (to_uint8(tensor) == images).all()
    assert to_uint8(torch.full((3, 2, 2), 7.0)).max() == 255
    assert (to_tensor(torch.from_numpy(images)) == tensor).all()


def training_set(images, held_out=0):
    manifest = [{"split": "test"}] * held_out + [{"split": "train"}] * (len(images) - held_out)
    return ImageSet("set", "faces", "", "", images, np.zeros((len(images), 5, 2)), manifest, [], "")


def random_images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 36, 36, 3), dtype=np.uint8)


def test_a_batch_is_a_function_of_seed_and_step():
    images = training_set(random_images(20))
    first = Batches(images, 32, 16, seed=1)(5)
    assert first.shape == (16, 3, 32, 32) and first.dtype == torch.float32 and first.abs().max() <= 1
    assert first.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(123)
    batches = Batches(images, 32, 16, seed=1)
    others = [batches(step) for step in (4, 6, 200)]  # windows of draws come and go
    assert torch.equal(first, batches(5)) and not any(torch.equal(first, other) for other in others)
    assert not torch.equal(first, Batches(images, 32, 16, seed=2)(5))
    assert Batches(training_set(random_images(3)), 32, 8, seed=0)(0).shape[0] == 8  # more than there are


def test_a_crop_is_a_piece_of_its_image_flipped_or_not():
    images = random_images(6)
    draw = Batches(training_set(images), 32, 6, seed=3)._draw(7)
    batch = Batches(training_set(images), 32, 6, seed=3)(7)
    corners = set()
    for i in range(6):
        y, x = draw["corner"][i].tolist()
        corners.add((y, x))
        crop = to_tensor(images[draw["image"][i], y : y + 32, x : x + 32])
        crop = crop.flip(-1) if draw["flip"][i] else crop
        assert (batch[i] - crop).abs().max() < 0.35  # mild colour on pure noise
        assert np.corrcoef(batch[i].flatten(), crop.flatten())[0, 1] > 0.99
    assert len(corners) > 2 and sorted(draw["image"].tolist()) == list(range(6))


def test_processes_share_a_batch():
    images = training_set(random_images(20))
    whole = Batches(images, 32, 6, seed=1)(5)
    parts = [Batches(images, 32, 6, seed=1, shard=(rank, 3))(5) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2] and torch.equal(torch.cat(parts), whole)


def test_held_out_images_are_never_drawn():
    images = np.zeros((8, 36, 36, 3), np.uint8)
    images[:5] = 255
    assert Batches(training_set(images, held_out=5), 32, 16, seed=0)(0).max() < -0.8


def test_batches_without_augmentation_are_the_centre_without_repetition():
    images = random_images(16)
    plain = to_uint8(Batches(training_set(images), 32, 16, seed=0, augment=False)(0))
    wanted = center_crop(images, 32)
    assert (wanted == images[:, 2:34, 2:34]).all()
    assert sorted(image.tobytes() for image in plain) == sorted(image.tobytes() for image in wanted)


def test_augmentation_is_mild():
    grey = np.full((4, 36, 36, 3), 128, np.uint8)
    batch = Batches(training_set(grey), 32, 4, seed=0)(0)
    assert (batch - to_tensor(grey)[:, :, :32, :32]).abs().max() < 0.07
    ramp = np.broadcast_to(np.arange(36, dtype=np.uint8)[None, None, :, None] * 7, (64, 36, 36, 3)).copy()
    rows = Batches(training_set(ramp), 32, 64, seed=0)(0)[:, 0, 0]
    flipped = (rows[:, 0] > rows[:, -1]).float().mean()
    assert 0.25 < flipped < 0.75


def test_draws_are_copied_together():
    made = []

    def make(step):
        made.append(step)
        return {"value": torch.tensor(float(step))}

    values = PerStep(make, torch.device("cpu"))
    assert [values(step)["value"].item() for step in (3, 4, 70, 71, 3)] == [3, 4, 70, 71, 3]
    assert len(made) == 3 * PerStep.WINDOW  # not once for each step that asks
