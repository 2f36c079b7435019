"""Images in: sources -> aligned faces and cartoons -> uint8 arrays with a manifest -> batches on the device.

A prepared set is a folder PROCESSED/<set>-<size>-<key> with `images.npy` (uint8, N x S x S x 3, S = 1.125 times the
size, so that training can crop), `points.npy` (float32, N x 5 x 2) and `manifest.json`. It appears whole or not at all,
and the key changes with every setting, so that nothing is prepared twice and nothing old is used by mistake.

The only conversions between stores (uint8 NHWC) and networks (float32 NCHW in [-1, 1]) are `to_tensor` and `to_uint8`.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import paths
from .paths import InputError
from .sources import RawImage, Source, find, fingerprint, raw_images

__all__ = ["Batches", "ImageSet", "PerStep", "center_crop", "join", "prepare", "to_tensor", "to_uint8"]

VERSION = 2  # of the preparation: raise it when the same raw images would give other arrays
MARGIN = 1.125  # stored side / training size

PROBABILITY = 0.97  # of MTCNN, below which a detection is no face
SMALLEST = 20  # pixels; nothing is asked about smaller images
CHUNK = 8  # photos held in memory at a time
UPSCALING = 2.0  # an image that would be enlarged more than this is too small
CUT_OFF = 0.25  # share of an aligned face outside its image, reflected there, above which a second mouth may appear
CHROMA = 10.0  # mean over a face of max(R, G, B) - min(R, G, B), of 255, below which a photo is grey
NEAR_BITS, NEAR_COLOUR = 4, 6.0  # nearly the same: dHash bits of 64 that differ, and mean colour difference of 255


@dataclass(frozen=True)
class ImageSet:
    """A prepared set of N images.

    images: uint8 (N, S, S, 3), mapped from the disk.  points: float32 (N, 5, 2) in units of the side, NaN where no
    detector was asked.
    manifest: per image file, source, licence, sha256 (of the raw file) and split.  rejected: file and reason.
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
        """Open a prepared folder; InputError when a bit of it has changed. numpy refuses pickles, which could run code."""
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


def join(sets: list[ImageSet]) -> ImageSet:
    """Several sets of one kind and size as one, in memory; an image that is nearly one of a set before is left out.

    Else one might be trained on and the other held out.
    """
    if len(sets) == 1:
        return sets[0]
    images, manifest = np.concatenate([s.images for s in sets]), [entry for s in sets for entry in s.manifest]
    hashes = "".join(s.hash for s in sets)
    if hashes not in _repeated:
        _repeated[hashes] = _repeats(images, manifest)
    kept = [row for row in range(len(images)) if row not in _repeated[hashes]]
    left_out = [{"file": manifest[row]["file"], "reason": reason} for row, reason in _repeated[hashes].items()]
    return ImageSet(
        name="+".join(s.name for s in sets),
        kind=sets[0].kind,
        title=" and ".join(s.title for s in sets),
        licence="; ".join(s.licence for s in sets),
        images=images[kept],
        points=np.concatenate([s.points for s in sets])[kept],
        manifest=[manifest[row] for row in kept],
        rejected=[item for s in sets for item in s.rejected] + left_out,
        hash=hashlib.sha256((hashes + json.dumps(left_out) * bool(left_out)).encode()).hexdigest(),
    )


_repeated: dict[str, dict[int, str]] = {}  # hashes of sets that were joined before -> row, reason: it takes a second


def _repeats(images: np.ndarray, manifest: list[dict]) -> dict[int, str]:
    """Row -> reason of the images that are nearly one of an earlier row of another set; those of one set are distinct."""
    near, found = _NearDuplicates(), {}
    for row, (image, entry) in enumerate(zip(images, manifest)):
        try:
            near.check(image, f"{entry['file']} of {entry['source']}")
        except _Reject as reason:
            found[row] = str(reason)
    return found


def _hash(images: np.ndarray, points: np.ndarray, manifest: list[dict]) -> str:
    digest = hashlib.sha256(images)  # as they lie on the disk, without a copy
    digest.update(points.tobytes())
    digest.update(json.dumps(manifest, sort_keys=True).encode())
    return digest.hexdigest()


class _Reject(Exception):
    """Why an image is left out."""


