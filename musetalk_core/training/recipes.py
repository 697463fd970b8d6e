"""What a training of MuseTalk's UNet depends on: losses, optimisation, samples; and the known recipes.

A step is one update of the weights; upstream's configuration of MuseTalk 1.5 counts every backward pass (see
upstream_config.py).
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import MuseTalkError

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant")
Reference = Literal["random", "pose_similarity", "pose_similarity_and_mouth_dissimilarity"]
REFERENCES: tuple[Reference, ...] = ("random", "pose_similarity", "pose_similarity_and_mouth_dissimilarity")
Crop = Literal["crop_resize", "dynamic_margin_crop_resize"]
CROPS: tuple[Crop, ...] = ("crop_resize", "dynamic_margin_crop_resize")
Margin = Literal["normal", "uniform"]
MARGINS: tuple[Margin, ...] = ("normal", "uniform")
LOSSES = ("pixels", "lower_pixels", "latents", "perceptual", "lpips", "adversarial", "mouth_adversarial", "sync")
Part = Literal["all", "attention"]
PARTS: tuple[Part, ...] = ("all", "attention")
SYNC_FRAMES = 16


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses, 0 switches one off; docs/training_losses.md says what each is.

    pixels, lower_pixels: L1 of the picture and of its lower half, in [-1,1]. latents: L1 of scaled latents.
    perceptual: VGG-19 features at `scales`, its five layers weighted by vgg_layers. lpips: of the lower half.
    adversarial, mouth_adversarial: the verdict of a discriminator of the face, of the mouth, from step
    `adversarial_from` on. feature_matching: of the discriminators' blocks, from the first step on; without a
    discriminator there is none. sync: SyncNet's. backward_frames: frames of a clip that are generated when sync is on,
    the rest are real; less than 16 saves memory.
    """

    pixels: float = 0.0
    lower_pixels: float = 0.0
    latents: float = 0.0
    perceptual: float = 0.0
    scales: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    vgg_layers: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0)
    lpips: float = 0.0
    adversarial: float = 0.0
    mouth_adversarial: float = 0.0
    adversarial_from: int = 1000
    feature_matching: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    sync: float = 0.0
    backward_frames: int = SYNC_FRAMES

    def __post_init__(self) -> None:
        for name in LOSSES:
            if getattr(self, name) < 0:
                raise MuseTalkError(f"The weight of the loss {name} is {getattr(self, name):g}; give 0 or more.")
        if not 1 <= self.backward_frames <= SYNC_FRAMES:
            raise MuseTalkError(f"backward_frames is {self.backward_frames}; give 1 to {SYNC_FRAMES}.")


@dataclass(frozen=True)
class DiscriminatorSettings:
    """The form of FaceDiscriminator and its AdamW.

    Its learning rate falls along half a cosine from learning_rate to final_rate within decay_steps.
    """

    width: int = 32
    blocks: int = 4
    widest: int = 512
    spectral: bool = True
    learning_rate: float = 5e-6
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    final_rate: float = 1e-6
    decay_steps: int = 250_000


@dataclass(frozen=True)
class Optimisation:
    """The UNet's AdamW and how long it runs, in steps.

    The learning rate rises over warm_up_steps and falls as `schedule` says to 0 at decay_steps. accumulate: batches of
    one step. eight_bit: the optimizer's state in 8 bits. checkpointing: activations of the UNet are computed twice to
    save memory. part: what of the UNet learns, all or its attention layers. ema_decay: of the running mean of the
    weights, which is then the result; 0 has none, as MuseTalk, and saves a copy of the UNet.
    """

    learning_rate: float
    steps: int
    decay_steps: int
    schedule: Schedule = "linear"
    warm_up_steps: int = 0
    accumulate: int = 1
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    clip: float = 1.0
    eight_bit: bool = False
    checkpointing: bool = True
    part: Part = "all"
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise MuseTalkError(f"accumulate is {self.accumulate}; give 1 or more.")
        if self.part not in PARTS:
            raise MuseTalkError(f"part is {self.part!r}; give one of {', '.join(PARTS)}.")
        if not 0 <= self.ema_decay < 1:
            raise MuseTalkError(f"ema_decay is {self.ema_decay:g}; give 0, or a number below 1 such as 0.999.")
        if self.eight_bit:
            raise MuseTalkError("eight_bit is on, and the optimizer's state has 32 bits here; set eight_bit to False.")


