"""The sets of a profile, each opened once and handed on."""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..files import InputError
from ..images import center_crop
from ..profile import Profile
from .prepare import ImageSet, join_sets, prepare

OF_DATA = ("faces", "styles", "shown", "size", "face_limit", "cartoon_limit", "test_fraction")  # what decides the sets


def enough(images: ImageSet) -> ImageSet:
    """A set; InputError unless it has images to train with and others held out."""
    train, test = (int((images.split == split).sum()) for split in ("train", "test"))
    if train < 2 or test < 2:
        counts = f"{train} images to train with and {test} held out, 2 of each are needed"
        raise InputError(f"{images.title}: {counts}: give more images, or set another `test_fraction` in the profile.")
    return images


class Sets:
    """The photos, cartoons and pictures for figures of a profile, prepared and opened when they are first asked for."""

    def __init__(self, profile: Profile, progress: Callable[[str], None] = print):
        self.profile, self._progress = profile, progress
        self.hashes: dict[str, str] = {}  # set -> the start of its hash, of those that were opened

    def of(self, profile: Profile) -> "Sets":
        """The sets of another profile: these, where its data are the same."""
        same = all(getattr(profile, key) == getattr(self.profile, key) for key in OF_DATA)
        return self if same else Sets(profile, self._progress)

    @cached_property
    def faces(self) -> ImageSet:
        """The photos: all face sets of the profile as one."""
        limit = self.profile.face_limit
        return enough(join_sets([self._prepare(source, limit, "faces") for source in self.profile.faces]))

    @cached_property
    def cartoons(self) -> dict[str, ImageSet]:
        """Style -> its cartoons; a folder or video of your own is named after its last part."""
        p = self.profile
        sets = [enough(self._prepare(style, p.cartoon_limit, "cartoons")) for style in p.styles]
        if len({images.name for images in sets}) < len(sets):
            raise InputError(f"Two of the styles {', '.join(p.styles)} have the same name: rename a folder.")
        return {images.name: images for images in sets}

    @cached_property
    def shown(self) -> np.ndarray:
        """The photos of the figures, uint8 (N, S, S, 3), public domain first: the set `shown`, else held-out ones."""
        p = self.profile
        if p.shown and p.shown in p.faces:
            raise InputError(f"The setting `shown` must be a set that is not trained on, as {p.shown} is.")
        images = self._prepare(p.shown, 0, "faces") if p.shown else self.faces
        rows = range(len(images.images)) if p.shown else np.flatnonzero(images.split == "test")
        order = sorted(rows, key=lambda row: "public domain" not in images.manifest[row]["licence"])
        return center_crop(images.images[order], p.size)

    def _prepare(self, source: str, limit: int, kind: str) -> ImageSet:
        size, test_fraction = self.profile.size, self.profile.test_fraction
        images = prepare(source, size, limit=limit, test_fraction=test_fraction, kind=kind, progress=self._progress)
        self.hashes[images.name] = images.hash[:16]
        return images
