"""The whole chain in one node."""

from contextlib import closing
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..musetalk_core.audio_features import extract_features
from ..musetalk_core.blending import Masker
from ..musetalk_core.faces.locator import FaceLocator
from ..musetalk_core.media.audio import mono16k
from ..musetalk_core.media.source import TensorFrames
from ..musetalk_core.pipeline import Models, lip_sync
from ..musetalk_core.report import Report
from ..musetalk_core.settings import LipSyncSettings
from ..musetalk_core.silence import gate
from ..musetalk_core.tasks import whole_track
from ..musetalk_core.timeline import MATCH_MODES, output_count, rational_fps
from .audio import AUDIO_ENCODER_TOOLTIP, audio_inputs, sound_blocks
from .blend_options import blend_options_input, own_mask_input
from .blending import mask_inputs
from .comfy_models import DETECTOR_BYTES, ComfyCodec, load_on_device
from .face_options import face_options_input
from .faces import FACE_MODELS_TOOLTIP, detector_input, face_inputs
from .frames import MODE_TOOLTIP, time_inputs
from .latents import batch_input
from .silence import silence_input
from .sockets import (
    MuseTalkAudioEncoder,
    MuseTalkFaceModels,
    MuseTalkFaceTrack,
    MuseTalkModel,
    audio_source,
    new_frames,
    own_mask,
    source_frames,
)
from .unet import MODEL_TOOLTIP


def model_inputs() -> list[io.Input]:
    """The four parts that Load MuseTalk Models gives."""
    return [
        MuseTalkModel.Input("model", tooltip=MODEL_TOOLTIP),
        io.Vae.Input("vae", tooltip="The VAE of Load MuseTalk Models, or your own sd-vae-ft-mse."),
        MuseTalkAudioEncoder.Input("audio_encoder", tooltip=AUDIO_ENCODER_TOOLTIP),
        MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
    ]


def setting_inputs() -> list[io.Input]:
    """Every setting of the chain besides the frame rate."""
    return [
        io.Combo.Input("mode", options=list(MATCH_MODES), default="ping-pong", tooltip=MODE_TOOLTIP),
        *face_inputs(),
        *mask_inputs(),
        *audio_inputs(),
        batch_input(),
    ]


def decode_vae_input() -> io.Input:
    """The optional second VAE."""
    return io.Vae.Input(
        "decode_vae",
        optional=True,
        tooltip="Decodes the generated faces instead of vae: a TAESD from core Load VAE is several times "
        "faster and a little softer. Leave it unconnected for vae.",
    )


def merged(values: dict[str, Any], *options: dict[str, Any] | None) -> dict[str, Any]:
    """A node's own values and those of the options nodes that are connected."""
    return {name: value for part in (values, *options) for name, value in (part or {}).items()}


def loaded_models(model, vae, decode_vae, audio_encoder, face_models, settings: LipSyncSettings) -> Models:
    """The networks of the chain from the nodes' inputs, all on their devices: they take turns in every batch."""
    codec = ComfyCodec(vae)
    detector, detector_patcher = face_models.detector(settings.detector)
    models = Models(
        codec=codec,
        decode_codec=codec if decode_vae is None else ComfyCodec(decode_vae),
        generator=model.generator,
        locator=FaceLocator(detector, settings.bbox_shift, settings.extra_margin, settings.face, settings.faces),
        masker=Masker(face_models.parser, settings.mask),
    )
    codecs = {models.codec, models.decode_codec}
    patchers = [model.patcher, audio_encoder.patcher, detector_patcher, *face_models.parser_patchers]
    patchers += [codec.patcher for codec in codecs]
    size = settings.batch_size
    load_on_device(patchers, max(model.memory(size), *(codec.memory(size) for codec in codecs), DETECTOR_BYTES))
    return models


class MuseTalkLipSync(io.ComfyNode):
    """Frames and audio in, speaking frames out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkLipSync",
            display_name="Lip Sync (MuseTalk)",
            category="MuseTalk",
            description="Makes the speaker in the frames say the audio. Does what the discrete nodes do together, "
            "and works on every source frame only once, however often it is shown.",
            inputs=[
                *time_inputs(),
                *model_inputs(),
                *setting_inputs(),
                detector_input(),
                decode_vae_input(),
                MuseTalkFaceTrack.Input(
                    "track",
                    optional=True,
                    tooltip="The faces of the source frames, one entry a frame of images, for example from Load Face "
                    "Track: nothing is searched then. Unconnected: the faces are found here.",
                ),
                own_mask_input(),
                face_options_input(),
                blend_options_input(),
                silence_input(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The finished frames, as many as the audio needs."),
                io.Float.Output(display_name="fps", tooltip="Their rate: connect it to Create Video."),
                io.String.Output(display_name="report", tooltip="How many frames were lip-synced or passed through."),
                io.String.Output(
                    display_name="report_json",
                    tooltip="The report for programs, as JSON: counts, reasons, and which frames kept their picture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images,
        source_fps,
        audio,
        fps,
        model,
        vae,
        audio_encoder,
        face_models,
        decode_vae=None,
        track=None,
        mask=None,
        face_options=None,
        blend_options=None,
        silence=None,
        **values,
    ) -> io.NodeOutput:
        changes = merged(values, face_options, blend_options, silence)
        settings = LipSyncSettings().changed("Lip Sync (MuseTalk)", changes)
        source_rate = rational_fps(source_fps)
        rate = rational_fps(fps) if fps else source_rate
        source = TensorFrames(source_frames(images), source_rate)
        sound = audio_source(audio)
        count = output_count(sound.seconds, rate, len(source), source_rate, settings.mode)
        result = new_frames(count, images)
        models = loaded_models(model, vae, decode_vae, audio_encoder, face_models, settings)
        features = extract_features(
            audio_encoder.encoder,
            mono16k(sound),
            sound.seconds,
            rate,
            settings.audio_padding_left,
            settings.audio_padding_right,
            settings.segmentation,
        )
        tokens = gate(features, audio_encoder.encoder, sound_blocks(sound), settings)
        report = Report()
        progress = comfy.utils.ProgressBar(count)
        if track is None:
            track = whole_track(source, models.locator, settings, progress.update_absolute)
        with closing(lip_sync(source, tokens, count, models, settings, report, track, own_mask(mask))) as frames:
            for i, frame in enumerate(frames):
                result[i] = frame
                progress.update_absolute(i + 1, count)
        return io.NodeOutput(result, float(rate), report.text(), report.json())
