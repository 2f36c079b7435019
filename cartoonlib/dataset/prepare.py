"""Prepared sets: sources -> aligned faces and cartoons -> uint8 arrays with a manifest.

A prepared set is a folder PROCESSED/<set>-<size>-<key> with `images.npy`, `points.npy` and `manifest.json`. It appears
whole or not at all, and the key changes with every setting: nothing is prepared twice, nothing old is used by mistake.
"""

import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import files
from ..files import InputError
from .catalogue import Source, find, fingerprint
from .folders import whole_folder
from .origins import raw_images
from .squares import NearDuplicates, Square, squares

VERSION = 3  # of the preparation: raise it when the same raw images would give other arrays
MARGIN = 1.125  # stored side / training size


@dataclass(frozen=True)
class ImageSet:
    """A prepared set of N images.

    images: uint8 (N, S, S, 3), mapped from the disk; S is 1.125 times the size, so that training can crop.
    points: float32 (N, 5, 2) in units of the side, NaN where no detector was asked.
    manifest: per image file, source, licence, sha256 (of the raw file) and split. rejected: file and reason.
    hash: SHA-256 of images, points and manifest.
    """

    name: str
    kind: str
    title: str
    licence: str
    images: np.ndarray
    points: np.ndarray
    manifest: list[dict]
    rejected: list[dict]
    hash: str

    @classmethod
    def load(cls, folder: Path) -> "ImageSet":
        """Open a prepared folder, without pickles, which could run code; InputError when a bit of it has changed."""
        try:
            about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            images, points = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "points.npy")
            found = cls(images=images, points=points, **about)
            if _hash(images, points, found.manifest) != found.hash:
                raise ValueError("its SHA-256 is not the one that it was prepared with")
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{folder} is damaged ({error}): delete it, and it is prepared again.") from None
        return found

    @property
    def split(self) -> np.ndarray:
        """'train' or 'test' per image, (N,)."""
        return np.array([entry["split"] for entry in self.manifest])

    def part(self, split: str) -> np.ndarray:
        """The images of one split, uint8 (n, S, S, 3), in memory."""
        return self.images[self.split == split]


def _hash(images: np.ndarray, points: np.ndarray, manifest: list[dict]) -> str:
    digest = hashlib.sha256(images)  # as they lie on the disk, without a copy
    digest.update(points.tobytes())
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()


def join_sets(sets: list[ImageSet]) -> ImageSet:
    """Several sets of one kind and size as one, in memory; an image that is nearly one of a set before is left out.

    Else one might be trained on and the other held out.
    """
    if len(sets) == 1:
        return sets[0]
    images, manifest = np.concatenate([s.images for s in sets]), [entry for s in sets for entry in s.manifest]
    near = NearDuplicates()
    reasons = [near.reason(image, f"{entry['file']} of {entry['source']}") for image, entry in zip(images, manifest)]
    kept = [row for row, reason in enumerate(reasons) if not reason]
    left_out = [{"file": entry["file"], "reason": reason} for entry, reason in zip(manifest, reasons) if reason]
    hashes = "".join(s.hash for s in sets) + (json.dumps(left_out) if left_out else "")
    return ImageSet(
        name="+".join(s.name for s in sets),
        kind=sets[0].kind,
        title=" and ".join(s.title for s in sets),
        licence="; ".join(s.licence for s in sets),
        images=images[kept],
        points=np.concatenate([s.points for s in sets])[kept],
        manifest=[manifest[row] for row in kept],
        rejected=[item for s in sets for item in s.rejected] + left_out,
        hash=hashlib.sha256(hashes.encode()).hexdigest(),
    )


