"""What happens where nobody speaks."""

from comfy_api.latest import io

from ..musetalk_core.settings import SILENCES
from .sockets import MuseTalkSilence as Silence

SILENCE_TOOLTIP = "From Silence: what is shown where nobody speaks. Unconnected: the mouth follows every sound."


def silence_input() -> io.Input:
    """The socket that takes what Silence gives."""
    return Silence.Input("silence", optional=True, tooltip=SILENCE_TOOLTIP)


class MuseTalkSilence(io.ComfyNode):
    """What happens where nobody speaks, as settings for others."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkSilence",
            display_name="Silence (MuseTalk)",
            category="MuseTalk",
            description="Keeps the mouth still where nobody speaks: finds the speech in the audio by its loudness and "
            "treats the pauses apart.",
            inputs=[
                io.Combo.Input(
                    "silence",
                    options=list(SILENCES),
                    default="close",
                    tooltip="What pauses show. off: the mouth follows every sound. close: it closes, for breath, hum "
                    "or noise that makes it move. original: the source's own picture, for listeners and long breaks; "
                    "it fits when the source's mouth is closed or its movement is wanted.",
                ),
                io.Int.Input(
                    "silence_fade",
                    default=3,
                    min=0,
                    max=120,
                    tooltip="Frames over which the mouth goes over from one to the other. It is done when the speech "
                    "begins and starts when it ends. More is softer; 0 switches at once.",
                ),
                io.Float.Input(
                    "silence_level",
                    default=24.0,
                    min=6.0,
                    max=60.0,
                    step=1.0,
                    tooltip="How much weaker than the speech a sound is to count as silence, in dB. Lower it when "
                    "breath still moves the mouth, raise it when soft words are lost. Sounds less than 10 dB over "
                    "steady noise are always silence.",
                ),
            ],
            outputs=[
                Silence.Output(
                    display_name="silence",
                    tooltip="Connect it to silence of Lip Sync, Lip Sync Video, Preview Frame or Whisper Audio "
                    "Features.",
                )
            ],
        )

    @classmethod
    def execute(cls, silence, silence_fade, silence_level) -> io.NodeOutput:
        return io.NodeOutput({"silence": silence, "silence_fade": silence_fade, "silence_level": silence_level})