@dataclass(frozen=True)
class Sampling:
    """What a batch is made of: `batch` clips of `frames` frames in a row, each frame with a reference.

    reference: how it is chosen, for the pose_ ones among the top_share nearest in pose. crop, margin, margin_mean,
    margin_deviation: the space below the chin, in pixels of the source. min_face: narrower faces are left out, 0 takes
    all. mouth_padding: pixels to both sides of the lips. audio_left, audio_right: frames of sound around each.
    reference_dropout: share of the reference's latents that is zeroed.
    """

    batch: int
    frames: int
    reference: Reference
    crop: Crop = "crop_resize"
    top_share: float = 0.51
    min_face: int = 0
    margin: Margin = "normal"
    margin_mean: float = 10.0
    margin_deviation: float = 10.0
    mouth_padding: int = 10
    audio_left: int = 2
    audio_right: int = 2
    reference_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.frames < 1:
            raise MuseTalkError(f"A batch has {self.batch} clips of {self.frames} frames; give 1 or more of both.")


@dataclass(frozen=True)
class Recipe:
    """One training.

    layout: the UNet's inputs, a kind of weights.layouts.LAYOUTS. random_start: not from weights. positions: the audio
    tokens get their place in time, as at inference; upstream's 1.5 lost that in training (its issue 136).
    """

    losses: LossSettings
    optimisation: Optimisation
    sampling: Sampling
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    layout: str = "musetalk"
    random_start: bool = False
    positions: bool = True

    def __post_init__(self) -> None:
        if self.losses.sync and self.sampling.frames != SYNC_FRAMES:
            raise MuseTalkError(
                f"The sync loss looks at {SYNC_FRAMES} frames, and a clip has {self.sampling.frames}; set frames to "
                f"{SYNC_FRAMES}, or sync to 0."
            )


# MuseTalk 1.0: branch train_codes, train.sh and train.py with --reconstruction.
_V1 = Recipe(
    LossSettings(lower_pixels=2.0, latents=1.0),
    Optimisation(5e-5, 100_000, 100_000, "cosine", accumulate=16, betas=(0.9, 0.999)),
    Sampling(256, 1, "random"),
    random_start=True,
)
# MuseTalk 1.5: configs/training/stage1.yaml and stage2.yaml, steps as upstream_config.py counts them.
_STAGE1 = Recipe(
    LossSettings(pixels=1.0, perceptual=0.01),
    Optimisation(2e-5, 250_000, 250_000, warm_up_steps=1000),
    Sampling(32, 1, "pose_similarity_and_mouth_dissimilarity", min_face=150),
    random_start=True,
)
_STAGE2 = Recipe(
    LossSettings(
        pixels=1.0, perceptual=0.01, adversarial=0.01, mouth_adversarial=0.01, adversarial_from=125, sync=0.05
    ),
    Optimisation(5e-6, 31_250, 2_000_000, warm_up_steps=8000, accumulate=8),
    Sampling(2, 16, "pose_similarity_and_mouth_dissimilarity", crop="dynamic_margin_crop_resize", min_face=200),
    DiscriminatorSettings(decay_steps=2_000_000),
)
# luxiaolili/MuseTalk_train: train.sh, and --add_lpip_loss as described; starts from MuseTalk's weights, widened.
_LANDMARK = replace(
    _V1,
    losses=replace(_V1.losses, lpips=1.0),
    optimisation=replace(_V1.optimisation, steps=200_000, decay_steps=200_000, accumulate=4),
    sampling=replace(_V1.sampling, batch=30),
    layout="landmark",
    random_start=False,
)
PRESETS = {"v1": _V1, "v15-stage1": _STAGE1, "v15-stage2": _STAGE2, "landmark": _LANDMARK}


def preset(name: str) -> Recipe:
    """The recipe of this name; raises MuseTalkError that lists the names."""
    if name not in PRESETS:
        raise MuseTalkError(f"There is no preset {name!r}; known are {', '.join(PRESETS)}.")
    return PRESETS[name]