def prepare(
    source: str,
    size: int,
    *,
    limit: int = 0,
    test_fraction: float,
    kind: str = "",
    progress: Callable[[str], None] = print,
) -> ImageSet:
    """Prepare a set once; later calls only open it.

    source: a name in data/sources.yaml, or the path of a folder of images (faces, unless kind says cartoons) or of a
    video (cartoons). size: side in pixels for training. limit: the most images to keep, 0 for all.
    test_fraction: share of the images held out, by the hash of the raw file, so that it does not depend on the others.
    Raises InputError for an unknown set, a missing or empty folder, a set without usable images, a full disk.
    """
    entry = find(source, kind)
    key = json.dumps([VERSION, asdict(entry), fingerprint(entry), size, limit, test_fraction], sort_keys=True)
    folder = paths.PROCESSED / f"{entry.name}-{size}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not folder.is_dir():
        progress(f"{entry.title}: preparing at {size} px")
    fill = partial(_prepare, entry, side=round(size * MARGIN), limit=limit, test_fraction=test_fraction)
    images = ImageSet.load(paths.whole_folder(folder, fill))
    progress(_summary(images))
    return images


def _summary(images: ImageSet) -> str:
    held_out = int((images.split == "test").sum())
    reasons = Counter(item["reason"].split(":")[0] for item in images.rejected)
    rejected = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) or "none"
    return f"{images.title}: {len(images.images)} images, {held_out} of them held out; left out: {rejected}"


