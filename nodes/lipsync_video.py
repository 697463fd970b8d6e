"""The whole chain from a video to a video of any length."""

import uuid
from pathlib import Path

import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.media.encoding import ENCODERS, MAX_CRF, PIXEL_FORMATS, PRESETS, Encoding
from ..musetalk_core.settings import LipSyncSettings
from ..musetalk_core.tasks import LipSyncVideo
from ..musetalk_core.timeline import rational_fps
from .blend_options import blend_options_input, own_mask_input
from .face_options import face_options_input
from .faces import detector_input
from .lipsync import decode_vae_input, loaded_models, merged, model_inputs, setting_inputs
from .silence import silence_input
from .sockets import own_mask
from .video import open_video


def file_inputs() -> list[io.Input]:
    """How the video's file is written."""
    return [
        io.Int.Input(
            "crf",
            default=18,
            min=0,
            max=MAX_CRF,
            tooltip="Quality of the H.264 file: 18 looks like the original, every 6 more about halve the size, "
            "51 is the worst. 0 is lossless, large, and few players open it.",
        ),
        io.Combo.Input(
            "pixel_format",
            options=list(PIXEL_FORMATS),
            default="yuv420p",
            tooltip="How colours are stored. yuv420p plays everywhere. 422 and 444 keep sharp coloured edges, "
            "10le (10 bits) smooth gradients: for further editing; many players and browsers do not open them.",
        ),
    ]


def encoder_inputs() -> list[io.Input]:
    """What compresses the video's file, and how hard it tries."""
    return [
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default="medium",
            optional=True,
            tooltip="Speed of the encoder against the file's size at the same crf. The slower, the smaller. Large "
            "frames on a fast GPU wait for the encoder: veryfast helps then.",
        ),
        io.Combo.Input(
            "encoder",
            options=list(ENCODERS),
            default="libx264",
            optional=True,
            tooltip="libx264: on the processor, everywhere. h264_nvenc: by an NVIDIA card that encodes, faster, files "
            "a little larger, only yuv420p and yuv444p.",
        ),
    ]


def video_outputs() -> list[io.Output]:
    """The finished video and what was done, as text and as JSON."""
    return [
        io.Video.Output(
            display_name="video",
            tooltip="The finished video, with sound: connect it to Save Video, which copies it as it is. Until "
            "then it lies in ComfyUI's temp folder.",
        ),
        io.String.Output(display_name="report", tooltip="How many frames were lip-synced or passed through."),
        io.String.Output(
            display_name="report_json",
            tooltip="The report for programs, as JSON: counts, reasons, and which frames kept their picture.",
        ),
    ]


def new_video_file() -> Path:
    """A file of a new name in ComfyUI's temp folder, not there yet."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"musetalk_{uuid.uuid4().hex[:12]}.mp4"


class MuseTalkLipSyncVideo(io.ComfyNode):
    """Video in, speaking video out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkLipSyncVideo",
            display_name="Lip Sync Video (MuseTalk)",
            category="MuseTalk",
            description="Makes the speaker in a video say the audio, for videos of any length: frames are read, made "
            "and written one after the other, and memory does not grow. Does what Lip Sync (MuseTalk) does.",
            inputs=[
                io.Video.Input("video", tooltip="The source: Load Video, or any VIDEO. A file is read as a stream."),
                *model_inputs(),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of the result. 0 keeps the video's own rate. MuseTalk was trained at "
                    "25; other rates work, higher ones cost more frames to generate.",
                ),
                *setting_inputs(),
                *file_inputs(),
                detector_input(),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The speech. Its length is the length of the result. Any rate and language. Leave it "
                    "unconnected for the video's own sound.",
                ),
                decode_vae_input(),
                face_options_input(),
                blend_options_input(),
                silence_input(),
                own_mask_input(),
                *encoder_inputs(),
            ],
            outputs=video_outputs(),
        )

    @classmethod
    def execute(
        cls,
        video,
        model,
        vae,
        audio_encoder,
        face_models,
        fps,
        crf,
        pixel_format,
        audio=None,
        decode_vae=None,
        face_options=None,
        blend_options=None,
        silence=None,
        mask=None,
        preset="medium",
        encoder="libx264",
        **values,
    ) -> io.NodeOutput:
        changes = merged(values, face_options, blend_options, silence)
        encoding = Encoding(crf, preset, pixel_format, encoder)
        settings = LipSyncSettings().changed("Lip Sync Video (MuseTalk)", changes)
        source, sound = open_video(video, audio)
        if sound is None:
            raise MuseTalkError(
                "The video has no sound track; connect the speech to audio, for example from Load Audio."
            )
        job = LipSyncVideo(
            source,
            sound,
            rational_fps(fps) if fps else None,
            audio_encoder.encoder,
            loaded_models(model, vae, decode_vae, audio_encoder, face_models, settings),
            settings,
            model.version,
            own_mask=own_mask(mask),
        )
        result = new_video_file()
        progress = comfy.utils.ProgressBar(len(source))
        report = job.write(result, encoding, progress=progress.update_absolute)
        return io.NodeOutput(InputImpl.VideoFromFile(str(result)), report.text(), report.json())