def prepare(
    source: str, size: int, *, limit: int = 0, test_fraction: float, kind: str = "", progress: Callable = print
) -> ImageSet:
    """Prepare a set once; later calls only open it.

    source: a name in data/sources.yaml, or the path of a folder of images (faces, unless kind says cartoons) or of a
    video (cartoons). size: side in pixels for training. limit: the most images to keep, 0 for all.
    test_fraction: share of the images held out, by the hash of the raw file, so that it does not depend on the others.
    Raises InputError for an unknown set, a missing or empty folder, a set without usable images, a full disk.
    """
    entry = find(source, kind)
    key = json.dumps([VERSION, asdict(entry), fingerprint(entry), size, limit, test_fraction], sort_keys=True)
    folder = files.PROCESSED / f"{entry.name}-{size}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not folder.is_dir():
        progress(f"{entry.title}: preparing at {size} px")
    fill = partial(_prepare, entry, side=round(size * MARGIN), limit=limit, test_fraction=test_fraction)
    images = ImageSet.load(whole_folder(folder, fill))
    held_out = int((images.split == "test").sum())
    reasons = Counter(item["reason"].split(":")[0] for item in images.rejected)
    rejected = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none"
    progress(f"{images.title}: {len(images.images)} images, {held_out} of them held out; left out: {rejected}")
    return images


def _prepare(source: Source, folder: Path, side: int, limit: int, test_fraction: float) -> None:
    """Fill the folder of a prepared set; InputError when no image of it can be used."""
    entries, rejected, points = [], [], []
    with tempfile.TemporaryFile(dir=folder) as pixels:  # sets need not fit into memory
        for entry, square in itertools.islice(_kept(source, side, limit, rejected), limit or None):
            pixels.write(square.image.tobytes())
            points.append(square.points)
            entries.append(entry)
        if not entries:
            reasons = "; ".join(f"{item['file']}: {item['reason']}" for item in rejected[:3])
            raise InputError(f"{source.title}: no usable {source.kind} among its images ({reasons}). {source.get}")
        images, points = np.memmap(pixels, mode="r", shape=(len(entries), side, side, 3)), np.array(points, np.float32)
        np.save(folder / "images.npy", images)
    np.save(folder / "points.npy", points)
    splits = _splits(entries, test_fraction) if source.split == "hash" else [source.split] * len(entries)
    manifest = [entry | {"split": split} for entry, split in zip(entries, splits)]
    about = {key: getattr(source, key) for key in ("name", "kind", "title", "licence")}
    about |= {"manifest": manifest, "rejected": rejected, "hash": _hash(images, points, manifest)}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _kept(source: Source, side: int, limit: int, rejected: list[dict]) -> Iterator[tuple[dict, Square]]:
    """Entry of the manifest and square of each image that is kept; `rejected` gets the others, with the reason."""
    names, near = {}, NearDuplicates()  # names: SHA-256 of the raw file -> the first one with it
    total, raw = raw_images(source, side, limit)
    crop = "faces" if source.kind == "faces" else source.crop
    for item in tqdm(raw, desc=source.name, total=total, unit="image", disable=None, leave=False):  # on a terminal only
        sha256 = hashlib.sha256(item.content).hexdigest()
        for name, square in squares(item, crop, side):
            if isinstance(square, str):
                reason = square
            elif names.setdefault(sha256, item.name) != item.name:
                reason = f"duplicate: the same file as {names[sha256]}"
            else:
                reason = near.reason(square.compared, name)
            if reason:
                rejected.append({"file": name, "reason": reason})
            else:
                yield {"file": name, "source": source.name, "licence": item.licence, "sha256": sha256}, square


def _splits(entries: list[dict], test_fraction: float) -> list[str]:
    """'test' or 'train' for each entry, by the hash of its file; neither gets nothing if there are two files."""
    places = np.array([int(entry["sha256"][:8], 16) / 2**32 for entry in entries])
    if test_fraction > 0 and places.min() < places.max():  # the file that is nearest to an empty split goes there
        test_fraction = np.clip(test_fraction, np.nextafter(places.min(), 1), places.max())
    return np.where(places < test_fraction, "test", "train").tolist()
