"""Numbers that say whether the lips are right and the pictures good, and two results beside each other."""

import json

import comfy.model_management as mm
import comfy.utils
from comfy_api.latest import io

from ..musetalk_core.errors import MissingWeightsError
from ..musetalk_core.evaluation.clip import Clip
from ..musetalk_core.evaluation.compare import compare_frames
from ..musetalk_core.evaluation.faces import ClipFaces
from ..musetalk_core.evaluation.figures import told
from ..musetalk_core.evaluation.perceptual import FaceEmbedder, Lpips
from ..musetalk_core.evaluation.quality import QualityTools, measure_quality
from ..musetalk_core.evaluation.speech import CROPS, SyncSettings, measure_speech
from ..musetalk_core.evaluation.sync import MAX_SHIFT, SyncScorer
from ..musetalk_core.evaluation.weights import ALEXNET, FACE_EMBEDDER
from ..musetalk_core.media.source import TensorFrames
from ..musetalk_core.settings import LipSyncSettings
from ..musetalk_core.timeline import rational_fps
from ..musetalk_core.weights.models import load_syncnet
from .blend_options import blend_options_input
from .comfy_models import DETECTOR_BYTES, SMALL_NET_BYTES, load_on_device, small_patcher
from .face_options import face_options_input
from .faces import FACE_MODELS_TOOLTIP, detector_input, face_inputs
from .lipsync import merged
from .loaders import FOLDER, model_folders
from .sockets import MuseTalkFaceModels, audio_source, check_lengths, matched_frames

FPS_TOOLTIP = "Frames per second of images: connect fps of Match Frames. A wrong rate shifts sound against picture."


def figure_outputs() -> list[io.Output]:
    """The report for people and the figures for other nodes."""
    return [
        io.String.Output(display_name="report", tooltip="One line a figure; more or less is better as it says."),
        io.String.Output(display_name="figures", tooltip="The same as JSON: a number, or why there is none."),
    ]


class MuseTalkEvaluateSync(io.ComfyNode):
    """Frames and sound in, how well they go together out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkEvaluateSync",
            display_name="Evaluate Sync (MuseTalk)",
            category="MuseTalk",
            description="Measures whether the lips follow the sound: LSE-C, LSE-D and the offset of SyncNet where its "
            "weights are there, and how the opening of the mouth goes with the loudness, which needs none.",
            inputs=[
                io.Image.Input("images", tooltip="The finished frames, 31 or more at 25 per second for an offset."),
                io.Audio.Input("audio", tooltip="The sound that the lips should say."),
                MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
                io.Float.Input("fps", default=25.0, min=1.0, max=120.0, step=0.001, tooltip=FPS_TOOLTIP),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default="face",
                    tooltip="What SyncNet looks at. face: the followed face, as it was trained. none: the whole frame, "
                    "as some published numbers were made; it says little unless the frame is a face.",
                ),
                io.Int.Input(
                    "max_shift",
                    default=MAX_SHIFT,
                    min=1,
                    max=50,
                    tooltip="Frames at 25 per second to both sides in which the best match is looked for. More finds "
                    "larger offsets and needs longer clips.",
                ),
                detector_input(),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Frames of the real video that says this sound, one for each of images: then the mouths "
                    "are compared, too.",
                ),
                face_options_input(),
            ],
            outputs=figure_outputs(),
        )

    @classmethod
    def execute(
        cls, images, audio, face_models, fps, crop, max_shift, detector, reference=None, face_options=None
    ) -> io.NodeOutput:
        sync = SyncSettings(crop, max_shift)
        clip = _clip(images, fps, audio=audio, reference=reference)
        settings = LipSyncSettings().changed("Evaluate Sync (MuseTalk)", {"detector": detector, **(face_options or {})})
        finder, patcher = face_models.detector(settings.detector)
        load_on_device([patcher], DETECTOR_BYTES)
        faces = ClipFaces(clip, finder, settings, _progress(len(clip)))
        figures = measure_speech(clip, faces, _scorer(), sync).figures
        return io.NodeOutput(told(figures), json.dumps(figures))


class MuseTalkEvaluateQuality(io.ComfyNode):
    """Frames in, how good the picture is out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkEvaluateQuality",
            display_name="Evaluate Quality (MuseTalk)",
            category="MuseTalk",
            description="Measures the picture: sharpness and trembling of any clip; seam, untouched pixels and "
            "identity against the source; PSNR, SSIM, L1 and LPIPS against a real video of the same words. Give the "
            "settings that Lip Sync had: they say which pixels count as replaced.",
            inputs=[
                io.Image.Input("images", tooltip="The frames to be measured."),
                MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
                *face_inputs(),
                detector_input(),
                io.Image.Input(
                    "source", optional=True, tooltip="The frames of Match Frames that images were made from."
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Frames of the real video that says the same words. For another sound leave it "
                    "unconnected: the mouths must differ then.",
                ),
                face_options_input(),
                blend_options_input(),
            ],
            outputs=figure_outputs(),
        )

    @classmethod
    def execute(
        cls, images, face_models, source=None, reference=None, face_options=None, blend_options=None, **values
    ) -> io.NodeOutput:
        clip = _clip(images, 25.0, source=source, reference=reference)
        changes = merged(values, face_options, blend_options)
        settings = LipSyncSettings().changed("Evaluate Quality (MuseTalk)", changes)
        finder, patcher = face_models.detector(settings.detector)
        load_on_device([patcher, *face_models.parser_patchers], DETECTOR_BYTES)
        tools = QualityTools(face_models.parser, _lpips(), embedder=_embedder())
        progress = _progress(2 * len(clip))
        figures = measure_quality(clip, ClipFaces(clip, finder, settings, progress), tools, progress)
        return io.NodeOutput(told(figures), json.dumps(figures))


