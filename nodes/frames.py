"""From source time to output time."""

from comfy_api.latest import io

from ..musetalk_core.timeline import MATCH_MODES, output_count, rational_fps, source_index
from .sockets import audio_source, new_frames, source_frames

FPS_TOOLTIP = (
    "Frames per second of the result. 0 keeps source_fps. MuseTalk was trained at 25; other rates work, "
    "higher ones cost more frames to generate."
)
MODE_TOOLTIP = (
    "What is shown when the audio is longer than the source. ping-pong: there and back again, no jumps. loop: "
    "from the start again, with a jump. hold: the last frame stays. trim: the result ends with the source."
)


def time_inputs() -> list[io.Input]:
    """The four inputs that say how source frames become output frames."""
    return [
        io.Image.Input("images", tooltip="The source frames: a video's frames, or one picture that shall speak."),
        io.Float.Input(
            "source_fps",
            default=25.0,
            min=1.0,
            max=120.0,
            step=0.001,
            tooltip="Frames per second of the source: connect fps of Get Video Components. For one picture it has "
            "no effect, except as the result's rate when fps is 0.",
        ),
        io.Audio.Input("audio", tooltip="The speech. Its length is the length of the result. Any rate and language."),
        io.Float.Input("fps", default=0.0, min=0.0, max=120.0, step=0.001, tooltip=FPS_TOOLTIP),
    ]


class MuseTalkMatchFrames(io.ComfyNode):
    """One source frame for every frame of the result."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkMatchFrames",
            display_name="Match Frames (MuseTalk)",
            category="MuseTalk",
            description="Puts the source frames into the time of the result: one frame per output frame, as many "
            "as the audio needs. Everything after this node has that length.",
            inputs=[
                *time_inputs(),
                io.Combo.Input("mode", options=list(MATCH_MODES), default="ping-pong", tooltip=MODE_TOOLTIP),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="One frame per output frame."),
                io.Float.Output(
                    display_name="fps",
                    tooltip="The result's rate: connect it to Whisper Audio Features and to Create Video.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, source_fps, audio, fps, mode) -> io.NodeOutput:
        frames = source_frames(images)
        source_rate = rational_fps(source_fps)
        rate = rational_fps(fps) if fps else source_rate
        count = output_count(audio_source(audio).seconds, rate, len(frames), source_rate, mode)
        matched = new_frames(count, frames)
        for i in range(count):
            matched[i] = frames[source_index(i, len(frames), source_rate, rate, mode)]
        return io.NodeOutput(matched, float(rate))
