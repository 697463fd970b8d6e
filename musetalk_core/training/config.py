"""What a training run depends on: how long and where it runs, and the settings of each stage."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import MuseTalkError


@dataclass(frozen=True)
class RunSettings:
    """How a stage runs; exactly one of steps and minutes is given.

    steps: optimizer steps; the run is then reproducible, and one that was stopped and resumed gives the same bits
    on the same machine. minutes: time spent in this stage, pauses not counted; the schedule follows the clock.
    device as in engine.choose_device; precision: auto, fp32 or bf16 (see precision.py). checkpoint_every,
    validate_every, log_every: steps. keep: checkpoints that stay on disk.
    """

    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    checkpoint_every: int = 200
    validate_every: int = 500
    log_every: int = 50
    keep: int = 2

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise MuseTalkError("The length of the training is not clear; give either steps or minutes.")
        for name in ("checkpoint_every", "validate_every", "log_every", "keep", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MuseTalkError(f"{name} is {value}; give 1 or more.")
        if self.minutes is not None and self.minutes <= 0:
            raise MuseTalkError(f"minutes is {self.minutes:g}; give more than 0.")


@dataclass(frozen=True)
class AutoencoderSettings:
    """The autoencoder's training. Losses are means over pixels in [-1,1].

    batch: crops per step, `crop` pixels on a side, `mouth_share` of them around the mouth, `masked_share` with
    the lower half black as at inference. latent_noise: standard deviation added before decoding, so that the
    decoder bears a generator's errors. shift_share: of the steps, in which latents moved by part of a cell must
    decode to the moved picture, and equal its latents with the weight `smooth`: a code that a generator can
    foresee. gradient, pyramid: weights of the first-difference and the Laplacian-pyramid L1; adversarial: weight of
    the patch discriminator's verdict, from `adversarial_from` of the run on.
    """

    batch: int = 8
    crop: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    ema_decay: float = 0.998
    mouth_share: float = 0.5
    masked_share: float = 0.1
    latent_noise: float = 0.1
    shift_share: float = 0.5
    smooth: float = 0.05
    gradient: float = 0.5
    pyramid: float = 0.5
    adversarial: float = 0.05
    adversarial_from: float = 0.5
    discriminator_width: int = 24
    discriminator_rate: float = 1e-3
    clip: float = 1.0


@dataclass(frozen=True)
class AudioSettings:
    """The audio encoder's training on mouth curves and visemes, a supervision that needs no pictures.

    batch: windows of `window_rows` rows (50 a second). l1 and mse: the loss of each of the five standardised
    curves (jaw, wide, up, tuck, press) by kind; press and tuck are rare pulses, whose median is rest, so an L1
    would learn to ignore them. viseme: weight of the cross-entropy. silent_share: of the windows, in which nobody
    speaks.
    """

    batch: int = 16
    window_rows: int = 300
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.995
    l1: tuple[float, ...] = (2.0, 1.0, 0.5, 0.0, 0.0)
    mse: tuple[float, ...] = (0.5, 0.0, 0.0, 0.5, 1.0)
    viseme: float = 0.3
    silent_share: float = 0.04
    clip: float = 1.0


@dataclass(frozen=True)
class GeneratorSettings:
    """The generator's first stage: latents and decoded pixels of the mouth, audio encoder and codec frozen.

    twin_masked: share of samples whose visible upper half is the twin's (same pose, other words).
    reference_same, reference_still: shares whose reference is the twin at the same frame (as at inference), or the
    still portrait; the rest is another frame of the track. box_variants, sound_variants: jittered crops and
    augmented sounds that are prepared per frame and per speech. silent_share: of the samples that show a resting mouth,
    which get the sound of a recording in which nobody speaks. pixel_batch: samples of a step that are also
    decoded; pixel, gradient, adversarial: weights of the losses on them, from `pixel_from` and `adversarial_from`
    of the run on.
    """

    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    twin_masked: float = 0.5
    reference_same: float = 0.7
    reference_still: float = 0.15
    box_variants: int = 1
    sound_variants: int = 3
    silent_share: float = 0.3
    latent: float = 1.0
    pixel_batch: int = 8
    pixel: float = 3.0
    pixel_from: float = 0.05
    gradient: float = 0.5
    adversarial: float = 0.15
    adversarial_from: float = 0.5
    discriminator_width: int = 24
    discriminator_rate: float = 1e-3
    clip: float = 1.0


StageSettings = AutoencoderSettings | AudioSettings | GeneratorSettings
Settings = TypeVar("Settings")


def changed(settings: Settings, changes: Mapping[str, Any], owner: str) -> Settings:
    """The settings, a dataclass, with some fields replaced; `owner` (a file, an option) is named in errors.

    Lists become tuples. Raises MuseTalkError for an unknown name or a value of another type.
    """
    known = {field.name: getattr(settings, field.name) for field in fields(cast(Any, settings))}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    for name, value in values.items():
        if name not in known:
            raise MuseTalkError(f"{owner}: {name!r} is no setting; known are {', '.join(known)}.")
        if not _fits(value, known[name]):
            raise MuseTalkError(f"{owner}: {name} is {value!r}; give a value like {known[name]!r}.")
    return cast(Settings, replace(cast(Any, settings), **values))


def _fits(value: Any, example: Any) -> bool:
    if example is None or value is None:
        return True
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(example)


def read_changes(path: Path) -> dict[str, Any]:
    """The mapping of a YAML or JSON file. Raises MuseTalkError when it cannot be read or is no mapping."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MuseTalkError(f"The config file {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise MuseTalkError(f"The config file {path} holds no settings; give lines such as `batch: 8`.")
    return content


def as_json(settings: StageSettings) -> str:
    """The settings as JSON, for a checkpoint's metadata."""
    return json.dumps(asdict(settings), sort_keys=True)
