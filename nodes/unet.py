"""The one step that moves the lips."""

import logging

import comfy.model_management as mm
import comfy.utils
import numpy as np
from comfy_api.latest import io

from ..musetalk_core.batches import BatchSize, batch_frames, shrinking_batches
from ..musetalk_core.errors import MuseTalkError
from .comfy_models import load_on_device
from .latents import PART, batch_input
from .sockets import MuseTalkAudio, MuseTalkFaceTrack, MuseTalkModel, check_lengths

log = logging.getLogger(__name__)

MODEL_TOOLTIP = "The generator of Load MuseTalk Models."


class MuseTalkUNetStep(io.ComfyNode):
    """Latents and audio in, latents of speaking faces out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkUNetStep",
            display_name="UNet Step (MuseTalk)",
            category="MuseTalk",
            description="Generates the lower half of every face from the audio, in one step per frame. MuseTalk "
            "inpaints; there is no noise, no seed and no sampler.",
            inputs=[
                MuseTalkModel.Input("model", tooltip=MODEL_TOOLTIP),
                io.Latent.Input("masked", tooltip="masked of VAE Encode Masked."),
                io.Latent.Input("reference", tooltip="reference of VAE Encode Masked."),
                MuseTalkAudio.Input("audio", tooltip="The features of Whisper Audio Features."),
                MuseTalkFaceTrack.Input("track", tooltip="Frames without a face are not generated."),
                batch_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="samples",
                    tooltip="The generated faces. Any VAE Decode works; where no face is, the reference is passed on.",
                )
            ],
        )

    @classmethod
    def execute(cls, model, masked, reference, audio, track, batch_size) -> io.NodeOutput:
        _check_parts(masked.get(PART, "masked"), reference.get(PART, "reference"))
        masked, reference = masked["samples"], reference["samples"]
        check_lengths(masked_latents=len(masked), reference_latents=len(reference), tracked_frames=len(track))
        _check_audio(audio.frames, len(track))
        load_on_device([model.patcher], model.memory(batch_size))
        progress = comfy.utils.ProgressBar(len(track))
        samples = reference.to(mm.intermediate_device(), copy=True)

        def generate(start, stop):
            rows = start + np.flatnonzero(track.present[start:stop])
            if len(rows):
                tokens = audio.tokens(start, stop)[rows - start]
                latents = model.generator.generate(masked[rows], reference[rows], tokens)
                samples[rows] = latents.to(samples)
            return stop - start

        size = BatchSize(batch_frames(batch_size, model.patcher.load_device, model.dtype))
        for _, _, done in shrinking_batches(generate, len(track), size):
            progress.update(done)
        return io.NodeOutput({"samples": samples})


def _check_parts(masked: str, reference: str) -> None:
    """Latents from elsewhere name no part and are taken as what they are connected to."""
    if (masked, reference) != ("masked", "reference"):
        raise MuseTalkError(
            f"The input masked got the {masked} latents and reference the {reference} latents; connect masked of "
            "MuseTalkVAEEncodeMasked to masked and its reference to reference."
        )


def _check_audio(audio_frames: int, frames: int) -> None:
    """Frames beyond the audio are a mistake; audio beyond the frames is what Match Frames' mode trim leaves."""
    if audio_frames < frames:
        raise MuseTalkError(
            f"The audio features have {audio_frames} frames and the latents {frames}; make both from one "
            "MuseTalkMatchFrames, with its fps connected to MuseTalkWhisperAudioFeatures."
        )
    if audio_frames > frames:
        log.info("The audio goes on after the last frame: %d of its %d frames are used.", frames, audio_frames)
