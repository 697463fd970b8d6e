"""Face tracks kept in files, and shown."""

import hashlib
import os
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.faces.drawing import draw_track
from ..musetalk_core.faces.track_file import load_track, save_track
from ..musetalk_core.faces.tracker import FaceTracker
from .comfy_models import DETECTOR_BYTES, load_on_device
from .sockets import MuseTalkFaceModels, MuseTalkFaceTrack, check_lengths, matched_frames

FOLDER = "face_tracks"


class MuseTalkSaveFaceTrack(io.ComfyNode):
    """A track in, a JSON file out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkSaveFaceTrack",
            display_name="Save Face Track (MuseTalk)",
            category="MuseTalk",
            description="Writes a face track as JSON into ComfyUI's output folder, under a new number each time, so "
            "that the faces need not be found again.",
            inputs=[
                MuseTalkFaceTrack.Input("track", tooltip="The track of Face Detect And Crop."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/track",
                    tooltip="Folder and beginning of the name, inside the output folder. A number is added; no file is "
                    "ever replaced. Load Face Track lists the folder face_tracks.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="file", tooltip="The file's name, as Load Face Track takes it."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, track, filename_prefix) -> io.NodeOutput:
        folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder, f"{name}_{number:05}_.json")
        save_track(path, track)
        return io.NodeOutput(f"{Path(subfolder, path.name).as_posix()} [output]")


class MuseTalkLoadFaceTrack(io.ComfyNode):
    """A JSON file in, its track out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkLoadFaceTrack",
            display_name="Load Face Track (MuseTalk)",
            category="MuseTalk",
            description="Reads a face track that Save Face Track or the command line has written, for example to use "
            "the same faces again with other speech.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=_track_files(),
                    tooltip="A JSON file of ComfyUI's input folder, or of face_tracks in its output folder. Press R to "
                    "see new files.",
                ),
            ],
            outputs=[MuseTalkFaceTrack.Output(display_name="track", tooltip="The track, for track of other nodes.")],
        )

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        """Takes names that the list does not hold, as a queue of graphs has them, if the file is there."""
        return True if _path(file) is not None else f"{file} is no file inside ComfyUI's input or output folder."

    @classmethod
    def fingerprint_inputs(cls, file) -> str:
        path = _path(file)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        path = _path(file)
        if path is None:
            raise MuseTalkError(f"{file} is no file inside ComfyUI's input or output folder; choose one of the list.")
        return io.NodeOutput(load_track(path))


class MuseTalkPreviewFaceTrack(io.ComfyNode):
    """Frames and a track in, frames with the track drawn on them out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkPreviewFaceTrack",
            display_name="Preview Face Track (MuseTalk)",
            category="MuseTalk",
            description="Draws a face track on its frames: crop box, landmarks, and a border that is green where the "
            "speaker is present and red where not, with the reason.",
            inputs=[
                io.Image.Input("images", tooltip="The frames that the track was made on."),
                MuseTalkFaceTrack.Input("track", tooltip="The track of Face Detect And Crop or Load Face Track."),
                MuseTalkFaceModels.Input(
                    "face_models",
                    optional=True,
                    tooltip="The face networks of Load MuseTalk Models: every face is then found and drawn in blue "
                    "with its number, which face_index takes. Unconnected: only the track is drawn.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames with the track drawn on them.")],
        )

    @classmethod
    def execute(cls, images, track, face_models=None) -> io.NodeOutput:
        frames = matched_frames(images)
        check_lengths(frames=len(frames), tracked_frames=len(track))
        track.check(len(frames), tuple(frames.shape[1:3]))
        tracker = None
        if face_models is not None:
            detector, patcher = face_models.detector("auto")
            load_on_device([patcher], DETECTOR_BYTES)
            tracker = FaceTracker(detector)
        progress = comfy.utils.ProgressBar(len(frames))
        drawn = torch.empty(tuple(frames.shape[:3]) + (3,))
        for i, frame in enumerate(frames):
            drawn[i] = draw_track(frame, track, i, () if tracker is None else tracker.step(frame))
            progress.update(1)
        return io.NodeOutput(drawn.to(mm.intermediate_device()))


def _track_files() -> list[str]:
    """JSON files of the input folder, and those below output/face_tracks marked as ComfyUI marks output files."""
    inputs = Path(folder_paths.get_input_directory())
    output = Path(folder_paths.get_output_directory())
    mine = sorted(file.name for file in inputs.glob("*.json")) if inputs.is_dir() else []
    saved = sorted((output / FOLDER).rglob("*.json"))
    return mine + [f"{file.relative_to(output).as_posix()} [output]" for file in saved]


def _path(name: str) -> Path | None:
    """The existing file of a name, None when there is none inside ComfyUI's input, output or temp folder."""
    bare, folder = folder_paths.annotated_filepath(name)
    root = os.path.realpath(folder or folder_paths.get_input_directory())
    path = os.path.realpath(os.path.join(root, bare))
    return Path(path) if path.startswith(root + os.sep) and os.path.isfile(path) else None
