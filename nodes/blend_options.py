"""How the edge of the replaced region is hidden."""

from comfy_api.latest import io

from ..musetalk_core.settings import MASK_SHAPES
from .sockets import MuseTalkBlendOptions as BlendOptions

OPTIONS_TOOLTIP = (
    "From Blend Options: mask shape, feather, colour match and what is in front of the face. Unconnected: none of it."
)
OWN_MASK_TOOLTIP = (
    "Your own mask of the frames, one for all or one for each: only where it is white may the face be replaced, grey "
    "mixes. It has the frames' size in pixels. Unconnected: everywhere."
)


def own_mask_input() -> io.Input:
    """A user's mask."""
    return io.Mask.Input("mask", optional=True, tooltip=OWN_MASK_TOOLTIP)


def blend_options_input() -> io.Input:
    """The socket that takes what Blend Options gives."""
    return BlendOptions.Input("blend_options", optional=True, tooltip=OPTIONS_TOOLTIP)


class MuseTalkBlendOptions(io.ComfyNode):
    """Rarely used settings of the blend, given on together."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkBlendOptions",
            display_name="Blend Options (MuseTalk)",
            category="MuseTalk",
            description="More ways to hide the edge of the generated face: the mask's shape, a feather inwards, the "
            "colours of the frame, and what is in front of the face.",
            inputs=[
                io.Combo.Input(
                    "mask_shape",
                    options=list(MASK_SHAPES),
                    default="parsing",
                    tooltip="Shape of the replaced region. parsing: by parsing_mode, from landmarks without BiSeNet's "
                    "weights. landmarks: the lower face inside the jaw line, steadier when parsing flickers. ellipse: "
                    "fills the crop box, for faces whose landmarks are poor; it may touch what is beside the jaw.",
                ),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip="Pixels of the frame over which the mask fades inwards from its edge, on top of blur: 10 "
                    "to 20 for a face 200 wide. More hides the seam, and too much brings the old mouth back. 0: none.",
                ),
                io.Float.Input(
                    "colour_match",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far brightness and colour of the generated face follow the frame around the mask's "
                    "edge, frame by frame. 1: wholly, for coloured, dim or bright light that the model does not keep. "
                    "Lower it if the face flickers. 0: not at all.",
                ),
                io.Boolean.Input(
                    "occlusion",
                    default=False,
                    tooltip="Keeps what face parsing sees in front of the face, such as a microphone, hair or a hand "
                    "that it does not take for skin. Needs BiSeNet's weights and has no effect without them.",
                ),
            ],
            outputs=[
                BlendOptions.Output(
                    display_name="blend_options",
                    tooltip="Connect it to blend_options of Lip Sync, Lip Sync Video, Preview Frame or Blend Face "
                    "Parsing.",
                )
            ],
        )

    @classmethod
    def execute(cls, mask_shape, feather, colour_match, occlusion) -> io.NodeOutput:
        options = {
            "mask_shape": mask_shape,
            "feather": feather,
            "colour_match": colour_match,
            "occlusion": occlusion,
        }
        return io.NodeOutput(options)
