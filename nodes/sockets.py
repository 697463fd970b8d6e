"""The pack's own socket types and what reads ComfyUI's types: IMAGE and AUDIO as the core wants them."""

import logging
from collections.abc import Mapping
from typing import Any

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.media.audio import AudioArray
from ..musetalk_core.room import check_memory

log = logging.getLogger(__name__)

# Payloads: comfy_models.ComfyGenerator, .ComfyAudioEncoder, .ComfyFaceModels; musetalk_core's FaceTrack, TokenSource,
# Avatar; plain dicts of settings; BOUNDING_BOX and FACE_LANDMARKS as newer ComfyUIs have them.
MuseTalkModel = io.Custom("MUSETALK_MODEL")
MuseTalkAudioEncoder = io.Custom("MUSETALK_AUDIO_ENCODER")
MuseTalkFaceModels = io.Custom("MUSETALK_FACE_MODELS")
MuseTalkFaceTrack = io.Custom("FACE_TRACK")
MuseTalkAudio = io.Custom("MUSETALK_AUDIO")
# {setting: value} of the settings' group of that name.
MuseTalkFaceOptions = io.Custom("MUSETALK_FACE_OPTIONS")
MuseTalkBlendOptions = io.Custom("MUSETALK_BLEND_OPTIONS")
MuseTalkSilence = io.Custom("MUSETALK_SILENCE")
MuseTalkAvatar = io.Custom("MUSETALK_AVATAR")
BoundingBox = io.Custom("BOUNDING_BOX")
FaceLandmarks = io.Custom("FACE_LANDMARKS")


def source_frames(images: torch.Tensor) -> torch.Tensor:
    """Frames (N,H,W,3) of an IMAGE (N,H,W,C) or of MuseV's (B,T,H,W,C), joined along time; alpha is left out."""
    if images.ndim == 5:
        images = images.flatten(0, 1)
    return matched_frames(images)


def matched_frames(images: torch.Tensor) -> torch.Tensor:
    """Frames (N,H,W,3) on the CPU of an IMAGE (N,H,W,C): alpha left out, gray repeated, dtype kept.

    Raises MuseTalkError for another number of dimensions and for an empty batch.
    """
    if images.ndim != 4:
        raise MuseTalkError(
            f"The images have the shape {tuple(images.shape)} instead of frames x height x width x channels; "
            "pass them through MuseTalkMatchFrames first."
        )
    if len(images) == 0:
        raise MuseTalkError("The images are an empty batch; give at least one frame.")
    if images.shape[-1] == 1:
        images = images.expand(-1, -1, -1, 3)
    return images[..., :3].cpu()


def own_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A user's MASK ((N,H,W) or (H,W)) as (N,H,W) on the CPU, None where none is connected."""
    if mask is None:
        return None
    return (mask[None] if mask.ndim == 2 else mask).cpu()


def audio_source(audio: Mapping[str, Any] | None) -> AudioArray:
    """The sound of an AUDIO {"waveform": (B,C,N), "sample_rate"}: any rate and channels; of a batch the first.

    Raises MuseTalkError when there is none (a video without a sound track gives None).
    """
    if audio is None:
        raise MuseTalkError("There is no audio (a video without a sound track gives none); connect Load Audio.")
    waveform = audio["waveform"]
    if waveform.ndim == 3:
        if len(waveform) > 1:
            log.warning("The audio is a batch of %d; the first one is used.", len(waveform))
        waveform = waveform[0]
    if not waveform.is_floating_point():
        # ComfyUI 0.3.75 hands PCM from a video on as the integers it is stored in.
        waveform = waveform.float() / (torch.iinfo(waveform.dtype).max + 1)
    return AudioArray(waveform.float().cpu().numpy(), int(audio["sample_rate"]))


def check_lengths(**counts: int) -> None:
    """Raise one sentence with all counts unless they are equal: from MuseTalkMatchFrames on there is one time."""
    if len(set(counts.values())) > 1:
        named = " and ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        raise MuseTalkError(
            f"The batches differ in length ({named}); make all of them from the frames of one MuseTalkMatchFrames."
        )


def new_frames(count: int, like: torch.Tensor) -> torch.Tensor:
    """Uninitialised frames (count,H,W,3) of the size and dtype of `like` (...,H,W,3), where results belong.

    Raises MuseTalkError with the numbers when they do not fit into free memory.
    """
    height, width = like.shape[-3:-1]
    device = mm.intermediate_device()
    needed = count * height * width * 3 * like.element_size()
    advice = (
        "use Lip Sync Video (MuseTalk), which holds no frames, or shorten the audio, lower the frame rate or scale the "
        "frames down"
    )
    what = f"The result of {count} frames of {width}x{height}"
    check_memory(what, needed, mm.get_free_memory(device), advice)
    return torch.empty((count, height, width, 3), dtype=like.dtype, device=device)
