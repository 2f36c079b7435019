"""Pretraining and adversarial training: one readable loop each, logged, resumable and idempotent.

A run lives in `<runs>/<name>-<hash of settings and data>/`: finished, it is returned at once; interrupted, it goes on
from its last checkpoint to the same bits (on the CPU, with the same number of threads); absent, it runs. Batches and
random colour shifts are functions of (seed, step), so there is no random state to restore.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import data, features, landmarks, losses, representations
from .networks import Generator, PatchDiscriminator
from .paths import InputError, write_atomic
from .profiles import Profile

# The settings on which a pretrained generator depends: rows of the ablation table that agree in these share one.
PRETRAIN_SETTINGS = (
    "faces", "size", "face_limit", "test_fraction", "augment", "seed", "batch", "pretrain_steps", "generator_rate",
    "precision", "skips", "tanh", "slope",
)  # fmt: skip
NOT_IN_KEY = ("styles", "log_every", "checkpoint_every", "ablation_steps")  # settings that do not change a run's result


class TrainingStopped(InputError):
    """Training went wrong in a way that more steps will not mend: NaN losses or a flat picture."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what summary.json says."""

    folder: Path
    summary: dict

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """A finished run, from its folder."""
        path = folder / "summary.json"
        if not path.exists():
            raise InputError(f"{folder} holds no finished run: run the notebook that trains it first (make reproduce).")
        return cls(folder, json.loads(path.read_text()))

    def generator(self, device: torch.device | str = "cpu") -> Generator:
        return load_generator(self.folder / "generator.safetensors").to(device)

    @property
    def stale(self) -> bool:
        """Whether another version of the library made it."""
        return self.summary["code"] != code_hash()

    def log(self) -> list[dict]:
        """One dict per logged interval: step, the mean of every loss, seconds."""
        return _read_log(self.folder / "metrics.jsonl")

    def samples(self) -> dict[int, np.ndarray]:
        """Step -> (N, S, S, 3) uint8: the same held-out faces over training time."""
        return {int(p.stem): np.load(p) for p in sorted((self.folder / "samples").glob("*.npy"))}


def pick_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(profile: Profile, device: torch.device) -> torch.dtype:
    """bfloat16 or float32. `auto` is bf16 on GPUs and on CPUs that multiply it in hardware; elsewhere it is slower."""
    if profile.precision != "auto":
        return torch.bfloat16 if profile.precision == "bf16" else torch.float32
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def save_generator(generator: Generator, path: Path, **about: str) -> None:
    """Write weights and architecture as safetensors; `about` is text kept in the header."""
    # One entry, because safetensors writes several in random order and equal runs should give equal files.
    metadata = {"about": json.dumps({"architecture": generator.settings()} | about)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.contiguous() for k, v in generator.state_dict().items()}, temporary, metadata)
    os.replace(temporary, path)


def load_generator(path: Path) -> Generator:
    """The inverse of save_generator: a Generator in evaluation mode on the CPU. Nothing is unpickled."""
    with safe_open(path, framework="pt") as file:
        generator = Generator(**json.loads(file.metadata()["about"])["architecture"])
        generator.load_state_dict({key: file.get_tensor(key) for key in file.keys()})
    return generator.eval().requires_grad_(False)


def build_generator(profile: Profile) -> Generator:
    """The untrained generator of a profile, the same weights for the same seed."""
    torch.manual_seed(profile.seed)
    return Generator(profile.slope, profile.tanh, profile.skips, profile.output_eps)


def _average(generator: Generator, decay: float) -> AveragedModel:
    return AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.99), fused=True)


def _read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _pretrain_key(profile: Profile, faces: "data.ImageSet") -> str:
    return profile.key(tuple(f for f in profile.__dataclass_fields__ if f not in PRETRAIN_SETTINGS), faces.hash)


