"""The plain upstream way, for comparison: what MuseTalk's own scripts do for each frame, in their order and precision.

What TMElyralab/MuseTalk does at 0a89dec, written anew: everything is float32 on a CPU and float16 on a GPU, each frame
is searched, encoded in two calls, parsed and composited with PIL, and lies on the disk as PNG in between.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from ..audio_features import StreamingFeatures, WhisperEncoder
from ..face_parsing import LABEL_SIZE, FaceParser, label_mask
from ..faces.detector import FaceDetector
from ..faces.geometry import crop_square
from ..faces.locator import FaceLocator
from ..generator import SCALING, positional_encoding
from ..media.audio import mono16k_blocks
from ..media.video_reader import VideoReader
from ..settings import MaskSettings
from .clip import Clip
from .networks import random_bisenet, random_s3fd, random_unet, random_vae, random_whisper

BATCH = 8
EXPAND, BLUR, UPPER = 1.5, 0.05, 0.5
MASK = MaskSettings()


class Baseline:
    """The networks of the plain way on a device, and one method for each step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.unet: Any = random_unet(self.dtype, device)
        self.vae: Any = random_vae(self.dtype, device)
        self.s3fd = random_s3fd(device)
        self.parser = FaceParser(random_bisenet(device), device)
        self.whisper = WhisperEncoder(random_whisper(device), device, torch.float32)

    @torch.no_grad()
    def detect(self, frame: np.ndarray) -> None:
        """S3FD on a frame (H,W,3) uint8."""
        self.s3fd.find(torch.from_numpy(frame).permute(2, 0, 1)[None].to(self.device))

    @torch.no_grad()
    def encode(self, crop: np.ndarray) -> torch.Tensor:
        """Latents (1,8,32,32), masked then whole, of a crop (256,256,3) uint8 in two calls."""
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
        masked = pixels.clone()
        masked[:, :, 128:] = -1
        parts = [self.vae.encode(part.to(self.device, self.dtype)).latent_dist.sample() for part in (masked, pixels)]
        return torch.cat(parts, dim=1) * SCALING

    @torch.no_grad()
    def predict(self, latents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Latents (B,8,32,32) and tokens (B,50,384) -> latents (B,4,32,32)."""
        sound = tokens.to(self.device) + positional_encoding(tokens.shape[1], tokens.shape[2]).to(self.device)
        timestep = torch.zeros(1, dtype=torch.long, device=self.device)
        return self.unet(latents.to(self.dtype), timestep, encoder_hidden_states=sound.to(self.dtype)).sample

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (B,4,32,32) -> faces (B,256,256,3) uint8."""
        pictures = (self.vae.decode(latents / SCALING).sample / 2 + 0.5).clamp(0, 1)
        return (pictures.cpu().permute(0, 2, 3, 1).float().numpy() * 255).round().astype(np.uint8)

    def run(self, clip: Clip, boxes: np.ndarray, folder: Path) -> Path:
        """Make the clip's video as upstream does, through PNG files in `folder`; boxes (N,4) of its faces."""
        import cv2

        fps = VideoReader(clip.video).fps
        frames = self._extract(clip, folder)
        for frame in frames:
            self.detect(frame)
        latents = [self.encode(_crop(frame, box)) for frame, box in zip(frames, boxes, strict=True)]
        sound = clip.sound()
        features = StreamingFeatures(
            self.whisper, lambda: mono16k_blocks(sound), sound.samples, sound.seconds, fps, 2, 2, "upstream"
        )
        faces: list[np.ndarray] = []
        for start in range(0, clip.frames, BATCH):
            stop = min(start + BATCH, clip.frames)
            part = torch.cat(latents[start:stop])
            faces += list(self.decode(self.predict(part, features.tokens(start, stop))))
        for k, (frame, face, box) in enumerate(zip(frames, faces, boxes, strict=True)):
            result = paste(frame, face, box, self.parser)
            cv2.imwrite(str(folder / f"{k:08d}.png"), np.ascontiguousarray(result[:, :, ::-1]))
        return _encoded(folder, clip.frames, fps)

    def _extract(self, clip: Clip, folder: Path) -> list[np.ndarray]:
        """The video as PNG files, read back into one list."""
        import cv2

        frames = []
        for k, frame in enumerate(VideoReader(clip.video).read(range(clip.frames))):
            path = str(folder / f"source_{k:08d}.png")
            cv2.imwrite(path, np.ascontiguousarray(frame.numpy()[:, :, ::-1]))
            frames.append(np.ascontiguousarray(_read(path)[:, :, ::-1]))
        return frames


def paste(frame: np.ndarray, face: np.ndarray, box: np.ndarray, parser: FaceParser) -> np.ndarray:
    """The frame (H,W,3) uint8 with the face in the box, through PIL pictures of the whole frame."""
    import cv2

    x1, y1, x2, y2 = (int(value) for value in box)
    body = Image.fromarray(frame.copy())
    square = crop_square(box, EXPAND)
    large = body.crop(square)
    labels = parser.labels([np.asarray(large.resize((LABEL_SIZE, LABEL_SIZE), Image.Resampling.BILINEAR))])
    mask = Image.fromarray(label_mask(labels[0], MASK)).resize(large.size)
    inner = (x1 - square[0], y1 - square[1], x2 - square[0], y2 - square[1])
    kept = Image.new("L", large.size, 0)
    kept.paste(mask.crop(inner), inner)
    below = np.array(kept)
    below[: int(large.height * UPPER)] = 0
    kernel = int(BLUR * large.width // 2 * 2) + 1
    soft = Image.fromarray(cv2.GaussianBlur(below, (kernel, kernel), 0))
    large.paste(Image.fromarray(cv2.resize(face, (x2 - x1, y2 - y1))), inner[:2])
    body.paste(large, square[:2], soft)
    return np.asarray(body)


def boxes_of(clip: Clip) -> np.ndarray:
    """The boxes (N,4) that the plain way is given, so that its detector's cost alone counts; by the embedded one."""
    locator = FaceLocator(FaceDetector(FaceDetector.load_nets()))
    frames = list(VideoReader(clip.video).read(range(clip.frames)))
    return locator.locate(torch.stack(frames)).boxes


def _read(path: str) -> np.ndarray:
    import cv2

    picture = cv2.imread(path)
    assert picture is not None, path
    return picture


def _crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    import cv2

    x1, y1, x2, y2 = (int(value) for value in box.clip(0))
    return cv2.resize(frame[y1:y2, x1:x2], (256, 256), interpolation=cv2.INTER_LANCZOS4)


def _encoded(folder: Path, frames: int, fps: Fraction) -> Path:
    """An mp4 of the PNG files by libx264 at crf 18, then a second one with the default crf, as muxing does."""
    first, second = folder / "first.mp4", folder / "second.mp4"
    _encode(first, fps, (_read(str(folder / f"{k:08d}.png")) for k in range(frames)), {"crf": "18"})
    with av.open(str(first)) as made:
        _encode(second, fps, (picture.to_ndarray(format="bgr24") for picture in made.decode(video=0)), {})
    return second


def _encode(path: Path, fps: Fraction, pictures: Any, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as file:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = file.add_stream("libx264", rate=fps, options=options)
                stream.height, stream.width, stream.pix_fmt = picture.shape[0], picture.shape[1], "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode(None))
