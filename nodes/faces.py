"""Finding the speaker's face and cutting it out."""

from collections.abc import Callable

import comfy.model_management as mm
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.detector import Detector, Face
from ..musetalk_core.faces.external import faces_in_boxes, given_boxes, given_faces
from ..musetalk_core.faces.geometry import bbox_shift_range, crop_face
from ..musetalk_core.faces.locator import FaceLocator
from ..musetalk_core.faces.track import FaceTrack
from ..musetalk_core.report import Report
from ..musetalk_core.settings import DETECTORS, FACE_CHOICES, LipSyncSettings
from .comfy_models import DETECTOR_BYTES, load_on_device
from .face_options import face_options_input
from .sockets import BoundingBox, FaceLandmarks, MuseTalkFaceModels, MuseTalkFaceTrack, matched_frames

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
                BoundingBox.Input(
                    "bounding_boxes",
                    optional=True,
                    tooltip="Boxes of another detector, instead of searching: one for all frames, or one a frame, or a "
                    "list a frame. Landmarks are looked for inside; boxes outside the image are left out.",
                ),
                FaceLandmarks.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="Faces with 478 points, as ComfyUI's own face landmark nodes give them, instead of "
                    "searching: one list for all frames, or one a frame.",
                ),
                face_options_input(),
            ],
            outputs=[
                io.Image.Output(display_name="crops", tooltip="One face per frame, 256x256; black where none is."),
                MuseTalkFaceTrack.Output(display_name="track", tooltip="Where the face is in every frame."),
                io.String.Output(
                    display_name="report", tooltip="Frames with and without a face, and the bbox_shift range."
                ),
                io.String.Output(
                    display_name="report_json",
                    tooltip="The same for programs, as JSON: counts, reasons, and which frames have no face.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images,
        face_models,
        bounding_boxes=None,
        face_landmarks=None,
        face_options=None,
        **values,
    ) -> io.NodeOutput:
        frames = matched_frames(images)
        settings = LipSyncSettings().changed("Face Detect And Crop (MuseTalk)", {**values, **(face_options or {})})
        detector, patcher = face_models.detector(settings.detector)
        given = _given(bounding_boxes, face_landmarks, frames, detector)
        load_on_device([patcher], DETECTOR_BYTES)
        locator = FaceLocator(detector, settings.bbox_shift, settings.extra_margin, settings.face, settings.faces)
        progress = comfy.utils.ProgressBar(len(frames))
        tracks = []
        for i in range(len(frames)):
            tracks.append(locator.locate(frames[i : i + 1], None if given is None else [given(i)], live=False))
            progress.update(1)
        track = locator.smoothed(FaceTrack.join(tracks))
        report = Report.of_track(track)
        if not report.found:
            raise MuseTalkError(report.nothing_found())
        crops = torch.zeros((len(frames), 256, 256, 3))
        for i in np.flatnonzero(track.present):
            crops[i] = crop_face(frames[i], track.boxes[i], float(track.angles[i])).float() / 255
        text = _text(report, track, settings.bbox_shift)
        return io.NodeOutput(crops.to(mm.intermediate_device()), track, text, report.json())


def _given(boxes, landmarks, frames: torch.Tensor, detector: Detector) -> Callable[[int], list[Face]] | None:
    """The faces of a frame by its number when another detector has found them."""
    if boxes is not None and landmarks is not None:
        raise MuseTalkError("Both bounding_boxes and face_landmarks are connected; connect one of them.")
    count, size = len(frames), (int(frames.shape[1]), int(frames.shape[2]))
    if landmarks is not None:
        return given_faces(landmarks, count, size).__getitem__
    if boxes is not None:
        rows = given_boxes(boxes, count, size)
        return lambda i: faces_in_boxes(frames[i], rows[i], detector)
    return None


def _text(report: Report, track: FaceTrack, bbox_shift: int) -> str:
    lines = [f"{report.frames} frames: a face in {report.found}, none in {report.passed_through}", *report.gap_lines()]
    if track.landmarks is not None:
        points = [track.upright_landmarks(i) for i in np.flatnonzero(track.present)]
        low, high = bbox_shift_range(np.array(points))
        lines.append(f"bbox_shift range: [{low}~{high}], used: {bbox_shift}")
    return "\n".join(lines)
