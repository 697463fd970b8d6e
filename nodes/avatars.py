"""Avatars: prepared once, kept in ComfyUI's output folder, and driven by any sound."""

import hashlib
from pathlib import Path

import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io

from ..musetalk_core.avatars.files import avatar_folder, check_avatar, list_avatars, load_avatar
from ..musetalk_core.avatars.info import INFO
from ..musetalk_core.avatars.prepare import Order, ready_avatar
from ..musetalk_core.avatars.speaking import AvatarVideo
from ..musetalk_core.blending import Masker
from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.locator import FaceLocator
from ..musetalk_core.media.encoding import Encoding
from ..musetalk_core.media.source import FrameSource, TensorFrames
from ..musetalk_core.pipeline import Models
from ..musetalk_core.settings import LipSyncSettings
from ..musetalk_core.timeline import MATCH_MODES, rational_fps
from .audio import AUDIO_ENCODER_TOOLTIP, audio_inputs
from .blend_options import blend_options_input
from .blending import mask_inputs
from .comfy_models import DETECTOR_BYTES, ComfyCodec, load_on_device
from .face_options import face_options_input
from .faces import FACE_MODELS_TOOLTIP, detector_input, face_inputs
from .frames import MODE_TOOLTIP
from .latents import batch_input
from .lipsync import merged
from .lipsync_video import file_inputs, new_video_file, video_outputs
from .silence import silence_input
from .sockets import (
    MuseTalkAudioEncoder,
    MuseTalkAvatar,
    MuseTalkFaceModels,
    MuseTalkModel,
    audio_source,
    source_frames,
)
from .unet import MODEL_TOOLTIP
from .video import open_video


def avatars_root() -> Path:
    """The folder of the avatars: in ComfyUI's output, where nodes may write."""
    return Path(folder_paths.get_output_directory(), "musetalk", "avatars")


class MuseTalkPrepareAvatar(io.ComfyNode):
    """A video or frames in, an avatar on disk out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkPrepareAvatar",
            display_name="Prepare Avatar (MuseTalk)",
            category="MuseTalk",
            description="Finds, encodes and parses the face of a video once and keeps the result in "
            "output/musetalk/avatars. Runs again only when the source, a setting or the version has changed, and says "
            "why. An avatar that is there is replaced when the new one is whole.",
            inputs=[
                io.String.Input(
                    "name",
                    default="avatar",
                    tooltip="The avatar's name, for Load Avatar and for real time: up to 64 letters, digits, spaces, "
                    "points and - _ +.",
                ),
                MuseTalkModel.Input("model", tooltip=MODEL_TOOLTIP),
                io.Vae.Input("vae", tooltip="The VAE of Load MuseTalk Models, or your own sd-vae-ft-mse."),
                MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
                io.Float.Input(
                    "fps",
                    default=25.0,
                    min=0.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of the avatar. Real time needs 25. 0 keeps the source's own rate, for "
                    "Avatar Lip Sync only.",
                ),
                io.Float.Input(
                    "source_fps",
                    default=25.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of images. A video has its own rate.",
                ),
                *face_inputs(),
                *mask_inputs(),
                batch_input(),
                detector_input(),
                io.Boolean.Input(
                    "again",
                    default=False,
                    tooltip="Prepare it even when nothing has changed, for example after face parsing weights have "
                    "been added.",
                ),
                io.Video.Input(
                    "video", optional=True, tooltip="The source: Load Video, or any VIDEO. Give this or images."
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="The source as frames, or one picture. Give this or video."
                ),
                face_options_input(),
                blend_options_input(),
            ],
            outputs=[
                MuseTalkAvatar.Output(display_name="avatar", tooltip="The avatar, for Avatar Lip Sync."),
                io.String.Output(
                    display_name="report",
                    tooltip="Why it was prepared, or that it was there, and in which frames no face is.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name="", **_) -> str:
        """Changes when the avatar's files do, for example because they were deleted."""
        return _fingerprint(name)

    @classmethod
    def execute(
        cls,
        name,
        model,
        vae,
        face_models,
        fps,
        source_fps,
        again,
        video=None,
        images=None,
        face_options=None,
        blend_options=None,
        **values,
    ) -> io.NodeOutput:
        changes = merged(values, face_options, blend_options)
        settings = LipSyncSettings().changed("Prepare Avatar (MuseTalk)", changes)
        folder = avatar_folder(avatars_root(), name)
        source = _source(video, images, source_fps)
        order = Order(source, settings, model.version, rational_fps(fps) if fps else None)
        progress = comfy.utils.ProgressBar(len(source)).update_absolute

        def models() -> Models:
            return _preparing_models(model, vae, face_models, settings)

        avatar, reason = ready_avatar(name, order, models, folder, progress, again)
        told = f"Prepared: {reason}." if reason else "It was there already."
        return io.NodeOutput(avatar, f"{told}\n{avatar.text()}")