class MuseTalkComparePreview(io.ComfyNode):
    """Two clips in, one with both and their difference out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkComparePreview",
            display_name="Compare Preview (MuseTalk)",
            category="MuseTalk",
            description="Shows two clips beside each other with what differs, and names the frames that differ most.",
            inputs=[
                io.Image.Input("images", tooltip="The frames to judge, shown on the left."),
                io.Image.Input("other", tooltip="What they are compared with, in the middle: source, or another run."),
                io.Float.Input(
                    "gain",
                    default=4.0,
                    min=0.0,
                    max=64.0,
                    step=0.5,
                    tooltip="How much the difference on the right is brightened: 1 shows it as it is, more shows faint "
                    "seams, 0 leaves it out.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Both frames and their difference, side by side."),
                io.String.Output(display_name="report", tooltip="PSNR over the clip and the five lowest frames."),
            ],
        )

    @classmethod
    def execute(cls, images, other, gain) -> io.NodeOutput:
        first, second = matched_frames(images), matched_frames(other)
        check_lengths(frames=len(first), frames_of_other=len(second))
        progress = comfy.utils.ProgressBar(len(first))
        sheet, report = compare_frames(first, second, gain, lambda: progress.update(1))
        return io.NodeOutput(sheet.to(mm.intermediate_device()), report)


def _clip(images, fps, audio=None, source=None, reference=None) -> Clip:
    """The sockets as one clip; every batch has one frame for each of images."""
    rate = rational_fps(fps)
    frames = matched_frames(images)
    given = {"source": source, "reference": reference}
    others = {name: matched_frames(batch) for name, batch in given.items() if batch is not None}
    check_lengths(frames=len(frames), **{f"{name}_frames": len(batch) for name, batch in others.items()})
    parts = {name: TensorFrames(batch, rate) for name, batch in others.items()}
    return Clip("images", TensorFrames(frames, rate), None if audio is None else audio_source(audio), **parts)


def _progress(total: int):
    bar = comfy.utils.ProgressBar(total)
    return lambda: bar.update(1)


def _scorer() -> SyncScorer | None:
    """SyncNet on its device, or None without its weights."""
    try:
        net = load_syncnet(model_folders().find("syncnet"))
    except MissingWeightsError:
        return None
    load_on_device([small_patcher(net)], SMALL_NET_BYTES)
    return SyncScorer(net, mm.text_encoder_device())


def _lpips() -> Lpips | None:
    try:
        return Lpips(model_folders().find_named(FOLDER, ALEXNET))
    except MissingWeightsError:
        return None


def _embedder() -> FaceEmbedder | None:
    try:
        return FaceEmbedder(model_folders().find_named(FOLDER, FACE_EMBEDDER))
    except MissingWeightsError:
        return None
