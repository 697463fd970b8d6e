"""The work that both ways are given: the first frames of a video, none shown twice, and their share of a sound."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import MuseTalkError
from ..media.audio import AudioArray, AudioFile, mono16k
from ..media.video_reader import VideoReader


@dataclass(frozen=True)
class Clip:
    """video: with a face; audio: any sound; frames: how many are made, at the video's own rate."""

    video: Path
    audio: Path
    frames: int

    def check(self) -> None:
        """Raise MuseTalkError unless video and sound last for the frames."""
        source, sound = VideoReader(self.video), AudioFile(self.audio)
        there = min(len(source), int(sound.seconds * source.fps))
        if there < self.frames:
            raise MuseTalkError(
                f"{self.video.name} with {self.audio.name} gives {there} frames and {self.frames} are asked for; "
                "give longer ones or a smaller --frames."
            )

    def sound(self) -> AudioArray:
        """The sound of the frames, 16 kHz, mono; a little longer than they are, so that rounding loses none."""
        fps = VideoReader(self.video).fps
        samples = mono16k(AudioFile(self.audio))
        return AudioArray(samples[None, : int(self.frames / fps * 16000) + 160], 16000)
