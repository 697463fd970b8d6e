"""Finding the speaker's face and cutting it out."""

import comfy.model_management as mm
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.geometry import bbox_shift_range, crop_face
from ..musetalk_core.faces.locator import FaceLocator
from ..musetalk_core.faces.track import FaceTrack
from ..musetalk_core.settings import DETECTORS, FACE_CHOICES
from .comfy_models import DETECTOR_BYTES, load_on_device
from .sockets import MuseTalkFaceModels, MuseTalkFaceTrack, matched_frames

FACE_MODELS_TOOLTIP = "The face networks of Load MuseTalk Models."


def face_inputs() -> list[io.Input]:
    """The inputs that say which part of the frame is generated."""
    return [
        io.Int.Input(
            "bbox_shift",
            default=0,
            min=-1000,
            max=1000,
            tooltip="Moves the crop's top edge, two pixels per step. Positive opens the mouth more, negative less, "
            "0 is neutral. The report names the range that suits the face; it matters most for v1.0.",
        ),
        io.Int.Input(
            "extra_margin",
            default=10,
            min=0,
            max=1000,
            tooltip="Pixels of the frame added below the chin, so that an opening jaw has room: usually 0 to 40. "
            "MuseTalk's own choice: 10 for v1.5, 0 for v1.0.",
        ),
        io.Combo.Input(
            "face",
            options=list(FACE_CHOICES),
            default="largest",
            tooltip="Which face speaks when there are several: the largest, or the one furthest left or right in "
            "the picture.",
        ),
    ]


def detector_input() -> io.Input:
    """What finds the faces; the last widget of every node that has it."""
    return io.Combo.Input(
        "detector",
        options=list(DETECTORS),
        default="auto",
        tooltip="What finds faces. mediapipe: inside the pack, fast even on a CPU. dwpose: S3FD and DWPose, as "
        "MuseTalk itself has it, for a GPU; needs 497 MB of weights. mmpose: the same through the real mmpose, if you "
        "installed that. auto: dwpose if its weights are there, else mediapipe.",
    )


class MuseTalkFaceDetectAndCrop(io.ComfyNode):
    """Frames in, faces of 256x256 and their places out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkFaceDetectAndCrop",
            display_name="Face Detect And Crop (MuseTalk)",
            category="MuseTalk",
            description="Finds the speaker's face in every frame and cuts it out as a 256x256 picture.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of Match Frames."),
                MuseTalkFaceModels.Input("face_models", tooltip=FACE_MODELS_TOOLTIP),
                *face_inputs(),
                detector_input(),
            ],
            outputs=[
                io.Image.Output(display_name="crops", tooltip="One face per frame, 256x256; black where none is."),
                MuseTalkFaceTrack.Output(display_name="track", tooltip="Where the face is in every frame."),
                io.String.Output(
                    display_name="report", tooltip="Frames with and without a face, and the bbox_shift range."
                ),
            ],
        )

    @classmethod
    def execute(cls, images, face_models, bbox_shift, extra_margin, face, detector) -> io.NodeOutput:
        frames = matched_frames(images)
        finder, patcher = face_models.detector(detector)
        load_on_device([patcher], DETECTOR_BYTES)
        locator = FaceLocator(finder, bbox_shift, extra_margin, face)
        progress = comfy.utils.ProgressBar(len(frames))
        crops = torch.zeros((len(frames), 256, 256, 3))
        tracks = []
        for i in range(len(frames)):
            tracks.append(locator.locate(frames[i : i + 1]))
            if tracks[i].present[0]:
                crops[i] = crop_face(frames[i], tracks[i].boxes[0]).float() / 255
            progress.update(1)
        track = FaceTrack.join(tracks)
        if not track.present.any():
            raise MuseTalkError(
                f"No face was found in any of the {len(frames)} frames; use a video whose face is at least 64 pixels "
                "wide and looks towards the camera."
            )
        return io.NodeOutput(crops.to(mm.intermediate_device()), track, _report(track, bbox_shift))


def _report(track: FaceTrack, bbox_shift: int) -> str:
    absent = np.flatnonzero(~track.present)
    lines = [f"{len(track)} frames: a face in {len(track) - len(absent)}, none in {len(absent)}"]
    if len(absent):
        lines.append(f"without a face (kept as they are): {_spans(absent)}")
    if track.landmarks is not None:
        low, high = bbox_shift_range(track.landmarks[track.present])
        lines.append(f"bbox_shift range: [{low}~{high}], used: {bbox_shift}")
    return "\n".join(lines)


def _spans(rows: np.ndarray) -> str:
    """Row numbers as "3, 7-12"."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
