"""One video becomes clips: cut to length, brought to 25 frames/s, faces found in every frame, sound beside."""

import logging
import wave
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.stream import VideoStream

from ...audio_features import AudioEncoder, SampleBuffer
from ...errors import MuseTalkError
from ...faces.cuts import CutFinder
from ...faces.detector import Detector, Face
from ...faces.locator import FaceLocator
from ...files import whole_file
from ...media.audio import MONO_RATE, AudioFile, has_sound, mono16k_blocks
from ...media.container import LIBRARY_ERROR
from ...media.video_reader import VideoReader
from ...settings import FaceSettings
from ...timeline import source_index
from ..clip_sound import cache_sound
from ..clips import FPS, VIDEOS, FaceClip, save_clip
from ..sampling import union_boxes
from .record import Outcome, Reason, Record, Rejected, Source, save_record
from .settings import PrepareSettings

log = logging.getLogger(__name__)

# Upstream's quality. A key frame every 10 pictures and no pictures that depend on later ones: a random frame costs
# about five decoded ones.
CODEC, CODEC_OPTIONS = "libx264", {"crf": "15", "preset": "medium", "g": "10", "bf": "0"}
SILENCE = 1e-4  # of full scale; a sound that never exceeds it is no speech
SAMPLES_A_FRAME = MONO_RATE // 25


@dataclass(frozen=True)
class Tools:
    """What prepares: a face detector, and an audio encoder or None."""

    detector: Detector
    encoder: AudioEncoder | None


def prepare_source(source: Source, folder: Path, settings: PrepareSettings, tools: Tools, record: Record) -> Record:
    """Do what the record of a source lacks; it is saved after every clip, so that nothing is done twice.

    What is wrong with the source or with a clip of it goes into the record. Raises MuseTalkError only for what would go
    wrong with every other source too, as a full disk.
    """
    try:
        film, sound = _opened(source.path)
        with closing(film):
            buffer = SampleBuffer(_read(mono16k_blocks(sound)))
            for number, (start, stop) in enumerate(_spans(film, sound, settings)):
                name = f"clip{number:03d}_{source.name}"
                if name in record.clips:
                    continue
                record.clips[name] = _outcome(film, buffer, start, stop, folder, name, settings, tools)
                save_record(folder, record)
    except Rejected as rejected:
        record.whole = Outcome(0, rejected.reason.value, rejected.detail)
    record.complete = True
    save_record(folder, record)
    return record


def _opened(path: Path) -> tuple[VideoReader, AudioFile]:
    try:
        if not has_sound(path):
            raise Rejected(Reason.NO_SOUND, "there is no sound track")
        film = VideoReader(path)
        if len(film) == 1:
            raise Rejected(Reason.ONE_FRAME, "it shows one picture")
        return film, AudioFile(path)
    except (MuseTalkError, LIBRARY_ERROR, ValueError) as error:
        raise Rejected(Reason.BROKEN, str(error)) from error


def _spans(film: VideoReader, sound: AudioFile, settings: PrepareSettings) -> list[tuple[int, int]]:
    """First frame and frame after the last of every clip, at 25 frames/s, as far as picture and sound go."""
    frames = min(int(len(film) / film.fps * FPS), int(sound.seconds * FPS))
    least = round(settings.min_seconds * 25)
    if frames < least:
        raise Rejected(Reason.SHORT, f"{frames} frames with sound, {least} are asked for")
    length = round(settings.clip_seconds * 25)
    return [(start, min(start + length, frames)) for start in range(0, frames, length)]


def _outcome(
    film: VideoReader,
    buffer: SampleBuffer,
    start: int,
    stop: int,
    folder: Path,
    name: str,
    settings: PrepareSettings,
    tools: Tools,
) -> Outcome:
    try:
        if stop - start < round(settings.min_seconds * 25):
            raise Rejected(Reason.SHORT, f"the rest of the video has {stop - start} frames")
        samples = _samples(buffer, start, stop)
        clip = _write_clip(film, start, stop, folder, name, settings, tools.detector)
        _write_sound(clip.sound, samples)
        cache_sound(folder, clip, tools.encoder)
        save_clip(folder, clip)
        return Outcome(len(clip))
    except Rejected as rejected:
        return Outcome(0, rejected.reason.value, rejected.detail)


