"""One frame of the result in advance, to tune the settings on."""

import comfy.model_management as mm
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.media.audio import AudioSource
from ..musetalk_core.media.source import FrameSource, TensorFrames
from ..musetalk_core.preview import find_moment, make_take, report, sweep_shifts
from ..musetalk_core.preview_sheet import preview_sheet, sweep_sheet
from ..musetalk_core.settings import LipSyncSettings
from ..musetalk_core.tasks import stream_tokens
from ..musetalk_core.timeline import rational_fps
from .audio import audio_inputs
from .blend_options import blend_options_input, own_mask_input
from .blending import mask_inputs
from .face_options import face_options_input
from .faces import detector_input, face_inputs
from .lipsync import decode_vae_input, loaded_models, merged, model_inputs
from .silence import silence_input
from .sockets import audio_source, own_mask, source_frames
from .video import open_video


class MuseTalkPreviewFrame(io.ComfyNode):
    """A moment in, its frame beside the original and its face with several bbox_shifts out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkPreviewFrame",
            display_name="Preview Frame (MuseTalk)",
            category="MuseTalk",
            description="Makes one frame of the result, to tune the settings on before the long run: beside the "
            "original, with crop box and mask drawn, and once for each of several bbox_shifts.",
            inputs=[
                *model_inputs(),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=360000.0,
                    step=0.01,
                    tooltip="The moment of the result that is made, in seconds from its start. Choose one where the "
                    "voice is loud: at 0 the mouth is often still closed.",
                ),
                io.Float.Input(
                    "source_fps",
                    default=25.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of images: connect fps of Get Video Components. A video brings its own "
                    "rate, and this has no effect.",
                ),
                *face_inputs(),
                *mask_inputs(),
                *audio_inputs()[:2],
                io.String.Input(
                    "sweep",
                    default="-14, -7, 0, 7, 14",
                    tooltip="bbox_shifts to compare on the second sheet, in pixels, at most 24; the current one is "
                    "added. Each costs one more frame. Empty: only the current one.",
                ),
                detector_input(),
                io.Image.Input(
                    "images", optional=True, tooltip="The source frames, or one picture. Connect this or video."
                ),
                io.Video.Input(
                    "video",
                    optional=True,
                    tooltip="The source video, of which one frame is decoded, however long it is. Connect this or "
                    "images.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="The speech. Unconnected: the video's own sound. Images need it."
                ),
                decode_vae_input(),
                face_options_input(),
                blend_options_input(),
                silence_input(),
                own_mask_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="preview",
                    tooltip="Original with crop box and landmarks, result, replaced area, crop and generated face.",
                ),
                io.Image.Output(display_name="sweep", tooltip="The face with each bbox_shift of sweep."),
                io.String.Output(
                    display_name="report", tooltip="The frame, the face, the crop box and the bbox_shift range."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        audio_encoder,
        face_models,
        seconds,
        source_fps,
        sweep,
        images=None,
        video=None,
        audio=None,
        decode_vae=None,
        face_options=None,
        blend_options=None,
        silence=None,
        mask=None,
        **values,
    ) -> io.NodeOutput:
        changes = merged(values, face_options, blend_options, silence)
        settings = LipSyncSettings(batch_size=1).changed("Preview Frame (MuseTalk)", changes)
        shifts = sweep_shifts(sweep, settings.bbox_shift)
        source, sound = _inputs(images, video, source_fps, audio)
        models = loaded_models(model, vae, decode_vae, audio_encoder, face_models, settings)
        tokens = stream_tokens(audio_encoder.encoder, sound, rational_fps(source.fps), settings)
        moment = find_moment(source, tokens, seconds, models, settings, own_mask(mask))
        progress = comfy.utils.ProgressBar(len(shifts))
        takes = []
        for shift in shifts:
            takes.append(make_take(moment, shift, models, settings))
            progress.update(1)
        current = takes[shifts.index(settings.bbox_shift)]
        sheets = preview_sheet(moment, current), sweep_sheet(moment, takes, settings.bbox_shift)
        return io.NodeOutput(*map(_image, sheets), report(moment, current, takes))


def _inputs(images, video, source_fps, audio) -> tuple[FrameSource, AudioSource]:
    if (images is None) == (video is None):
        connected = "neither is" if images is None else "both are"
        raise MuseTalkError(f"Connect exactly one of images and video; {connected} connected.")
    if video is None:
        return TensorFrames(source_frames(images), rational_fps(source_fps)), audio_source(audio)
    source, sound = open_video(video, audio)
    return source, audio_source(None) if sound is None else sound


def _image(sheet: np.ndarray) -> torch.Tensor:
    """A sheet (h,w,3) uint8 as an IMAGE."""
    return (torch.from_numpy(sheet)[None].float() / 255).to(mm.intermediate_device())
