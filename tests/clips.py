"""Test media made on the spot: a real face that moves, pictures without a face, tones."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile
from skimage import data


def portrait(size: int = 256) -> np.ndarray:
    """The NASA portrait (public domain), head and shoulders, (size,size,3) uint8 RGB."""
    head = data.astronaut()[0:300, 80:380]
    return cv2.resize(head, (size, size), interpolation=cv2.INTER_AREA)


def moving_portrait(count: int, size: int = 256) -> np.ndarray:
    """The portrait shifted by 1 px right and 0.5 px down a frame, (count,size,size,3) uint8."""
    picture = portrait(size)
    frames = []
    for k in range(count):
        shift = np.float32([[1, 0, k], [0, 1, k / 2]])
        frames.append(cv2.warpAffine(picture, shift, (size, size), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(frames)


def faceless(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colour gradients that drift, no face, (count,size,size,3) uint8."""
    y, x = np.mgrid[0:size, 0:size]
    frames = [np.stack([(x * 2 + k) % 256, (y * 2 + seed) % 256, np.full_like(x, 90)], -1) for k in range(count)]
    return np.stack(frames).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: Fraction = Fraction(25), audio: np.ndarray | None = None) -> Path:
    """H.264 at high quality of frames (N,H,W,3) uint8; audio: mono float32 at 16 kHz, AAC, in a .mov PCM."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        codec = "pcm_f32le" if path.suffix == ".mov" else "aac"
        sound = file.add_stream(codec, rate=16000, layout="mono") if audio is not None else None
        for picture in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(video.encode())
        if sound is not None:
            block = av.AudioFrame.from_ndarray(
                audio[None].astype(np.float32), format="flt" if codec == "pcm_f32le" else "fltp", layout="mono"
            )
            block.sample_rate = 16000
            file.mux(sound.encode(block))
            file.mux(sound.encode())
    return path


def tone(seconds: float, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """A 220 Hz tone whose loudness beats four times a second, (samples,) or (samples,channels) float32."""
    t = np.arange(round(seconds * rate)) / rate
    wave = (0.3 * np.sin(2 * np.pi * 220 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, 1)


def write_audio(path: Path, seconds: float, rate: int = 16000, channels: int = 1) -> Path:
    """A 16-bit sound file (by its suffix) holding `tone`."""
    soundfile.write(path, tone(seconds, rate, channels), rate)
    return path


def probe(path: Path) -> dict:
    """What a fresh demux and decode of a file says: frames, rate, picture and sound seconds, size."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        frames = sum(1 for _ in file.decode(video))
        facts = {
            "frames": frames,
            "fps": Fraction(video.average_rate),
            "size": (video.height, video.width),
            "video_seconds": float(video.duration * video.time_base),
            "comment": file.metadata.get("comment", ""),
        }
    with av.open(str(path)) as file:
        if file.streams.audio:
            sound = file.streams.audio[0]
            facts["audio_seconds"] = float(sound.duration * sound.time_base)
            facts["audio_samples"] = sum(frame.samples for frame in file.decode(sound))
            facts["audio_rate"] = sound.rate
    return facts


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video, (N,H,W,3) uint8."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