def _samples(buffer: SampleBuffer, start: int, stop: int) -> np.ndarray:
    """The clip's sound, exactly as long as its frames."""
    wanted = (stop - start) * SAMPLES_A_FRAME
    try:
        samples = buffer.read(start * SAMPLES_A_FRAME, stop * SAMPLES_A_FRAME)
    except MuseTalkError as error:
        raise Rejected(Reason.BROKEN, str(error)) from error
    if not len(samples) or float(np.abs(samples).max()) < SILENCE:
        raise Rejected(Reason.NO_SOUND, "its sound is silence")
    return np.pad(samples, (0, wanted - len(samples)))


def _write_clip(
    film: VideoReader, start: int, stop: int, folder: Path, name: str, settings: PrepareSettings, detector: Detector
) -> FaceClip:
    """Write the clip's pictures while its faces are found; nothing stays of a clip that is rejected on the way."""
    shown = (source_index(i, len(film), film.fps, FPS, "hold") for i in range(start, stop))
    locator = FaceLocator(detector, options=FaceSettings(detect_every=settings.detect_every))
    faces: list[Face] = []
    video = folder / VIDEOS / f"{name}.mp4"
    size = film.size[0] - film.size[0] % 2, film.size[1] - film.size[1] % 2

    def pictures() -> Iterator[np.ndarray]:
        cuts = CutFinder()
        for number, frame in enumerate(_read(film.read(shown))):
            faces.append(_face(locator, frame, number, cuts))
            if number == stop - start - 1:
                _check_width(faces, size, settings.min_face)
            yield np.ascontiguousarray(frame[: size[0], : size[1]].numpy())

    write_video(video, pictures(), size, settings.threads)
    boxes, landmarks = np.stack([face.box for face in faces]), np.stack([face.landmarks for face in faces])
    return FaceClip(name, video, video.with_suffix(".wav"), size, boxes, landmarks)


def _face(locator: FaceLocator, frame: torch.Tensor, number: int, cuts: CutFinder) -> Face:
    if cuts.is_cut(frame):
        raise Rejected(Reason.CUT, f"another scene begins with frame {number}")
    face = locator.find(frame)
    if face is None or not np.isfinite(face.landmarks).all() or not face.landmarks.any():
        raise Rejected(Reason.NO_FACE, f"frame {number} shows none")
    return face


def _check_width(faces: list[Face], size: tuple[int, int], least: int) -> None:
    boxes = union_boxes(np.stack([face.box for face in faces]), np.stack([face.landmarks for face in faces]), size)
    width = float(np.median(boxes[:, 2] - boxes[:, 0]))
    if width < least:
        raise Rejected(Reason.SMALL_FACE, f"{width:.0f} pixels wide, {least} are asked for")


def _read(items: Iterable) -> Iterator:
    """The items of a reader; what cannot be read rejects the clip, while an error of the loop's body does not."""
    try:
        yield from items
    except (MuseTalkError, LIBRARY_ERROR, ValueError) as error:
        raise Rejected(Reason.BROKEN, str(error)) from error


def write_video(path: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], threads: int = 1) -> None:
    """H.264 at 25 frames/s that is cheap to read at random places, whole or not at all.

    pictures: (H,W,3) uint8 RGB of `size` (height, width), both even. threads: of the encoder. Raises MuseTalkError when
    it cannot be written, and whatever `pictures` raises.
    """
    with whole_file(path) as part:
        try:
            with av.open(str(part.absolute()), "w", format="mp4") as file:
                stream = file.add_stream(CODEC, rate=FPS, options=dict(CODEC_OPTIONS))
                assert isinstance(stream, VideoStream)
                stream.height, stream.width = size
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = threads
                for number, picture in enumerate(pictures):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1) / FPS
                    file.mux(stream.encode(frame))
                file.mux(stream.encode(None))
        except LIBRARY_ERROR as error:
            raise MuseTalkError(f"{path} cannot be written: {error}.") from error


def _write_sound(path: Path, samples: np.ndarray) -> None:
    """(M,) float32 -1..1 as 16 kHz mono 16-bit WAV."""
    with whole_file(path) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MONO_RATE)
        file.writeframes(np.rint(samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
