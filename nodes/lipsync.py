"""The whole chain in one node."""

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
from ..musetalk_core.tasks import whole_track
from ..musetalk_core.timeline import MATCH_MODES, output_count, rational_fps
from .audio import AUDIO_ENCODER_TOOLTIP, audio_inputs
from .blending import mask_inputs
from .comfy_models import SMALL_NET_BYTES, ComfyCodec, load_on_device
from .face_options import face_options_input
from .faces import FACE_MODELS_TOOLTIP, face_inputs
from .frames import MODE_TOOLTIP, time_inputs
from .latents import batch_input
from .sockets import (
    MuseTalkAudioEncoder,
    MuseTalkFaceModels,
    MuseTalkFaceTrack,
    MuseTalkModel,
    audio_source,
    new_frames,
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


def loaded_models(model, vae, decode_vae, audio_encoder, face_models, settings: LipSyncSettings) -> Models:
    """The networks of the chain from the nodes' inputs, all on their devices: they take turns in every batch."""
    codec = ComfyCodec(vae)
    models = Models(
        codec=codec,
        decode_codec=codec if decode_vae is None else ComfyCodec(decode_vae),
        generator=model.generator,
        locator=FaceLocator(
            face_models.detector, settings.bbox_shift, settings.extra_margin, settings.face, settings.faces
        ),
        masker=Masker(face_models.parser, settings.mask),
    )
    codecs = {models.codec, models.decode_codec}
    patchers = [model.patcher, audio_encoder.patcher, *face_models.patchers, *(codec.patcher for codec in codecs)]
    size = settings.batch_size
    load_on_device(patchers, max(model.memory(size), *(codec.memory(size) for codec in codecs), SMALL_NET_BYTES))
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
                decode_vae_input(),
                MuseTalkFaceTrack.Input(
                    "track",
                    optional=True,
                    tooltip="The faces of the source frames, one entry a frame of images, for example from Load Face "
                    "Track: nothing is searched then. Unconnected: the faces are found here.",
                ),
                face_options_input(),
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
        face_options=None,
        **values,
    ) -> io.NodeOutput:
        settings = LipSyncSettings().changed("Lip Sync (MuseTalk)", {**values, **(face_options or {})})
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
        report = Report()
        progress = comfy.utils.ProgressBar(count)
        if track is None:
            track = whole_track(source, models.locator, settings, progress.update_absolute)
        for i, frame in enumerate(lip_sync(source, features, count, models, settings, report, track)):
            result[i] = frame
            progress.update_absolute(i + 1, count)
        return io.NodeOutput(result, float(rate), report.text(), report.json())
