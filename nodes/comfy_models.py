"""Networks under ComfyUI's memory management, and a ComfyUI VAE as the core's Codec."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import comfy.model_management as mm
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD

from ..musetalk_core.audio_features import AudioEncoder
from ..musetalk_core.batches import UNET_BYTES, steady_frames
from ..musetalk_core.errors import MissingWeightsError, MuseTalkError
from ..musetalk_core.face_parsing import FaceParser
from ..musetalk_core.faces.backends import Backends
from ..musetalk_core.faces.detector import Detector
from ..musetalk_core.generator import Generator
from ..musetalk_core.settings import DetectorChoice
from ..musetalk_core.weights.folders import PACK_DIR

# Counted: BiSeNet on 8 regions 280 MiB, Whisper-tiny 34 MiB.
SMALL_NET_BYTES = 512 * 2**20
# S3FD on a frame of 1280x1280, its largest: three layers of 64 channels in float32 at a time.
DETECTOR_BYTES = 3 * 64 * 4 * 1280**2


@dataclass(frozen=True)
class ComfyGenerator:
    """MUSETALK_MODEL: a generator whose network ComfyUI moves. version: what the loader's combo said."""

    version: str
    generator: Generator
    patcher: ModelPatcher
    dtype: torch.dtype

    def memory(self, batch_size: int) -> int:
        """Bytes of activations of a batch, about; for 0, which takes what is free, of DEFAULT_BATCH."""
        return steady_frames(batch_size) * UNET_BYTES * mm.dtype_size(self.dtype)


@dataclass(frozen=True)
class ComfyAudioEncoder:
    """MUSETALK_AUDIO_ENCODER: an encoder whose network ComfyUI moves."""

    encoder: AudioEncoder
    patcher: ModelPatcher


@dataclass(frozen=True)
class ComfyFaceModels:
    """MUSETALK_FACE_MODELS: the detectors, and BiSeNet's parser or None (masks are then drawn from landmarks).

    detector_patchers: of the detectors loaded so far, by their backend's name.
    """

    backends: Backends
    parser: FaceParser | None
    parser_patchers: tuple[ModelPatcher, ...]
    detector_patchers: dict[str, ModelPatcher] = field(default_factory=dict)

    def detector(self, choice: DetectorChoice) -> tuple[Detector, ModelPatcher]:
        """The detector of a choice, loaded at the first call, and its patcher, which is loaded before it is used.

        Raises MuseTalkError when something for it is missing, with the command that gets it.
        """
        try:
            backend = self.backends.get(choice)
        except MissingWeightsError as error:
            raise run_in_pack(error) from error
        if backend.name not in self.detector_patchers:
            self.detector_patchers[backend.name] = small_patcher(backend.nets)
        return backend.detector, self.detector_patchers[backend.name]

    def get_models(self) -> list[ModelPatcher]:
        """For ComfyUI, which asks sockets' values for the models in use."""
        return [*self.parser_patchers, *self.detector_patchers.values()]


def run_in_pack(error: MissingWeightsError) -> MissingWeightsError:
    """The error with where its command runs: who works in the page has no shell in the pack's folder open."""
    return MissingWeightsError(f"{str(error).rstrip('.')}, run in {PACK_DIR} with ComfyUI's Python.")


class MuseTalkNet(torch.nn.Module):
    """Holds a network for ComfyUI, which notes the device on the module: diffusers and transformers forbid that."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net


def main_patcher(net: torch.nn.Module) -> ModelPatcher:
    """Under ComfyUI's management, for the device where it runs diffusion models."""
    return ModelPatcher(MuseTalkNet(net), mm.get_torch_device(), mm.unet_offload_device())


def small_patcher(net: torch.nn.Module) -> ModelPatcher:
    """Under ComfyUI's management, for the device where it runs text encoders: audio encoder and face nets."""
    return ModelPatcher(MuseTalkNet(net), mm.text_encoder_device(), mm.text_encoder_offload_device())


def load_on_device(patchers: Sequence[ModelPatcher], memory: int) -> None:
    """Have ComfyUI put whole networks on their devices and keep `memory` bytes free beside them."""
    # Without full load ComfyUI would leave plain modules that do not fit on the CPU, and they would fail there.
    mm.load_models_gpu(list(patchers), memory_required=memory, force_full_load=True)


class ComfyCodec:
    """The core's Codec around a ComfyUI VAE, whose patcher is to be loaded with `memory` before use."""

    def __init__(self, vae: comfy.sd.VAE) -> None:
        vae.throw_exception_if_invalid()
        if vae.latent_dim != 2 or vae.latent_channels != 4 or vae.spacial_compression_decode() != 8:
            raise MuseTalkError(
                f"The VAE makes {vae.latent_channels}-channel latents in {vae.latent_dim} dimensions; MuseTalk needs "
                "a 4-channel SD 1.x VAE such as sd-vae-ft-mse, or TAESD."
            )
        self.vae = vae
        self.patcher = vae.patcher
        self.device = vae.device
        self.dtype = vae.vae_dtype

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B,3,H,W) [0,1] -> mean latents (B,4,H/8,W/8) float32, unscaled, on the VAE's device."""
        pixels = self.vae.process_input(pixels.float()).to(self.device, self.dtype)
        return self.vae.first_stage_model.encode(pixels).float()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B,4,h,w), unscaled -> pixels (B,3,8h,8w) float32 in [0,1] on the VAE's device."""
        pixels = self.vae.first_stage_model.decode(latents.to(self.device, self.dtype))
        return self.vae.process_output(pixels.float())

    def memory(self, batch_size: int) -> int:
        """Bytes of activations to encode or decode a batch of 256x256 faces: what ComfyUI itself reckons with.

        For 0, which takes what is free, those of DEFAULT_BATCH.
        """
        frames = steady_frames(batch_size)
        return int(
            max(
                self.vae.memory_used_encode((frames, 3, 256, 256), self.dtype) * frames,
                self.vae.memory_used_decode((frames, 4, 32, 32), self.dtype) * frames,
            )
        )


class DemoVAE(comfy.sd.VAE):
    """The demo model's autoencoder as a ComfyUI VAE, so that core VAE Encode, VAE Decode and tiling work on it.

    ComfyUI tells networks apart by their keys and would not know this one. So it sets itself up around a TAESD,
    which has the same shape of latents, and then the network is exchanged: attributes of any ComfyUI stay set.
    dtype: None leaves it to ComfyUI.
    """

    def __init__(self, autoencoder: torch.nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__(sd=TAESD().state_dict(), dtype=dtype)
        self.first_stage_model = autoencoder.to(self.vae_dtype)
        self.patcher = ModelPatcher(autoencoder, self.device, mm.vae_offload_device())
        self.size = None
        self.model_size()
