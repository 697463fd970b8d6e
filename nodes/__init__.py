"""The pack's nodes: each joins ComfyUI's sockets and memory with one stage of musetalk_core."""

from comfy_api.latest import ComfyExtension, io

from .audio import MuseTalkWhisperAudioFeatures
from .avatars import MuseTalkAvatarLipSync, MuseTalkLoadAvatar, MuseTalkPrepareAvatar
from .blend_options import MuseTalkBlendOptions
from .blending import MuseTalkBlendFaceParsing
from .debug_sheet import MuseTalkFaceDebugSheet
from .evaluate import MuseTalkComparePreview, MuseTalkEvaluateQuality, MuseTalkEvaluateSync
from .face_options import MuseTalkFaceOptions
from .face_tracks import MuseTalkLoadFaceTrack, MuseTalkPreviewFaceTrack, MuseTalkSaveFaceTrack
from .faces import MuseTalkFaceDetectAndCrop
from .frames import MuseTalkMatchFrames
from .latents import MuseTalkVAEDecode, MuseTalkVAEEncodeMasked
from .lipsync import MuseTalkLipSync
from .lipsync_video import MuseTalkLipSyncVideo
from .loaders import LoadMuseTalkModels, register_model_folder
from .preview import MuseTalkPreviewFrame
from .realtime import MuseTalkRealtimeSession
from .realtime_routes import register_routes
from .restore import MuseTalkRestoreFace
from .silence import MuseTalkSilence
from .unet import MuseTalkUNetStep


class MuseTalkSuite(ComfyExtension):
    """Lists the nodes in the order of the pipeline."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_model_folder()
        register_routes()
        return [
            LoadMuseTalkModels,
            MuseTalkMatchFrames,
            MuseTalkFaceDetectAndCrop,
            MuseTalkWhisperAudioFeatures,
            MuseTalkVAEEncodeMasked,
            MuseTalkUNetStep,
            MuseTalkVAEDecode,
            MuseTalkBlendFaceParsing,
            MuseTalkLipSync,
            MuseTalkLipSyncVideo,
            MuseTalkPreviewFrame,
            MuseTalkFaceOptions,
            MuseTalkSaveFaceTrack,
            MuseTalkLoadFaceTrack,
            MuseTalkPreviewFaceTrack,
            MuseTalkBlendOptions,
            MuseTalkSilence,
            MuseTalkRestoreFace,
            MuseTalkFaceDebugSheet,
            MuseTalkEvaluateSync,
            MuseTalkEvaluateQuality,
            MuseTalkComparePreview,
            MuseTalkPrepareAvatar,
            MuseTalkLoadAvatar,
            MuseTalkAvatarLipSync,
            MuseTalkRealtimeSession,
        ]
