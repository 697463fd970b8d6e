"""Rarely used settings of the face stage."""

from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.appearance import reference_text
from .comfy_models import DETECTOR_BYTES, load_on_device
from .sockets import MuseTalkFaceModels, matched_frames
from .sockets import MuseTalkFaceOptions as FaceOptionsSocket


def face_options_input() -> io.Input:
    """The optional input for what Face Options gives."""
    return FaceOptionsSocket.Input(
        "face_options",
        optional=True,
        tooltip="The settings of Face Options: who speaks, how often the detector searches, smoothing. Unconnected: "
        "search in every frame, no smoothing.",
    )


class MuseTalkFaceOptions(io.ComfyNode):
    """Settings in, one socket out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkFaceOptions",
            display_name="Face Options (MuseTalk)",
            category="MuseTalk",
            description="Says who speaks when several people are in the picture, how often the detector searches, and "
            "how the crop follows the head. Connect it to face_options of another node.",
            inputs=[
                io.Int.Input(
                    "face_index",
                    default=-1,
                    min=-1,
                    max=63,
                    tooltip="The person that speaks: people are numbered from 0 in the order in which they appear, "
                    "those of one frame from left to right. Preview Face Track shows the numbers. -1 leaves the choice "
                    "to face.",
                ),
                io.Int.Input(
                    "detect_every",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="The detector searches every so many frames; between, known faces are followed, which is "
                    "much faster. Whoever enters without a cut is noticed up to that many frames late. 1 "
                    "searches in every frame, 10 suits most videos.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.0,
                    min=0.0,
                    max=25.0,
                    step=0.1,
                    tooltip="Averages box and landmarks over about so many frames to each side, against trembling; "
                    "never across a cut. 0 is off, 1 to 2 calm a still head, more makes the box lag behind quick "
                    "turns. The video is then read once more in advance.",
                ),
                io.Boolean.Input(
                    "subpixel",
                    default=False,
                    tooltip="Places the crop between pixels instead of at whole ones. Use it together with smoothing: "
                    "alone it calms slow movement and not a still head. Off is MuseTalk's own way.",
                ),
                io.Boolean.Input(
                    "upright",
                    default=False,
                    tooltip="Turns the crop with a head that leans to a side, so that the eyes are level in it, as in "
                    "the pictures MuseTalk was trained on. For heads that lean by 10 degrees or more, or rock; it "
                    "softens the face a little. Nothing is rounded to whole pixels then. Off is MuseTalk's own way.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="A picture of the person that speaks, from the same video or like it: whoever looks most "
                    "like it is chosen, and face_index has no effect. Needs face_models.",
                ),
                MuseTalkFaceModels.Input(
                    "face_models",
                    optional=True,
                    tooltip="The face networks of Load MuseTalk Models, to find the face in reference.",
                ),
            ],
            outputs=[FaceOptionsSocket.Output(display_name="face_options", tooltip="The settings, for face_options.")],
        )

    @classmethod
    def execute(
        cls, face_index, detect_every, smoothing, subpixel, upright, reference=None, face_models=None
    ) -> io.NodeOutput:
        options = {
            "face_index": face_index,
            "detect_every": detect_every,
            "smoothing": smoothing,
            "subpixel": subpixel,
            "upright": upright,
        }
        if reference is not None:
            if face_models is None:
                raise MuseTalkError("A reference needs the face networks; connect face_models of Load MuseTalk Models.")
            detector, patcher = face_models.detector("auto")
            load_on_device([patcher], DETECTOR_BYTES)
            options["reference"] = reference_text(matched_frames(reference)[0], detector)
        return io.NodeOutput(options)
