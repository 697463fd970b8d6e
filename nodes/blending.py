"""Back into the frame."""

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io

from ..musetalk_core.batches import BatchSize, shrinking_batches
from ..musetalk_core.blending import Masker, check_own_mask, composite, faded
from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.geometry import fit_face
from ..musetalk_core.settings import PARSING_MODES, MaskSettings
from ..musetalk_core.silence import GatedTokens
from .blend_options import blend_options_input, own_mask_input
from .comfy_models import SMALL_NET_BYTES, load_on_device
from .faces import FACE_MODELS_TOOLTIP
from .sockets import (
    MuseTalkAudio,
    MuseTalkFaceModels,
    MuseTalkFaceTrack,
    check_lengths,
    matched_frames,
    new_frames,
    own_mask,
)

BATCH = 8


def mask_inputs() -> list[io.Input]:
    """The inputs that say which pixels of the frame are replaced."""
    cheek = (
        "How much of the {} cheek is replaced, in pixels of the 512-pixel parsing picture. Larger takes in more of "
        "the cheek; smaller keeps more of the original skin. Only mode jaw uses it. MuseTalk's own choice: 90."
    )
    return [
        io.Combo.Input(
            "parsing_mode",
            options=list(PARSING_MODES),
            default="jaw",
            tooltip="Which parts are replaced. jaw: the lower face with a soft jaw line (v1.5). raw: skin and lips "
            "as parsed (v1.0). neck: also the neck. Without BiSeNet's weights the lower face is drawn from "
            "landmarks and this has no effect.",
        ),
        io.Int.Input("left_cheek_width", default=90, min=0, max=256, tooltip=cheek.format("left")),
        io.Int.Input("right_cheek_width", default=90, min=0, max=256, tooltip=cheek.format("right")),
        io.Float.Input(
            "expand",
            default=1.5,
            min=1.0,
            max=4.0,
            step=0.05,
            tooltip="Side of the parsed square relative to the face box. More context helps the parsing of close "
            "faces, less keeps small faces sharp for it.",
        ),
        io.Float.Input(
            "blur",
            default=0.05,
            min=0.0,
            max=0.5,
            step=0.01,
            tooltip="Softness of the mask's edge as a share of the square: more hides the seam, less keeps more of "
            "the generated mouth. 0 is a hard edge.",
        ),
        io.Float.Input(
            "upper_boundary_ratio",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the square, from its top, that is never replaced. 0.5 keeps eyes and the upper nose; "
            "0 allows everything.",
        ),
    ]


class MuseTalkBlendFaceParsing(io.ComfyNode):
    """Frames and generated faces in, finished frames out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkBlendFaceParsing",
            display_name="Blend Face Parsing (MuseTalk)",
            category="MuseTalk",
            description="Blends the generated faces into their frames by a mask from face parsing. Frames without a "
            "face are passed on untouched.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of Match Frames."),
                io.Image.Input("faces", tooltip="The faces of VAE Decode; larger ones, as a restorer gives, work too."),
                MuseTalkFaceTrack.Input("track", tooltip="The track of Face Detect And Crop."),
                MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
                *mask_inputs(),
                own_mask_input(),
                blend_options_input(),
                MuseTalkAudio.Input(
                    "audio",
                    optional=True,
                    tooltip="The features of Whisper Audio Features, when Silence with original is connected there: "
                    "the original shows where nobody speaks. Unconnected: the generated face always shows.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The finished frames."),
                io.Mask.Output(
                    display_name="mask", tooltip="What is replaced of each 256x256 face; zero where no face is."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images,
        faces,
        track,
        face_models,
        mask=None,
        blend_options=None,
        audio=None,
        **values,
    ) -> io.NodeOutput:
        frames, faces = matched_frames(images), matched_frames(faces)
        check_lengths(frames=len(frames), faces=len(faces), tracked_frames=len(track))
        _check_size(frames.shape[1:3], track.image_size)
        result = new_frames(len(frames), frames)
        face_masks = torch.zeros((len(frames), 256, 256))
        load_on_device(face_models.parser_patchers, SMALL_NET_BYTES)
        settings = MaskSettings(**{**values, **(blend_options or {})})
        masker, own = Masker(face_models.parser, settings), own_mask(mask)
        if own is not None:
            check_own_mask(own, len(frames), track.image_size)
        shown = _shown(audio, len(frames))
        progress = comfy.utils.ProgressBar(len(frames))

        def masks(start, stop):
            part = own if own is None or len(own) == 1 else own[start:stop]
            return masker.masks(frames[start:stop], track.select(range(start, stop)), part)

        for start, _, part in shrinking_batches(masks, len(frames), BatchSize(BATCH)):
            for i, weights in enumerate(part, start):
                result[i] = frames[i]
                if weights is not None:
                    box, angle = track.boxes[i], float(track.angles[i])
                    face, weights = fit_face(faces[i], box), faded(weights, shown[i])
                    result[i] = composite(frames[i], face, box, weights, settings.colour_match, angle)
                    face_masks[i] = _as_face_mask(weights)
                progress.update(1)
        return io.NodeOutput(result, face_masks.to(mm.intermediate_device()))


def _shown(audio, count: int) -> list[float]:
    """How much of the generated face shows in each frame."""
    if not isinstance(audio, GatedTokens):
        return [1.0] * count
    if audio.frames < count:
        raise MuseTalkError(
            f"The audio features have {audio.frames} frames and the images {count}; make both from one "
            "MuseTalkMatchFrames, with its fps connected to MuseTalkWhisperAudioFeatures."
        )
    return audio.shown(0, count).tolist()


def _check_size(size: tuple[int, int], tracked: tuple[int, int]) -> None:
    """The track's boxes are pixels of the frames it was made on."""
    if tuple(size) != tuple(tracked):
        raise MuseTalkError(
            f"The images have {size[1]}x{size[0]} pixels and the track was made on {tracked[1]}x{tracked[0]}; connect "
            "the frames of MuseTalkMatchFrames to images, the same that MuseTalkFaceDetectAndCrop got."
        )


def _as_face_mask(mask) -> torch.Tensor:
    pixels = torch.from_numpy(mask)[None, None].float() / 255
    return comfy.utils.common_upscale(pixels, 256, 256, "bilinear", "disabled")[0, 0]
