"""Between faces and latents."""

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io

from ..musetalk_core.batches import AUTOMATIC, DEFAULT_BATCH, BatchSize, batch_frames, shrinking_batches
from ..musetalk_core.latents import decode_faces, encode_crops
from .comfy_models import ComfyCodec, load_on_device
from .sockets import matched_frames

# A LATENT of VAE Encode Masked says which of the two it is: the page cannot tell them apart.
PART = "musetalk_part"


def batch_input() -> io.Input:
    """The batch size input; one meaning in all nodes."""
    return io.Int.Input(
        "batch_size",
        default=DEFAULT_BATCH,
        min=AUTOMATIC,
        max=1024,
        tooltip="Frames in one pass of the networks. More is faster on a large GPU and needs more memory; 0: as many "
        "as fit, at most 32, and 8 on a CPU. It is halved by itself when memory runs out. The result does not depend "
        "on it.",
    )


class MuseTalkVAEEncodeMasked(io.ComfyNode):
    """Faces in, the two latents that MuseTalk starts from out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkVAEEncodeMasked",
            display_name="VAE Encode Masked (MuseTalk)",
            category="MuseTalk",
            description="Encodes every face twice: with its lower half blacked out, which is to be generated anew, "
            "and whole, as the reference for how it looks.",
            inputs=[
                io.Image.Input("crops", tooltip="The 256x256 faces of Face Detect And Crop."),
                io.Vae.Input("vae", tooltip="The VAE of Load MuseTalk Models, or your own sd-vae-ft-mse."),
                batch_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="masked", tooltip="Upper half of the face only."),
                io.Latent.Output(display_name="reference", tooltip="The whole face."),
            ],
        )

    @classmethod
    def execute(cls, crops, vae, batch_size) -> io.NodeOutput:
        faces = matched_frames(crops)
        codec = ComfyCodec(vae)
        load_on_device([codec.patcher], codec.memory(batch_size))
        progress = comfy.utils.ProgressBar(len(faces))
        masked, reference = (torch.empty((len(faces), 4, 32, 32), device=mm.intermediate_device()) for _ in range(2))
        encode = lambda start, stop: encode_crops(codec, faces[start:stop])  # noqa: E731
        size = BatchSize(batch_frames(batch_size, codec.device, codec.dtype))
        for start, stop, pair in shrinking_batches(encode, len(faces), size):
            masked[start:stop], reference[start:stop] = pair
            progress.update(stop - start)
        return io.NodeOutput({"samples": masked, PART: "masked"}, {"samples": reference, PART: "reference"})


class MuseTalkVAEDecode(io.ComfyNode):
    """Latents in, faces out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkVAEDecode",
            display_name="VAE Decode (MuseTalk)",
            category="MuseTalk",
            description="Decodes generated faces in batches. Gives what core VAE Decode gives, with progress and "
            "Cancel between batches.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents of UNet Step."),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE of Load MuseTalk Models. A TAESD from core Load VAE decodes several times "
                    "faster and a little softer.",
                ),
                batch_input(),
            ],
            outputs=[io.Image.Output(display_name="faces", tooltip="The generated faces, 256x256.")],
        )

    @classmethod
    def execute(cls, samples, vae, batch_size) -> io.NodeOutput:
        latents = samples["samples"]
        codec = ComfyCodec(vae)
        load_on_device([codec.patcher], codec.memory(batch_size))
        progress = comfy.utils.ProgressBar(len(latents))
        faces = []
        decode = lambda start, stop: decode_faces(codec, latents[start:stop])  # noqa: E731
        size = BatchSize(batch_frames(batch_size, codec.device, codec.dtype))
        for start, stop, part in shrinking_batches(decode, len(latents), size):
            faces.append(part.to(mm.intermediate_device()))
            progress.update(stop - start)
        return io.NodeOutput(torch.cat(faces))