class MuseTalkLoadAvatar(io.ComfyNode):
    """A name in, its avatar out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkLoadAvatar",
            display_name="Load Avatar (MuseTalk)",
            category="MuseTalk",
            description="Loads an avatar that Prepare Avatar has made, without its video and without face models. "
            "Files that are missing or damaged are named.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=list_avatars(avatars_root()),
                    tooltip="An avatar of output/musetalk/avatars. Press R to see new ones.",
                ),
            ],
            outputs=[
                MuseTalkAvatar.Output(display_name="avatar", tooltip="The avatar, for Avatar Lip Sync."),
                io.String.Output(display_name="report", tooltip="In which of its frames no face is, and why."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name) -> bool | str:
        """Takes names that the page's list does not hold yet, if the avatar can be used."""
        try:
            reason = check_avatar(avatar_folder(avatars_root(), name))
        except MuseTalkError as error:
            return str(error)
        return f"The avatar {name!r} cannot be used: {reason}; run Prepare Avatar." if reason else True

    @classmethod
    def fingerprint_inputs(cls, name="") -> str:
        return _fingerprint(name)

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        avatar = load_avatar(avatar_folder(avatars_root(), name))
        return io.NodeOutput(avatar, avatar.text())


class MuseTalkAvatarLipSync(io.ComfyNode):
    """An avatar and sound in, a speaking video out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkAvatarLipSync",
            display_name="Avatar Lip Sync (MuseTalk)",
            category="MuseTalk",
            description="Makes an avatar say the audio. Does what Lip Sync Video does on its source, but nothing is "
            "located, encoded or parsed again, and memory does not grow with length.",
            inputs=[
                MuseTalkAvatar.Input("avatar", tooltip="The avatar of Prepare Avatar or Load Avatar."),
                io.Audio.Input(
                    "audio",
                    tooltip="The speech. Its length is the length of the result. Any rate and language.",
                ),
                MuseTalkModel.Input("model", tooltip=MODEL_TOOLTIP),
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes the generated faces: the VAE of Load MuseTalk Models, or a TAESD, which is "
                    "several times faster and a little softer.",
                ),
                MuseTalkAudioEncoder.Input("audio_encoder", tooltip=AUDIO_ENCODER_TOOLTIP),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second of the result. 0 keeps the avatar's rate.",
                ),
                io.Combo.Input("mode", options=list(MATCH_MODES), default="ping-pong", tooltip=MODE_TOOLTIP),
                *audio_inputs(),
                batch_input(),
                *file_inputs(),
                silence_input(),
            ],
            outputs=video_outputs(),
        )

    @classmethod
    def execute(
        cls, avatar, audio, model, vae, audio_encoder, fps, crf, pixel_format, silence=None, **values
    ) -> io.NodeOutput:
        settings = avatar.settings.changed("Avatar Lip Sync (MuseTalk)", merged(values, silence))
        codec = ComfyCodec(vae)
        job = AvatarVideo(
            avatar,
            audio_source(audio),
            rational_fps(fps) if fps else None,
            audio_encoder.encoder,
            model.generator,
            codec,
            settings,
            model.version,
        )
        size = settings.batch_size
        load_on_device(
            [model.patcher, audio_encoder.patcher, codec.patcher], max(model.memory(size), codec.memory(size))
        )
        result = new_video_file()
        progress = comfy.utils.ProgressBar(job.count)
        report = job.write(result, Encoding(crf, pixel_format=pixel_format), progress=progress.update_absolute)
        return io.NodeOutput(InputImpl.VideoFromFile(str(result)), report.text(), report.json())


def _source(video, images, source_fps: float) -> FrameSource:
    """The frames of whichever is connected."""
    if (video is None) == (images is None):
        raise MuseTalkError("Prepare Avatar takes a video or images, one of them; connect one and not both.")
    if video is not None:
        return open_video(video)[0]
    return TensorFrames(source_frames(images), rational_fps(source_fps))


def _preparing_models(model, vae, face_models, settings: LipSyncSettings) -> Models:
    """What preparing needs, on its devices; the generator stays where it is."""
    codec = ComfyCodec(vae)
    detector, detector_patcher = face_models.detector(settings.detector)
    patchers = [codec.patcher, detector_patcher, *face_models.parser_patchers]
    load_on_device(patchers, max(codec.memory(settings.batch_size), DETECTOR_BYTES))
    locator = FaceLocator(detector, settings.bbox_shift, settings.extra_margin, settings.face, settings.faces)
    return Models(codec, codec, model.generator, locator, Masker(face_models.parser, settings.mask))


def _fingerprint(name: str) -> str:
    """sha256 of an avatar's avatar.json, which holds the checksums of the rest; "" where there is none."""
    try:
        return hashlib.sha256((avatar_folder(avatars_root(), name) / INFO).read_bytes()).hexdigest()
    except (MuseTalkError, OSError):
        return ""
