"""Profiles: every setting of a run in one typed, immutable object. runs/profiles.py reads them from files."""

import hashlib
import json
import typing
from difflib import get_close_matches
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .files import InputError

# Types, what holds for them, and how an error message says that.
Names = Annotated[tuple[str, ...], Field(strict=False), MinLen(1), "a list with one name or more"]  # YAML has lists
Count, CountOrNone = Annotated[int, Ge(1), "1 or more"], Annotated[int, Ge(0), "0 or more"]
Weight, Positive = Annotated[float, Ge(0), "0 or more"], Annotated[float, Gt(0), "more than 0"]
Share, Shift = Annotated[float, Ge(0), Le(1), "from 0 to 1"], Annotated[float, Ge(-0.5), Le(0.5), "from -0.5 to 0.5"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Weights(_Settings):
    """The weights of the losses, scale-free (see losses.py): one entry for each function there."""

    content: Weight = 0.3
    anchor: Weight = 1.0  # holds colour and lines; belongs to the content loss
    structure: Weight = 0.3
    surface: Weight = 3.0
    texture: Weight = 8.0
    total_variation: Weight = 15.0
    landmark: Weight = 40.0


LOSSES = tuple(Weights.model_fields)


class Look(_Settings):
    """What a style's structure start teaches to draw, see looks.py: set by hand, not learned."""

    flatten: Positive = 0.012  # price of a step between pixels: the larger, the larger the flat regions
    lift: Weight = 0.12  # how much lighter middle tones become
    vivid: Positive = 1.25  # chroma over the photo's
    width: Positive = 0.9  # of contours, px
    flow: Weight = 4.0  # px along which contours are gathered, so that they run on (dataset/lines.py); 0: not at all
    ink: Share = 0.95  # how dark they are
    coloured: Share = 0.0  # how far a deeper tone of the colour beside them; 0: black. In faces 0.5 or more
    shade: Shift = 0.0  # light that shadows gain, blacks most; below 0: that they lose
    warmth: Shift = 0.0  # how far shadows lean to brown; below 0: to blue


TABLES = {"weights": Weights, "look": Look}  # of a profile
# What a style may set for itself: nothing that pretraining, which all styles start from, depends on.
OF_A_STYLE = ("start_batch", "start_steps", "train_steps", "ema", "output_radius", "weights", "look")


class Profile(_Settings):
    """The settings of a run. The defaults are the original report's protocol with our losses, repairs and rates."""

    name: str

    # data: names of data/sources.yaml, or paths of your own folders
    faces: Names = ("ffhq_thumbnails128",)
    styles: Names = ("hayao", "paprika", "shinkai", "summerwar")  # one generator for each
    shown: str = ""  # face set of the figures, for data whose pictures may not be published; "": the held-out faces
    size: Annotated[int, Ge(32), "32 or more"] = 128  # px, side of the training images
    face_limit: CountOrNone = 5000  # images taken at most from each face set
    cartoon_limit: CountOrNone = 2000  # and from each style
    test_fraction: Annotated[float, Gt(0), Lt(1), "between 0 and 1"] = 0.1  # held out, by content hash
    augment: bool = True  # random crop, flip and mild colour; the original has none

    # frozen networks
    perceptual: Literal["vgg19", "efficientnet_lite0"] = "vgg19"
    landmarks: Literal["onet", "fan"] = "onet"  # onet: 5 points | fan: 68 heatmaps
    perceptual_every: Count = 2  # content and structure loss look at every n-th image (hardly worse: notebook 06)

    # protocol
    seed: CountOrNone = 0
    batch: Count = 16
    start_batch: CountOrNone = 0  # of the structure start, which small ones speed up; 0: as the others
    pretrain_steps: CountOrNone = 50_000  # to the photo
    start_steps: CountOrNone = 50_000  # then to a drawing of its structure; 0, the original's: none
    train_steps: Count = 30_000
    ablation_steps: Count = 30_000  # of every row of the ablation table, the full method among them
    start_rate: Positive = 5.0e-4  # of the generator in the structure start; Adam, betas (0.5, 0.99), as the others
    generator_rate: Positive = 2.0e-4
    discriminator_rate: Positive = 4.0e-4  # twice the generator's, for judges that keep up
    decay: Share = 0.5  # last part of a run, in which rates fall to 0
    ema: Annotated[float, Ge(0), Lt(1), "from 0 to below 1"] = 0.999  # decay of the averaged generator, which is kept
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the hardware multiplies it
    step: Literal["auto", "eager", "graph"] = "auto"  # a CUDA graph, or one operation at a time | auto: if possible
    processes: Count = 1  # that share every batch, one GPU each (see cartoonlib/runs/README.md)
    bench_repeats: Count = 3  # turns in which notebook 07 times steps, and seeds of its comparison, 3 at most
    log_every: Count = 50
    checkpoint_every: Count = 1000
    on_divergence: Literal["stop", "back_off"] = "stop"  # back_off: half the rates from the last good checkpoint on

    # losses
    weights: Weights = Weights()
    look: Look = Look()
    style_settings: dict = {}  # style -> what it sets for itself (OF_A_STYLE); rows of the ablation table are without
    tone: bool = True  # cartoons are judged in the light of the photos
    gate: bool = True  # the texture branch pushes little on flat skin
    edge_aware: bool = True  # total variation weighed by edges and brightness of the photo; False: plain squares
    texture_features: bool = True  # the texture discriminator also sees features of the perceptual network

    # representations
    segments: Count = 200
    adaptive: bool = True  # mean or median per segment, by its deviation
    brighten: Positive = 1.0
    surface_eps: Positive = 0.2

    # the original's defects 2 to 7, each one repaired here
    skips: bool = True  # False: the U-Net's skips and second convolutions are dead
    color_shift: Literal["batch", "pixel"] = "batch"  # pixel: colour-shift weights drawn for every pixel
    sigmoid: bool = False  # True: a sigmoid under the least-squares loss
    tanh: bool = False  # True: tanh on the generator's output
    slope: Positive = 0.2  # of LeakyReLU; the original's is 0.01
    output_eps: Positive = 4.0e-3  # of the guided filter on the output; White-box's is 0.01, the original's 0.1
    output_radius: CountOrNone = 0  # of that filter, px; White-box's is 1, which blurs thin lines; 0: none
    padding: Literal["replicate", "zeros"] = "replicate"  # of the generator's convolutions; the original's is zeros

    @model_validator(mode="after")
    def _fits_together(self) -> "Profile":
        parts = self.processes * self.perceptual_every  # each takes its part of the batch, and every n-th image of that
        if self.processes > 1 and self.batch % parts:
            raise InputError(f"The setting `batch` must be divisible by {parts}, `processes` times `perceptual_every`.")
        if self.start_batch % self.processes:
            raise InputError(f"The setting `start_batch` must be divisible by {self.processes} (`processes`).")
        for style, settings in self.style_settings.items():
            if not (isinstance(style, str) and isinstance(settings, dict) and set(settings) <= set(OF_A_STYLE)):
                wanted = f"settings out of {', '.join(OF_A_STYLE)}, with their values"
                raise InputError(f"The setting `style_settings: {style}` must be {wanted}.")
            try:
                self.of(style)
            except InputError as problem:
                raise InputError(f"In `style_settings` of {style}: {problem}") from None
        return self

    def of(self, style: str) -> "Profile":
        """What a style is trained with: a copy with the style's own settings."""
        return self.replace(style_settings={}, **self.style_settings.get(style, {}))

    def rate_share(self, left: float) -> float:
        """Of the full rates, with the share `left` of a run's steps still to be made: they fall to 0 over `decay`."""
        return min(1.0, left / self.decay) if self.decay else 1.0

    def replace(self, **changes: object) -> "Profile":
        """A copy with some settings, and some entries of its tables, changed; unknown keys and types: InputError."""
        settings = self.model_dump()
        for table in TABLES:
            if isinstance(changes.get(table), dict):
                changes[table] = settings[table] | changes[table]
        return profile_of(settings | changes)

    def flat(self) -> dict[str, object]:
        """All settings without tables: weights and look stand beside the others, under their names."""
        settings = self.model_dump()
        own = {style: _flat(values) for style, values in settings.pop("style_settings").items()}
        return _flat(settings) | {"style_settings": own}

    def key(self, ignore: tuple[str, ...] = (), *data: str) -> str:
        """Short hash of all settings but the name and those ignored, and of the data's hashes: it names run folders."""
        settings = {k: v for k, v in self.flat().items() if k != "name" and k not in ignore}
        return hashlib.sha256(json.dumps([settings, *data], sort_keys=True).encode()).hexdigest()[:8]


def _flat(settings: dict) -> dict:
    plain = {key: value for key, value in settings.items() if key not in TABLES}
    return plain | {key: value for table in TABLES for key, value in settings.get(table, {}).items()}


def profile_of(settings: dict) -> Profile:
    """A Profile out of plain values; InputError when a key is no setting, or a value not of its type or range."""
    try:
        return Profile.model_validate(settings)
    except ValidationError as error:
        raise InputError(_sentence(error.errors()[0])) from None


def _sentence(error: dict) -> str:
    """What is wrong with one setting, out of one of pydantic's errors."""
    inside = len(error["loc"]) > 1 and error["loc"][0] in TABLES
    table, place = (TABLES[error["loc"][0]], f"{error['loc'][0]}.") if inside else (Profile, "")
    key = str(error["loc"][inside])
    if key not in table.model_fields:
        for name, other in TABLES.items():
            if key in other.model_fields:
                return f"Unknown setting `{key}`. It belongs to a table: write `{name}: {{{key}: ...}}`."
        near = get_close_matches(key, table.model_fields, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known settings: {', '.join(table.model_fields)}."
        return f"Unknown setting `{place}{key}`. {hint}"
    field, value = table.model_fields[key], error["input"]
    if not error["type"].endswith("_type"):  # of the right type
        words = next((text for text in field.metadata if isinstance(text, str)), None)
        choices = error.get("ctx", {}).get("expected", "").replace("'", "")
        return f"The setting `{place}{key}` must be {words or choices}."
    tables = {table: f"a table with {', '.join(table.model_fields)}" for table in TABLES.values()}
    kinds = {tuple: "a list of names", **tables}
    kind = typing.get_origin(field.annotation) or field.annotation
    hint = " (YAML reads 2e-4 as text: write 2.0e-4)" if kind is float and isinstance(value, str) else ""
    return f"The setting `{place}{key}` must be {kinds.get(kind, f'of type {kind.__name__}')}, not {value!r}{hint}."