def _prepare(source: Source, folder: Path, side: int, limit: int, test_fraction: float) -> None:
    manifest, rejected, points = [], [], []
    seen, near = {}, _NearDuplicates()
    total, raw = raw_images(source, side, limit)
    bar = tqdm(raw, desc=source.name, total=total, unit="image", disable=None, leave=False)  # on a terminal only
    with open(folder / "images.npy", "wb") as file:
        _write_header(file, 0, side)
        for item, name, square in _squares(iter(bar), source, side):
            try:
                if isinstance(square, _Reject):
                    raise square
                sha256 = hashlib.sha256(item.content).hexdigest()
                if seen.setdefault(sha256, item.name) != item.name:
                    raise _Reject(f"duplicate: the same file as {seen[sha256]}")
                image, found, compared = square
                near.check(compared, name)
            except _Reject as reason:
                rejected.append({"file": name, "reason": str(reason)})
                continue
            file.write(image.tobytes())
            points.append(found)
            entry = {"file": name, "source": source.name, "licence": item.licence, "sha256": sha256}
            entry["split"] = _split(sha256, test_fraction) if source.split == "hash" else source.split
            manifest.append(entry)
            if len(manifest) == limit:
                break
        file.seek(0)
        _write_header(file, len(manifest), side)
    if not manifest:
        reasons = "; ".join(f"{item['file']}: {item['reason']}" for item in rejected[:3])
        raise InputError(f"{source.title}: no usable {source.kind} among its images ({reasons}). {source.get}")
    if source.split == "hash" and test_fraction > 0:
        _both_splits(manifest)
    points = np.stack(points).astype(np.float32)
    np.save(folder / "points.npy", points)
    images = np.load(folder / "images.npy", mmap_mode="r")
    about = {key: getattr(source, key) for key in ("name", "kind", "title", "licence")}
    about |= {"manifest": manifest, "rejected": rejected, "hash": _hash(images, points, manifest)}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _write_header(file, count: int, side: int) -> None:
    """The header of images.npy, written before the count is known and again after: numpy leaves room for it to grow."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _split(sha256: str, test_fraction: float) -> str:
    return "test" if int(sha256[:8], 16) / 2**32 < test_fraction else "train"


def _both_splits(manifest: list[dict]) -> None:
    """If one split got no image, move the file that is nearest to it."""
    order = sorted({entry["sha256"] for entry in manifest})
    if len(order) > 1 and len({entry["split"] for entry in manifest}) == 1:
        split, moved = ("test", order[0]) if manifest[0]["split"] == "train" else ("train", order[-1])
        for entry in manifest:
            if entry["sha256"] == moved:
                entry["split"] = split


def _squares(raw: Iterator[RawImage], source: Source, side: int) -> Iterator[tuple]:
    """(raw image, name, square or _Reject): one per face of a photo or of a set with `crop: faces`, else one per image.

    A square is (uint8 side x side x 3, its points, the uint8 picture by which near-duplicates are found).
    """
    by_face = source.kind == "faces" or source.crop == "faces"
    while chunk := list(itertools.islice(raw, CHUNK)):
        pictures = [_attempt(_pixels, item) for item in chunk]
        readable = [picture for picture in pictures if not isinstance(picture, _Reject)]
        detected = iter(_detect(readable) if by_face else [])
        for item, picture in zip(chunk, pictures):
            if isinstance(picture, _Reject):
                yield item, item.name, picture
            elif not by_face:
                yield item, item.name, _attempt(_cartoon, picture, source.crop, side)
            else:
                faces = next(detected)
                if not faces:
                    yield item, item.name, _Reject("no face")
                for number, face in enumerate(faces, start=1):
                    name = item.name if len(faces) == 1 else f"{item.name}#{number}"
                    yield item, name, _attempt(_face, picture, face, side)


def _detect(pictures: list[np.ndarray]) -> list[list]:
    """Detection on one thread: its many small operations gain nothing from more, and on a busy machine take 15 times
    as long with them, for threads wait for one another."""
    from .landmarks import detect_faces

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return detect_faces(pictures)
    finally:
        torch.set_num_threads(threads)


def _attempt(function: Callable, *arguments):
    try:
        return function(*arguments)
    except _Reject as reason:
        return reason


def _pixels(item: RawImage) -> np.ndarray:
    try:
        pixels = np.array(item.decode(item.content))
    except Exception as error:  # Pillow raises many kinds for broken files
        raise _Reject(f"unreadable: {error}") from error
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise _Reject(f"small: an image of {width} x {height} px")
    return pixels


def _face(picture: np.ndarray, face, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The aligned face and its points, or _Reject. The detector finds faces in patterns, and profiles do not align."""
    from .landmarks import CANONICAL, align, cut_off

    if face.probability < PROBABILITY:
        raise _Reject(f"uncertain: probability {face.probability:.2f} of a face")
    left, right, nose = face.points[:3]
    eyes = right - left
    distance = float(np.hypot(*eyes))
    needed = float(CANONICAL[1, 0] - CANONICAL[0, 0]) * side / UPSCALING
    if distance < needed:
        raise _Reject(f"small: eyes {distance:.0f} px apart, {needed:.0f} needed")
    along = float((nose - left) @ eyes) / distance**2  # 0 under the left eye, 1 under the right one
    mouth = float(np.hypot(*((face.points[3] + face.points[4]) - (left + right)) / 2)) / distance
    if not 0.15 < along < 0.85 or not 0.6 < mouth < 1.7:
        raise _Reject(f"not frontal: nose at {along:.2f} between the eyes, mouth {mouth:.2f} eye distances below")
    outside = cut_off(face.points, *picture.shape[:2])
    if outside > CUT_OFF:
        raise _Reject(f"cut off: {outside:.0%} of the face's square lies outside the image")
    image, points = align(picture, face.points, side)
    middle = image[side // 4 : -side // 4, side // 4 : -side // 4].astype(np.int16)
    chroma = float((middle.max(axis=2) - middle.min(axis=2)).mean())
    if chroma < CHROMA:
        raise _Reject(f"grey: mean chroma {chroma:.1f} of 255")
    return image, points, image


def _cartoon(picture: np.ndarray, crop: str, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square of a drawing, resized, or _Reject."""
    height, width = picture.shape[:2]
    extent = min(height, width)
    x, y = (width - extent) / 2, (height - extent) / 2
    if crop == "upper":
        y = 0
    elif crop == "random":
        rng = np.random.default_rng(list(hashlib.sha256(picture.tobytes()).digest()))
        extent *= rng.uniform(0.7, 1.0)
        x, y = rng.uniform(0, width - extent), rng.uniform(0, height - extent)
    if extent * UPSCALING < side:
        raise _Reject(f"small: a square of {extent:.0f} px, {side / UPSCALING:.0f} needed")
    box = (x, y, x + extent, y + extent)
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS, box=box)
    return np.array(image), np.full((5, 2), np.nan), picture  # frames of a scene are alike, though not their crops


class _NearDuplicates:
    """Finds images that differ only by compression, size or a slight crop: alike in brightness steps and in colour.

    The steps are a dHash (is a pixel brighter than its right neighbour, 8 x 8). Faces drawn from the same parts agree
    in that too, and differ in colour.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.hashes = np.zeros(1024, np.uint64)
        self.colours = np.zeros((1024, 8 * 8 * 3), np.float32)

    def check(self, image: np.ndarray, name: str) -> None:
        """Raise _Reject if a former image is nearly this one (uint8 H x W x 3), else remember it."""
        picture, count = Image.fromarray(image), len(self.names)
        grey = np.array(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        steps = np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)[0]
        colour = np.array(picture.resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
        for other in np.flatnonzero(np.bitwise_count(self.hashes[:count] ^ steps) <= NEAR_BITS):
            if np.abs(self.colours[other] - colour).mean() <= NEAR_COLOUR:
                raise _Reject(f"near-duplicate: almost the same as {self.names[other]}")
        if count == len(self.hashes):
            self.hashes, self.colours = (np.concatenate([a, np.zeros_like(a)]) for a in (self.hashes, self.colours))
        self.hashes[count], self.colours[count] = steps, colour
        self.names.append(name)


def to_tensor(images: np.ndarray | Tensor) -> Tensor:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [-1, 1]."""
    return torch.as_tensor(images).movedim(-1, -3).contiguous().float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """float (..., 3, H, W) in [-1, 1], clipped, to uint8 (..., H, W, 3); the inverse of to_tensor."""
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


def center_crop(images: np.ndarray, size: int) -> np.ndarray:
    """The central size x size of stored images (..., S, S, 3), a view."""
    start = (images.shape[-2] - size) // 2
    return images[..., start : start + size, start : start + size, :]


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

    (count, 3, size, size) float32 in [-1, 1], channels_last. Images are drawn without repetition while there are
    enough. Augmentation: a random crop, a horizontal flip, up to 6 % of brightness and 8 % of saturation, all on the
    device; without it the crop is central.

    A GPU holds the images as bytes when they fit into a quarter of its free memory; else, as on the CPU, they stay
    where the set has them, mapped from the disk, and the chosen ones are copied step by step.

    Args:
        shard: (rank, processes): each of several processes gets its part of every batch.
    """

    def __init__(
        self,
        images: ImageSet,
        size: int,
        count: int,
        seed: int,
        device: torch.device | str = "cpu",
        augment: bool = True,
        shard: tuple[int, int] = (0, 1),
    ):
        rank, processes = shard
        self.size, self.count, self.seed, self.augment = size, count, seed, augment
        self.device = torch.device(device)
        self._mine = slice(rank * count // processes, (rank + 1) * count // processes)
        self._images, self._rows = images.images, np.flatnonzero(images.split == "train")
        self._range = torch.arange(size, device=self.device)
        self._draws = PerStep(self._draw, self.device)
        self._store = None
        if self.device.type == "cuda":
            each = self._images[:1].nbytes
            if len(self._rows) * each < torch.cuda.mem_get_info(self.device)[0] / 4:
                self._store = torch.from_numpy(self._images[self._rows]).to(self.device)

    def _draw(self, step: int) -> dict[str, Tensor]:
        """Which images, and what is done to each; drawn for the whole batch whatever the number of processes."""
        number, spare = len(self._rows), self._images.shape[1] - self.size
        words = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        random = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        rounds = [torch.randperm(number, generator=random) for _ in range(-(-self.count // number))]
        draw = {"image": torch.cat(rounds)[: self.count], "corner": torch.full((self.count, 2), spare // 2)}
        draw["flip"], draw["colour"] = torch.zeros(self.count, 1, dtype=torch.bool), torch.zeros(2, self.count, 1, 1, 1)
        if self.augment:
            draw["corner"] = torch.randint(spare + 1, (self.count, 2), generator=random)
            draw["flip"] = torch.rand(self.count, 1, generator=random) < 0.5
            draw["colour"] = torch.rand(2, self.count, 1, 1, 1, generator=random) * 2 - 1
        return {k: v[:, self._mine] if k == "colour" else v[self._mine] for k, v in draw.items()}

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
        crops = crops.permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.augment:
            brightness, saturation = draw["colour"]
            grey = crops.mean(dim=1, keepdim=True)
            crops = grey + (crops - grey) * (1 + 0.08 * saturation)
            crops = ((crops + 1) * (1 + 0.06 * brightness) - 1).clamp(-1, 1)
        return crops
