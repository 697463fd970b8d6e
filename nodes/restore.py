"""Sharper faces by a face restorer that ComfyUI loaded."""

import comfy.model_management as mm
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.restoration import SIZE, RestoreSettings, face_alignments, frame_alignments, restore_faces
from .sockets import MuseTalkFaceTrack, check_lengths, matched_frames, new_frames

KINDS = ("faces", "frames")
# Activations of a restorer at 512x512: the estimate of ComfyUI's own Upscale Image (using Model).
BYTES_PER_VALUE = 384.0
BATCH = 4


class MuseTalkRestoreFace(io.ComfyNode):
    """Faces in, sharper faces out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkRestoreFace",
            display_name="Restore Face (MuseTalk)",
            category="MuseTalk",
            description="Sharpens faces by a face restorer such as GFPGAN or RestoreFormer: aligns each face as the "
            "restorer knows it, puts its detail back softly, and keeps it steady from frame to frame.",
            inputs=[
                io.Image.Input("images", tooltip="The faces of VAE Decode, or whole frames: say which in images_are."),
                MuseTalkFaceTrack.Input(
                    "track",
                    tooltip="The track of Face Detect And Crop for these frames: its landmarks align the faces.",
                ),
                io.UpscaleModel.Input(
                    "upscale_model",
                    tooltip="Core Load Upscale Model with a face restorer from models/upscale_models: GFPGAN or "
                    "RestoreFormer. Other upscale models sharpen too, without knowing faces.",
                ),
                io.Combo.Input(
                    "images_are",
                    options=list(KINDS),
                    default="faces",
                    tooltip="What images holds. faces: of VAE Decode, on their way to Blend Face Parsing; they come "
                    "out at 512x512, and only what is blended counts. frames: finished frames; the whole face is "
                    "restored in place.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the restorer's change is used. 1 is sharpest and may look like another "
                    "person; 0 changes nothing.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=0.5,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="How much of the last frame's detail stays where the face does not move. More is steadier, "
                    "too much leaves old detail behind; 0 restores every frame for itself, which often flickers.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The restored faces or frames; where no face is, what came in."
                )
            ],
        )

    @classmethod
    def execute(cls, images, track, upscale_model, images_are, strength, smoothing) -> io.NodeOutput:
        settings = RestoreSettings(strength, smoothing)
        pictures = matched_frames(images)
        check_lengths(images=len(pictures), tracked_frames=len(track))
        if images_are == "faces":
            pictures = _large(pictures)
            alignments = face_alignments(track, pictures.shape[1])
        else:
            _check_size(tuple(pictures.shape[1:3]), track.image_size)
            alignments = frame_alignments(track)
        result = new_frames(len(pictures), pictures)
        restore = _on_device(upscale_model)
        progress = comfy.utils.ProgressBar(len(pictures))
        try:
            for i, picture in enumerate(restore_faces(pictures, alignments, restore, settings, BATCH)):
                result[i] = picture
                progress.update(1)
        finally:
            upscale_model.to("cpu")
        return io.NodeOutput(result)


def _on_device(upscale_model):
    """The model on ComfyUI's device, as core's Upscale Image (using Model) puts it there, as a core Restore."""
    device = mm.get_torch_device()
    memory = mm.module_size(upscale_model.model) + SIZE * SIZE * 3 * 4 * max(upscale_model.scale, 1.0) * BYTES_PER_VALUE
    mm.free_memory(memory, device)
    upscale_model.to(device)

    def restore(faces: np.ndarray) -> np.ndarray:
        planar = torch.from_numpy(faces).movedim(-1, 1).contiguous().to(device)  # GFPGAN asks for that order
        # One by one: a spandrel model takes (1,C,H,W), its ImageModelDescriptor promises nothing for more.
        return np.stack([_one(upscale_model, face[None]) for face in planar])

    return restore


def _one(upscale_model, face: torch.Tensor) -> np.ndarray:
    """A face (1,3,512,512) 0..1 restored, (512,512,3) float32."""
    if upscale_model.architecture.id == "GFPGAN":
        # spandrel hands GFPGAN 0..1, but it was trained on -1..1 and gives that (gfpgan/utils.py, GFPGANer.enhance);
        # and it adds new noise at every call, which flickers. The file's own noise is the same for every frame.
        made = upscale_model.model(face * 2 - 1, return_rgb=False, randomize_noise=False)[0] / 2 + 0.5
    else:
        made = upscale_model(face)
    if made.shape[-1] != SIZE:
        made = comfy.utils.common_upscale(made, SIZE, SIZE, "area", "disabled")
    return made[0].clamp(0, 1).movedim(0, -1).float().cpu().numpy()


def _large(faces: torch.Tensor) -> torch.Tensor:
    """Faces at 512x512, or as they are when they are larger."""
    if faces.shape[1] >= SIZE:
        return faces
    planar = comfy.utils.common_upscale(faces.float().movedim(-1, 1), SIZE, SIZE, "bicubic", "disabled")
    return planar.movedim(1, -1).clamp(0, 1).to(faces.dtype)


def _check_size(size: tuple[int, int], tracked: tuple[int, int]) -> None:
    if size != tuple(tracked):
        raise MuseTalkError(
            f"The images have {size[1]}x{size[0]} pixels and the track was made on {tracked[1]}x{tracked[0]}; set "
            "images_are to faces for the faces of VAE Decode, or connect the track of these frames."
        )