class _Loop:
    """What both loops share: the run folder, checkpoints, the log, samples, guards and the line that shows progress."""

    def __init__(self, profile: Profile, folder: Path, title: str, steps: int, parts: dict, progress: Callable):
        self.profile, self.folder, self.title, self.steps = profile, folder, title, steps
        self.parts, self.progress = parts, progress  # parts: everything that has a state dict
        self.step, self.seconds, self._sums, self._count = 0, 0.0, {}, 0
        self._code = code_hash()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = folder / "checkpoint.pt"
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True, map_location="cpu")
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self.seconds, self._code = state["step"], state["seconds"], state["code"]
            self._sums, self._count = state["sums"], state["count"]
        kept = [row for row in _read_log(folder / "metrics.jsonl") if row["step"] <= self.step]
        write_atomic(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._started = time.monotonic() - self.seconds
        self._shown = 0.0

    def __iter__(self):
        while self.step < self.steps:
            yield self.step
            self.step += 1
            self.seconds = time.monotonic() - self._started
            if self.step % self.profile.log_every == 0 or self.step == self.steps:
                self._log()
            if self.step % self.profile.checkpoint_every == 0 and self.step < self.steps:
                self.save()
            self._show()

    def record(self, values: dict[str, Tensor]) -> None:
        """Add the losses of one step to the running sums; they stay on the device until the next log line."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1

    def _log(self) -> None:
        row = {name: float(value) / self._count for name, value in self._sums.items()}
        bad = [name for name, value in row.items() if not np.isfinite(value)]
        if bad:
            raise TrainingStopped(
                f"{self.title} stopped at step {self.step}: the loss {bad[0]} is not a finite number. Lower the rates "
                f"or the weights of the losses; the last good checkpoint is in {self.folder}."
            )
        if row.get("contrast", 1.0) < 0.1:
            raise TrainingStopped(
                f"{self.title} stopped at step {self.step}: the output has collapsed to a flat picture (its contrast "
                f"is {row['contrast']:.0%} of the photos'). Pretrain longer or raise the content weight."
            )
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **row, "seconds": round(self.seconds, 3)}) + "\n")
        self._sums, self._count = {}, 0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown > 2 or self.step == self.steps:
            left = self.seconds / self.step * (self.steps - self.step)
            self.progress(f"{self.title}: step {self.step}/{self.steps}, {left / 60:.1f} min left")
            self._shown = now

    def save(self) -> None:
        networks = [part for part in self.parts.values() if isinstance(part, nn.Module)]
        if not all(p.isfinite().all() for network in networks for p in network.parameters()):
            return  # the last good checkpoint stays, and the next log line stops with a loss that is not finite
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "step": self.step,
            "seconds": self.seconds,
            "sums": self._sums,
            "count": self._count,
            "code": self._code,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.folder / "checkpoint.pt", buffer.getbuffer())

    def finish(self, generator: Generator, **about) -> Run:
        save_generator(generator, self.folder / "generator.safetensors", title=self.title)
        summary = {
            "title": self.title,
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "code": self._code if self._code == code_hash() else "mixed",  # begun by one version, ended by another
        } | about
        write_atomic(self.folder / "summary.json", json.dumps(summary, indent=1))
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)  # 26 MB that nothing needs once the run is whole
        return Run(self.folder, summary)


def code_hash() -> str:
    """Short hash of the modules that decide what a run produces."""
    names = ("data", "features", "landmarks", "losses", "networks", "representations", "training")
    content = b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:8]


def _finished(folder: Path, progress: Callable) -> Run | None:
    """The run in a folder, if whole. One that older code made is used and said to be so: hours are not thrown away."""
    if not (folder / "summary.json").exists():
        return None
    run = Run.open(folder)
    if run.stale:
        progress(f"{run.summary['title']}: made by another version of cartoonlib; delete {folder} to run it again")
    return run


def pretrain(profile: Profile, runs: Path, faces: "data.ImageSet", progress: Callable[[str], None] = print) -> Run:
    """Teach the generator to reproduce its input: pixel L1 between G(photo), before the guided filter, and the photo.

    (White-box section 4.1.) Adversarial training from scratch collapses to flat colour.
    """
    folder = runs / f"pretrain-{_pretrain_key(profile, faces)}"
    if run := _finished(folder, progress):
        return run
    device = pick_device()
    dtype = pick_dtype(profile, device)
    generator = build_generator(profile).to(device, memory_format=torch.channels_last)
    optimizer = _adam(generator, profile.generator_rate)
    photos = faces.part("train")
    loop = _Loop(
        profile,
        folder,
        "pretraining",
        profile.pretrain_steps,
        {"generator": generator, "optimizer": optimizer},
        progress,
    )
    for step in loop:
        photo = data.batch(photos, profile.size, profile.batch, profile.seed, step, device, profile.augment)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = generator.unfiltered(photo.contiguous(memory_format=torch.channels_last))
        loss = (output.float() - photo).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loop.record({"pixel_l1": loss})
    return loop.finish(generator, device=device.type, dtype=str(dtype), data=faces.hash)


def train(
    profile: Profile, runs: Path, faces: "data.ImageSet", cartoons: "data.ImageSet", style: str,
    title: str = "full method", progress: Callable[[str], None] = print,
) -> Run:  # fmt: skip
    """Alternate updates of the generator on the six losses and of both discriminators (White-box section 3.4).

    Starts from the pretrained generator, which is trained first when it is missing.
    """
    folder = runs / f"{style}-{profile.key(NOT_IN_KEY, faces.hash, cartoons.hash)}"
    if run := _finished(folder, progress):
        return run
    start = pretrain(profile, runs, faces, progress)
    device = pick_device()
    dtype = pick_dtype(profile, device)
    generator = build_generator(profile)
    d_surface = PatchDiscriminator(3, profile.slope, profile.sigmoid)
    d_texture = PatchDiscriminator(1, profile.slope, profile.sigmoid)
    generator.load_state_dict(start.generator().state_dict())
    for network in (generator, d_surface, d_texture):
        network.to(device, memory_format=torch.channels_last)
    ema = _average(generator, profile.ema)
    g_optimizer = _adam(generator, profile.generator_rate)
    d_optimizer = _adam(nn.ModuleList([d_surface, d_texture]), profile.discriminator_rate)
    perceptual = features.PERCEPTUAL[profile.perceptual]().to(device, memory_format=torch.channels_last)
    points = landmarks.landmark_network(profile.landmarks).to(device)
    photos, drawings = faces.part("train"), cartoons.part("train")
    held_out = data.to_tensor(data.center_crop(faces.part("test")[:4], profile.size)).to(device)

    parts = {
        "generator": generator, "d_surface": d_surface, "d_texture": d_texture, "ema": ema,
        "g_optimizer": g_optimizer, "d_optimizer": d_optimizer,
    }  # fmt: skip
    loop = _Loop(profile, folder, f"{style}, {title}", profile.train_steps, parts, progress)
    every = max(1, profile.train_steps // 8)
    for step in loop:
        if step % every == 0:
            _sample(ema.module, held_out, folder, step)
        photo = data.batch(photos, profile.size, profile.batch, profile.seed, step, device, profile.augment)
        cartoon = data.batch(drawings, profile.size, profile.batch, profile.seed + 1, step, device, profile.augment)
        photo = photo.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

        # Representations: the same surface filter and the same random grey weights for both domains.
        with autocast:
            output = generator(photo)
        shape = (1, 1) if profile.color_shift == "batch" else photo.shape[-2:]
        grey = representations.color_shift_weights(_rng(profile.seed, step), shape).to(device)
        views = [
            (d_surface, representations.surface(output, eps=profile.surface_eps),
             representations.surface(cartoon, eps=profile.surface_eps)),
            (d_texture, representations.texture(output, grey), representations.texture(cartoon, grey)),
        ]  # fmt: skip

        # Generator: discriminators are frozen here, so that no gradient is computed for their weights.
        d_surface.requires_grad_(False), d_texture.requires_grad_(False)
        with autocast:
            terms = {
                name: losses.adversarial_generator(discriminator(fake))
                for name, (discriminator, fake, _) in zip(("surface", "texture"), views)
            }
            terms |= _perceptual_terms(profile, perceptual, photo, output)
        terms["color"] = losses.color(output, photo)
        terms["total_variation"] = losses.total_variation(output)
        with torch.no_grad():
            photo_points = points(photo)
        terms["landmark"] = losses.landmark(points(output), photo_points, landmarks.FACE_WIDTH)
        total = sum(getattr(profile, name) * value for name, value in terms.items())
        g_optimizer.zero_grad(set_to_none=True)
        total.backward()
        g_optimizer.step()
        ema.update_parameters(generator)

        # Discriminators: the generator's output is used again, detached.
        d_surface.requires_grad_(True), d_texture.requires_grad_(True)
        with autocast:
            d_terms = {
                name: losses.adversarial_discriminator(discriminator(real), discriminator(fake.detach()))
                for name, (discriminator, fake, real) in zip(("d_surface", "d_texture"), views)
            }
        d_optimizer.zero_grad(set_to_none=True)
        sum(d_terms.values()).backward()
        d_optimizer.step()
        loop.record({**terms, "total": total, **d_terms, "contrast": _contrast(output.detach()) / _contrast(photo)})
    _sample(ema.module, held_out, folder, loop.step)
    about = {"style": style, "variant": title, "device": device.type, "dtype": str(dtype)}
    return loop.finish(ema.module, **about, data=[faces.hash, cartoons.hash])


def _contrast(images: Tensor) -> Tensor:
    """Mean deviation within an image: each collapsing to a colour of its own is a collapse too."""
    return images.std(dim=(2, 3)).mean()


def _rng(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1)[0]))


def _perceptual_terms(profile: Profile, perceptual: nn.Module, photo: Tensor, output: Tensor) -> dict[str, Tensor]:
    """Content and structure loss; photo and superpixel target go through the frozen network in one pass."""
    target = representations.structure(
        output, profile.superpixels, profile.segments, profile.adaptive, profile.brighten
    )
    with torch.no_grad():
        photo_features, target_features = perceptual(torch.cat([photo, target])).chunk(2)
    output_features = perceptual(output)
    return {
        "content": losses.content(output_features, photo_features),
        "structure": losses.structure(output_features, target_features),
    }


@torch.no_grad()
def _sample(generator: Generator, photos: Tensor, folder: Path, step: int) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    np.save(folder / "samples" / f"{step:06d}.npy", data.to_uint8(generator(photos)))
