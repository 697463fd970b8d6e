"""MuseTalk 1.5's own training configurations, stage1.yaml and stage2.yaml, as they are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import MuseTalkError
from .config import read_changes
from .recipes import (
    CROPS,
    MARGINS,
    REFERENCES,
    SCHEDULES,
    DiscriminatorSettings,
    LossSettings,
    Optimisation,
    Recipe,
    Sampling,
)

# Keys that change nothing, upstream or here, and why.
DEAD = {
    "syncnet_config_path": "the form of SyncNet is read off its file",
    "model_params.discriminator_params.image_channel": "never read",
    "model_params.discriminator_params.estimate_jacobian": "never read",
    "discriminator_train_params.patch_size": "never read",
    "discriminator_train_params.epochs": "never read",
    "solver.uncond_steps": "never read",
    "solver.mixed_precision": "upstream computes in fp32 whatever it says",
    "solver.enable_xformers_memory_efficient_attention": "torch's own attention is used",
    "save_model_epoch_interval": "checkpoints are counted in steps",
}
CLOSED_MOUTH = "pose_similarity_and_closed_mouth"
IMAGE_SIZE = 256
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class UpstreamConfig:
    """A configuration in our terms.

    out: folder of the run. models: where weights lie, unet_folder and vae below it. dataset: HDTF, VFHQ, any other
    word for both. workers: processes that prepare samples. keep: checkpoints that stay. checkpoint_every,
    validate_every: our steps. shown: pictures of a validation. dead: keys without effect. unknown: keys that are no
    upstream ones.
    """

    recipe: Recipe
    out: Path
    models: Path
    unet_folder: str
    vae: str
    whisper: Path
    dataset: str
    workers: int
    resume: bool
    seed: int
    keep: int
    checkpoint_every: int
    validate_every: int
    shown: int
    dead: tuple[str, ...]
    unknown: tuple[str, ...]

    def notes(self) -> list[str]:
        """Sentences for the user: what is not known, what has no effect, how steps were converted."""
        said = []
        if self.unknown:
            said.append(f"Unknown keys are left out: {', '.join(self.unknown)}; look for a spelling mistake.")
        if self.dead:
            said.append(f"Keys without effect: {', '.join(f'{name} ({DEAD[name]})' for name in self.dead)}.")
        optimisation = self.recipe.optimisation
        if optimisation.accumulate > 1:
            said.append(
                f"Upstream counts every batch as a step, here a step is an update by {optimisation.accumulate} "
                f"batches: {optimisation.steps} steps, of them {optimisation.warm_up_steps} of warm-up."
            )
        return said


def read_upstream_config(path: Path) -> UpstreamConfig:
    """Read stage1.yaml, stage2.yaml or one like them.

    max_train_steps, start_gan, checkpointing_steps and val_freq count batches upstream, of which
    gradient_accumulation_steps make one step of ours; the learning rates' own steps count updates, of which upstream
    makes gradient_accumulation_steps times as many (train.py, utils/training_utils.py; one process). Raises
    MuseTalkError for a file that cannot be read, for a key that is absent or of another kind, and for what upstream
    offers but cannot do: closed-mouth references, use_adapted_weight, other sizes, several scales of a discriminator.
    """
    keys = _Keys(path, read_changes(path))
    _refuse_impossible(keys)
    batches = keys.integer("solver.gradient_accumulation_steps", least=1)
    return UpstreamConfig(
        recipe=Recipe(
            losses=_losses(keys, batches),
            optimisation=_optimisation(keys, batches),
            sampling=_sampling(keys),
            discriminator=_discriminator(keys, batches),
            random_start=keys.flag("random_init_unet"),
        ),
        out=Path(keys.text("output_dir")) / keys.text("exp_name"),
        models=Path(keys.text("pretrained_model_name_or_path")),
        unet_folder=keys.text("unet_sub_folder"),
        vae=keys.text("vae_type"),
        whisper=Path(keys.text("whisper_path")),
        dataset=keys.text("data.dataset_key"),
        workers=keys.integer("data.num_workers"),
        resume=keys.flag("resume_from_checkpoint"),
        seed=keys.integer("seed"),
        keep=keys.integer("total_limit", least=1),
        checkpoint_every=_updates(keys.integer("checkpointing_steps", least=1), batches),
        validate_every=_updates(keys.integer("val_freq", least=1), batches),
        shown=keys.integer("num_images_to_keep"),
        dead=tuple(name for name in keys.unread() if name in DEAD),  # these two last: all others are read by now
        unknown=tuple(name for name in keys.unread() if name not in DEAD),
    )


class _Keys:
    """The values of a file under dotted names; remembers which were asked for."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path, self._values = path, dict(_flat(values))
        self._read: set[str] = set()

    def unread(self) -> list[str]:
        return [name for name in self._values if name not in self._read]

    def raw(self, name: str) -> Any:
        if name not in self._values:
            raise MuseTalkError(f"{self._path} has no key {name}; add it as in MuseTalk's own stage2.yaml.")
        self._read.add(name)
        return self._values[name]

    def wrong(self, name: str, wanted: str) -> MuseTalkError:
        return MuseTalkError(f"{self._path}: {name} is {self._values[name]!r}; give {wanted}.")

    def number(self, name: str) -> float:
        """YAML 1.1 takes 1e-5, without a dot, for a text; upstream's reader does not."""
        value = self.raw(name)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with suppress(ValueError):
                return float(value)
        raise self.wrong(name, "a number")

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self.raw(name)
        if not isinstance(value, list) or not all(isinstance(v, int | float) for v in value):
            raise self.wrong(name, "a list of numbers")
        return tuple(float(v) for v in value)

    def integer(self, name: str, least: int = 0) -> int:
        value = self.raw(name)
        if type(value) is not int or value < least:
            raise self.wrong(name, f"a whole number of {least} or more")
        return value

    def flag(self, name: str) -> bool:
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "True or False")
        return value

    def text(self, name: str) -> str:
        value = self.raw(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text")
        return value

    def one_of(self, name: str, choices: Sequence[Word]) -> Word:
        value = self.raw(name)
        for choice in choices:
            if choice == value:
                return choice
        raise self.wrong(name, f"one of {', '.join(choices)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _refuse_impossible(keys: _Keys) -> None:
    if keys.raw("data.sample_method") == CLOSED_MOUTH:
        raise keys.wrong(
            "data.sample_method", "another of upstream's, because this one needs 106 face points and clips have 68"
        )
    if keys.flag("use_adapted_weight"):
        raise keys.wrong("use_adapted_weight", "False, because upstream has no code for it")
    if keys.flag("solver.scale_lr"):
        raise keys.wrong("solver.scale_lr", "False and the learning rate as it is to be used")
    if keys.integer("data.image_size") != IMAGE_SIZE:
        raise keys.wrong("data.image_size", f"{IMAGE_SIZE}, MuseTalk's only size")
    if keys.numbers("model_params.discriminator_params.scales") != (1.0,):
        raise keys.wrong("model_params.discriminator_params.scales", "[1], as both of upstream's stages do")


def _updates(batches: int, accumulate: int) -> int:
    """Our steps in which so many batches are through."""
    return -(-batches // accumulate)


def _losses(keys: _Keys, batches: int) -> LossSettings:
    return LossSettings(
        pixels=keys.number("loss_params.l1_loss"),
        perceptual=keys.number("loss_params.vgg_loss"),
        scales=keys.numbers("loss_params.pyramid_scale"),
        vgg_layers=keys.numbers("loss_params.vgg_layer_weight"),
        adversarial=keys.number("loss_params.gan_loss"),
        mouth_adversarial=keys.number("loss_params.mouth_gan_loss"),
        adversarial_from=_updates(keys.integer("discriminator_train_params.start_gan"), batches),
        feature_matching=keys.numbers("loss_params.fm_loss"),
        sync=keys.number("loss_params.sync_loss"),
        backward_frames=keys.integer("num_backward_frames"),
    )


def _optimisation(keys: _Keys, batches: int) -> Optimisation:
    longest = keys.integer("solver.max_train_steps", least=1)
    return Optimisation(
        learning_rate=keys.number("solver.learning_rate"),
        steps=_updates(longest, batches),
        decay_steps=longest * batches,
        schedule=keys.one_of("solver.lr_scheduler", SCHEDULES),
        warm_up_steps=keys.integer("solver.lr_warmup_steps") * batches,
        accumulate=batches,
        betas=(keys.number("solver.adam_beta1"), keys.number("solver.adam_beta2")),
        weight_decay=keys.number("solver.adam_weight_decay"),
        epsilon=keys.number("solver.adam_epsilon"),
        clip=keys.number("solver.max_grad_norm"),
        eight_bit=keys.flag("solver.use_8bit_adam"),
        checkpointing=keys.flag("solver.gradient_checkpointing"),
    )


def _sampling(keys: _Keys) -> Sampling:
    narrowest = keys.integer("data.min_face_size")
    return Sampling(
        batch=keys.integer("data.train_bs", least=1),
        frames=keys.integer("data.n_sample_frames", least=1),
        reference=keys.one_of("data.sample_method", REFERENCES),
        crop=keys.one_of("crop_type", CROPS),
        top_share=keys.number("data.top_k_ratio"),
        min_face=narrowest if keys.flag("data.contorl_face_min_size") else 0,
        margin=keys.one_of("random_margin_method", MARGINS),
        margin_mean=keys.number("cropping_jaw2edge_margin_mean"),
        margin_deviation=keys.number("cropping_jaw2edge_margin_std"),
        mouth_padding=keys.integer("padding_pixel_mouth"),
        audio_left=keys.integer("data.audio_padding_length_left"),
        audio_right=keys.integer("data.audio_padding_length_right"),
        reference_dropout=keys.number("ref_dropout_rate"),
    )


def _discriminator(keys: _Keys, batches: int) -> DiscriminatorSettings:
    form, rates = "model_params.discriminator_params", "discriminator_train_params"
    betas = keys.numbers(f"{rates}.betas")
    if len(betas) != 2:
        raise keys.wrong(f"{rates}.betas", "two numbers")
    return DiscriminatorSettings(
        width=keys.integer(f"{form}.block_expansion", least=1),
        blocks=keys.integer(f"{form}.num_blocks", least=1),
        widest=keys.integer(f"{form}.max_features", least=1),
        spectral=keys.flag(f"{form}.sn"),
        learning_rate=keys.number(f"{rates}.lr"),
        betas=(betas[0], betas[1]),
        weight_decay=keys.number(f"{rates}.weight_decay"),
        epsilon=keys.number(f"{rates}.eps"),
        decay_steps=keys.integer("solver.max_train_steps", least=1) * batches,
    )
