"""Profiles: every setting of a run in one typed, immutable object, read from a YAML file with the differences.

`python -m cartoonlib.profile NAME` prints a profile in full.
"""

import dataclasses
import hashlib
import json
import re
import sys
import types
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml

from . import files

LOSSES = ("content", "color", "structure", "surface", "texture", "total_variation", "landmark")
# What a style may set for itself: nothing that pretraining, which all styles start from, depends on.
OF_A_STYLE = ("train_steps", "ema", *LOSSES)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The settings of a run. The defaults are the original report's protocol with our losses, repairs and rates."""

    name: str

    # data: names of data/sources.yaml, or paths of your own folders
    faces: tuple[str, ...] = ("ffhq_thumbnails128",)
    styles: tuple[str, ...] = ("hayao", "paprika", "shinkai", "summerwar")  # one generator is trained for each
    shown: str = ""  # face set of the figures, for data whose pictures may not be published; "": the held-out faces
    size: int = 128  # px, side of the training images
    face_limit: int = 5000  # images taken at most from each face set
    cartoon_limit: int = 2000  # and from each style
    test_fraction: float = 0.1  # held out, by content hash
    augment: bool = True  # random crop, flip and mild colour; the original has none

    # frozen networks
    perceptual: str = "vgg19"  # vgg19 | efficientnet_lite0
    landmarks: str = "onet"  # onet: 5 points | fan: 68 heatmaps
    perceptual_every: int = 2  # content and structure loss look at every n-th image (hardly worse: notebook 05)

    # protocol
    seed: int = 0
    batch: int = 16
    pretrain_steps: int = 50_000
    train_steps: int = 30_000
    ablation_steps: int = 30_000  # of every row of the ablation table, the full method among them
    generator_rate: float = 2.0e-4  # Adam, betas (0.5, 0.99)
    discriminator_rate: float = 4.0e-4  # twice the generator's, for judges that keep up (notebook 05: group `added`)
    ema: float = 0.999  # decay of the averaged generator, the one that is shown and measured
    precision: str = "auto"  # bf16 | fp32 | auto: bf16 where the hardware multiplies it
    step: str = "auto"  # graph: a CUDA graph | eager: one operation at a time | auto: a graph where it can be had
    processes: int = 1  # that share every batch, one GPU each (see README)
    bench_repeats: int = 3  # turns in which notebook 06 times steps, and seeds of its comparison, 3 at most
    log_every: int = 50
    checkpoint_every: int = 1000
    on_divergence: str = "stop"  # back_off: to the last good checkpoint, with half the rates (see training.py)

    # loss weights, scale-free (see losses.py)
    content: float = 0.3
    color: float = 8.0  # holds colour; belongs to the content loss
    structure: float = 0.3
    surface: float = 3.0
    texture: float = 8.0
    total_variation: float = 15.0
    landmark: float = 40.0
    # Style -> what it sets for itself (OF_A_STYLE); rows of the ablation table are without.
    style_settings: dict = dataclasses.field(default_factory=dict, hash=False)

    color_grade: bool = True  # False: the colour term holds every image to the photo's own colours
    edge_aware: bool = True  # total variation weighed by edges and brightness of the photo; False: plain squares
    texture_features: bool = True  # the texture discriminator also sees features of the perceptual network

    # representations
    superpixels: str = "slic"  # slic | felzenszwalb
    segments: int = 200
    adaptive: bool = True  # mean or median per segment, by its deviation
    brighten: float = 1.0
    surface_eps: float = 0.2

    # the original's defects 2 to 7, each one repaired here
    skips: bool = True  # False: the U-Net's skips and second convolutions are dead
    color_shift: str = "batch"  # pixel: colour-shift weights drawn for every pixel
    sigmoid: bool = False  # True: a sigmoid under the least-squares loss
    tanh: bool = False  # True: tanh on the generator's output
    slope: float = 0.2  # of LeakyReLU; the original's is 0.01
    output_eps: float = 1.0e-2  # of the guided filter on the output; the original's is 0.1
    output_radius: int = 2  # of the same, px; at 1, the original's, strokes can grow on smooth skin

    padding: str = "replicate"  # of the generator's convolutions; zeros, the original's, tell where the border is

    def __post_init__(self) -> None:
        _check(self.perceptual in ("vgg19", "efficientnet_lite0"), "perceptual", "vgg19 or efficientnet_lite0")
        _check(self.landmarks in ("onet", "fan"), "landmarks", "onet or fan")
        _check(self.precision in ("auto", "bf16", "fp32"), "precision", "auto, bf16 or fp32")
        _check(self.superpixels in ("slic", "felzenszwalb"), "superpixels", "slic or felzenszwalb")
        _check(self.step in ("auto", "eager", "graph"), "step", "auto, eager or graph")
        _check(self.on_divergence in ("stop", "back_off"), "on_divergence", "stop or back_off")
        _check(self.color_shift in ("batch", "pixel"), "color_shift", "batch or pixel")
        _check(self.padding in ("replicate", "zeros"), "padding", "replicate or zeros")
        _check(self.size >= 32, "size", "32 or more")
        _check(self.output_radius in (1, 2), "output_radius", "1 or 2, for tiles of photos overlap no farther")
        _check(bool(self.faces) and bool(self.styles), "faces and styles", "a list with one name or more")
        _check(0 < self.test_fraction < 1, "test_fraction", "between 0 and 1")
        _check(0 <= self.ema < 1, "ema", "from 0 to below 1")
        steps = ("train_steps", "ablation_steps", "log_every", "checkpoint_every")
        for key in steps + ("batch", "segments", "perceptual_every", "processes", "bench_repeats"):
            _check(getattr(self, key) >= 1, key, "1 or more")
        if self.processes > 1:  # each takes its part of the batch, and every n-th image of that
            parts = self.processes * self.perceptual_every
            _check(self.batch % parts == 0, "batch", f"divisible by {parts} (`processes` times `perceptual_every`)")
        for key in LOSSES + ("pretrain_steps", "seed", "face_limit", "cartoon_limit"):
            _check(getattr(self, key) >= 0, key, "0 or more")
        for key in ("generator_rate", "discriminator_rate", "slope", "output_eps", "surface_eps", "brighten"):
            _check(getattr(self, key) > 0, key, "more than 0")
        for style, settings in self.style_settings.items():
            known = isinstance(style, str) and isinstance(settings, dict) and set(settings) <= set(OF_A_STYLE)
            _check(known, f"style_settings: {style}", f"settings out of {', '.join(OF_A_STYLE)}, with their values")
            try:
                self.of(style)
            except files.InputError as problem:
                raise files.InputError(f"In `style_settings` of {style}: {problem}") from None

    def of(self, style: str) -> "Profile":
        """What a style is trained with: a copy with the style's own settings."""
        return self.replace(style_settings={}, **self.style_settings.get(style, {}))

    def replace(self, **changes: object) -> "Profile":
        """A copy with some settings changed; unknown keys and wrong types are InputErrors."""
        return profile_of(dataclasses.asdict(self) | changes)

    def key(self, ignore: tuple[str, ...] = (), *data: str) -> str:
        """Short hash of all settings but the name and those ignored, and of the data's hashes: it names run folders."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k != "name" and k not in ignore}
        return hashlib.sha256(json.dumps([settings, *data], sort_keys=True).encode()).hexdigest()[:8]


def _check(good: bool, key: str, wanted: str) -> None:
    if not good:
        raise files.InputError(f"The setting `{key}` must be {wanted}.")


def _typed(key: str, value: object, kind: object) -> object:
    """The value as the type of its field; only int -> float and list -> tuple are converted."""
    if isinstance(kind, types.GenericAlias) and typing.get_origin(kind) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    wanted = "a list of names" if typing.get_origin(kind) is tuple else f"of type {kind.__name__}"
    hint = " (YAML reads 2e-4 as text: write 2.0e-4)" if kind is float and isinstance(value, str) else ""
    raise files.InputError(f"The setting `{key}` must be {wanted}, not {value!r}{hint}.")


def profile_of(settings: dict) -> Profile:
    """A Profile out of plain values; every key must be a field and every value of its type."""
    fields = {field.name: field.type for field in dataclasses.fields(Profile)}
    for key in settings:
        if key not in fields:
            near = get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else f" Known settings: {', '.join(fields)}."
            raise files.InputError(f"Unknown setting `{key}`.{hint}")
    return Profile(**{key: _typed(key, value, fields[key]) for key, value in settings.items()})


def style_name(style: str) -> str:
    """What a style is called: the name of its set, or the last part of the path of a folder or film of your own."""
    return re.sub(r"[^a-z0-9]+", "_", Path(style).stem.lower()).strip("_") or "folder"


def read_yaml(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise files.InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict):
        raise files.InputError(f"{path} must hold lines of the form `key: value`.")
    return content


def load_profile(name: str, overrides: dict | None = None) -> Profile:
    """The profile of profiles/<name>.yaml, with some settings replaced, also where a style sets them for itself."""
    path = files.PROFILES / f"{name}.yaml"
    known = sorted(p.stem for p in files.PROFILES.glob("*.yaml") if p.stem != "ablations")
    if name not in known:
        raise files.InputError(f"There is no profile `{name}`: choose one of {', '.join(known)}, or add {path.name}.")
    profile, overrides = profile_of({"name": name} | read_yaml(path)), overrides or {}
    own = profile.style_settings
    for style in own.keys() - {style_name(style) for style in profile.styles}:
        raise files.InputError(f"`style_settings` of profile {name} names {style}, which is none of its styles.")
    if "style_settings" not in overrides:  # what is overridden holds for every style
        own = {style: {k: v for k, v in settings.items() if k not in overrides} for style, settings in own.items()}
    return profile_of(dataclasses.asdict(profile) | {"style_settings": own} | overrides)


if __name__ == "__main__":
    with files.one_sentence():
        print(yaml.safe_dump(dataclasses.asdict(load_profile(*sys.argv[1:2] or ["quick"])), sort_keys=False), end="")
