"""Batches of a prepared set on the device, each a pure function of seed and step."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .prepare import ImageSet


class PerStep:
    """Small tensors that are functions of the step, on the device: made 64 steps at a time and copied there together.

    A copy in every step would wait for a GPU. `make(step)` gives a dict of CPU tensors of one shape for all steps.
    """

    WINDOW = 64

    def __init__(self, make: Callable[[int], dict[str, Tensor]], device: torch.device):
        self._make, self._device, self._window, self._values = make, device, -1, {}

    def __call__(self, step: int) -> dict[str, Tensor]:
        window, place = divmod(step, self.WINDOW)
        if window != self._window:
            rows = [self._make(window * self.WINDOW + i) for i in range(self.WINDOW)]
            self._values = {key: torch.stack([row[key] for row in rows]).to(self._device) for key in rows[0]}
            self._window = window
        return {key: value[place] for key, value in self._values.items()}


class Batches:
    """Endless batches of a set's training images on the device: `batches(step)` is a pure function of seed and step.

    (count, C, size, size) float32 in [-1, 1], channels_last; what images have beyond red, green and blue keeps its
    values. Images are drawn without repetition while there are enough. Augmentation: a random crop, a horizontal flip,
    up to 6 % of brightness and 8 % of saturation, and with `relight` for half of them a light of gamma 1/2 to 2, all on
    the device; without it the crop is central. Sets of equal length have the same draws, so that a photo and what was
    made of it stay together. shard: (rank, processes), each of which gets its part of every batch.

    A GPU holds the images as bytes when they fit into a quarter of its free memory; else, as on the CPU, they stay
    where the set has them, mapped from the disk, and the chosen ones are copied step by step.
    """

    def __init__(
        self, images: ImageSet, size: int, count: int, seed: int, device="cpu", augment: bool = True, shard=(0, 1),
        relight: bool = False,
    ):  # fmt: skip
        rank, processes = shard
        self.size, self.count, self.seed, self.augment, self.relight = size, count, seed, augment, relight
        self.device = torch.device(device)
        self._mine = slice(rank * count // processes, (rank + 1) * count // processes)
        self._images, self._rows = images.images, np.flatnonzero(images.split == "train")
        self._range = torch.arange(size, device=self.device)
        self._draws = PerStep(self._draw, self.device)
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 0
        fits = len(self._rows) * self._images[:1].nbytes < free / 4
        self._store = torch.from_numpy(self._images[self._rows]).to(self.device) if fits else None

    def _draw(self, step: int) -> dict[str, Tensor]:
        """Which images, and what is done to each; drawn for the whole batch whatever the number of processes."""
        number, spare = len(self._rows), self._images.shape[1] - self.size
        words = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        random = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        rounds = [torch.randperm(number, generator=random) for _ in range(-(-self.count // number))]
        draw = {"image": torch.cat(rounds)[: self.count], "corner": torch.full((self.count, 2), spare // 2)}
        draw["flip"] = torch.zeros(self.count, 1, dtype=torch.bool)
        if self.augment:
            draw["corner"] = torch.randint(spare + 1, (self.count, 2), generator=random)
            draw["flip"] = torch.rand(self.count, 1, generator=random) < 0.5
            draw["colour"] = torch.rand(2, self.count, 1, 1, 1, generator=random).movedim(0, 1) * 2 - 1
            stops = torch.rand(2, self.count, 1, 1, 1, generator=random)
            draw["gamma"] = torch.where(stops[0] < 0.5, 2 ** (stops[1] * 2 - 1), 1.0)
        return {key: value[self._mine] for key, value in draw.items()}

    def __call__(self, step: int) -> Tensor:
        draw = self._draws(step)
        rows = draw["corner"][:, :1] + self._range
        columns = draw["corner"][:, 1:] + torch.where(draw["flip"], self._range.flip(0), self._range)
        if self._store is None:
            chosen = torch.from_numpy(self._images[self._rows[self._draw(step)["image"].numpy()]])
            if self.device.type == "cuda":
                chosen = chosen.pin_memory().to(self.device, non_blocking=True)
            image = torch.arange(len(chosen), device=self.device)
        else:
            chosen, image = self._store, draw["image"]
        crops = chosen[image[:, None, None], rows[:, :, None], columns[:, None, :]]  # (count, size, size, 3)
        crops = crops.permute(0, 3, 1, 2).float() / 127.5 - 1  # as images.to_tensor, but left in channels_last
        if self.augment:
            crops[:, :3] = self._light(crops[:, :3], draw)
        return crops

    def _light(self, colours: Tensor, draw: dict[str, Tensor]) -> Tensor:
        brightness, saturation = draw["colour"].unbind(1)
        grey = colours.mean(dim=1, keepdim=True)
        colours = grey + (colours - grey) * (1 + 0.08 * saturation)
        colours = ((colours + 1) * (1 + 0.06 * brightness) - 1).clamp(-1, 1)
        return (colours / 2 + 0.5) ** draw["gamma"] * 2 - 1 if self.relight else colours
