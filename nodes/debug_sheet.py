"""A look into the stages of a result."""

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..musetalk_core.debug_sheet import chosen_frames, debug_sheet
from .sockets import MuseTalkFaceTrack, matched_frames


class MuseTalkFaceDebugSheet(io.ComfyNode):
    """Stages in, one picture out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkFaceDebugSheet",
            display_name="Face Debug Sheet (MuseTalk)",
            category="MuseTalk",
            description="Shows crop, mask, generated face, blend and difference of chosen frames on one sheet, to see "
            "which stage went wrong. Connect what you have.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of Match Frames."),
                MuseTalkFaceTrack.Input("track", tooltip="The track of Face Detect And Crop."),
                io.String.Input(
                    "frames",
                    default="",
                    tooltip="Numbers of the frames to show, from 0 on, such as 0, 12, 40; at most 16. Empty: 6 spread "
                    "over all.",
                ),
                io.Image.Input("faces", optional=True, tooltip="The faces of VAE Decode or Restore Face."),
                io.Mask.Input("mask", optional=True, tooltip="The mask of Blend Face Parsing, drawn in green."),
                io.Image.Input(
                    "results",
                    optional=True,
                    tooltip="The finished frames of Blend Face Parsing. Adds the blend and, 4 times as strong as it "
                    "is, its difference to the source.",
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="A row for each frame: connect Preview Image.")],
        )

    @classmethod
    def execute(cls, images, track, frames, faces=None, mask=None, results=None) -> io.NodeOutput:
        pictures = matched_frames(images)
        sheet = debug_sheet(
            pictures,
            track,
            chosen_frames(frames, len(pictures)),
            None if faces is None else matched_frames(faces),
            None if mask is None else mask.cpu(),
            None if results is None else matched_frames(results),
        )
        return io.NodeOutput((torch.from_numpy(sheet)[None].float() / 255).to(mm.intermediate_device()))
