"""What the audio says, 50 times a second."""

from collections.abc import Callable, Iterator

import numpy as np
from comfy_api.latest import io

from ..musetalk_core.audio_features import extract_features
from ..musetalk_core.media.audio import AudioSource, mono16k, mono16k_blocks
from ..musetalk_core.settings import SEGMENTATIONS, LipSyncSettings
from ..musetalk_core.silence import gate
from ..musetalk_core.timeline import rational_fps
from .comfy_models import SMALL_NET_BYTES, load_on_device
from .silence import silence_input
from .sockets import MuseTalkAudio, MuseTalkAudioEncoder, audio_source

AUDIO_ENCODER_TOOLTIP = "The audio encoder of Load MuseTalk Models, from the same node as the model."


def sound_blocks(sound: AudioSource) -> Callable[[], Iterator[np.ndarray]]:
    """The sound as blocks at 16 kHz, from its start at every call."""
    return lambda: mono16k_blocks(sound)


def audio_inputs() -> list[io.Input]:
    """The inputs that say how much of the audio one frame hears."""
    padding = (
        "Audio context {} the frame, in steps of 1/25 s. MuseTalk was trained with 2 and 2; other values only fit "
        "models trained with them. 0 means none."
    )
    return [
        io.Int.Input("audio_padding_left", default=2, min=0, max=25, tooltip=padding.format("before")),
        io.Int.Input("audio_padding_right", default=2, min=0, max=25, tooltip=padding.format("after")),
        io.Combo.Input(
            "segmentation",
            options=list(SEGMENTATIONS),
            default="overlap",
            tooltip="How audio longer than 30 s is cut. overlap: windows that overlap, no seams. upstream: hard cuts "
            "every 30 s as in MuseTalk's own code, a little faster, with a mouth glitch at each cut.",
        ),
    ]


class MuseTalkWhisperAudioFeatures(io.ComfyNode):
    """Speech in, features for every frame out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkWhisperAudioFeatures",
            display_name="Whisper Audio Features (MuseTalk)",
            category="MuseTalk",
            description="Turns speech into what the mouth follows: the hidden states of Whisper's encoder.",
            inputs=[
                io.Audio.Input("audio", tooltip="The same audio that Match Frames gets. Any rate and language."),
                MuseTalkAudioEncoder.Input("audio_encoder", tooltip=AUDIO_ENCODER_TOOLTIP),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of the result: connect fps of Match Frames.",
                ),
                *audio_inputs(),
                silence_input(),
            ],
            outputs=[MuseTalkAudio.Output(display_name="features", tooltip="Audio features at the given fps.")],
        )

    @classmethod
    def execute(cls, audio, audio_encoder, fps, silence=None, **values) -> io.NodeOutput:
        sound = audio_source(audio)
        changes = {**values, **(silence or {})}
        settings = LipSyncSettings().changed("Whisper Audio Features (MuseTalk)", changes)
        load_on_device([audio_encoder.patcher], SMALL_NET_BYTES)
        features = extract_features(
            audio_encoder.encoder,
            mono16k(sound),
            sound.seconds,
            rational_fps(fps),
            settings.audio_padding_left,
            settings.audio_padding_right,
            settings.segmentation,
        )
        return io.NodeOutput(gate(features, audio_encoder.encoder, sound_blocks(sound), settings))
