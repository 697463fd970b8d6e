"""Time: rational frame rates, frame counts and the one index that says which source frame an output frame shows."""

from fractions import Fraction
from typing import Literal

from .errors import MuseTalkError

MIN_FPS, MAX_FPS = 1, 120

MatchMode = Literal["ping-pong", "loop", "hold", "trim"]
MATCH_MODES: tuple[MatchMode, ...] = ("ping-pong", "loop", "hold", "trim")


def rational_fps(value: float | int | str | Fraction) -> Fraction:
    """The frame rate as a fraction (29.97002997 -> 30000/1001, "24000/1001" too), 1 to 120 frames/s.

    Raises MuseTalkError outside that range.
    """
    try:
        fps = Fraction(value).limit_denominator(1001)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise MuseTalkError(f"The frame rate {value!r} is not a number; give 1 to 120 frames/s.") from error
    if not MIN_FPS <= fps <= MAX_FPS:
        raise MuseTalkError(f"The frame rate is {float(fps):g} frames/s; give {MIN_FPS} to {MAX_FPS}.")
    return fps


def frame_count(seconds: Fraction, fps: Fraction) -> int:
    """Whole frames in `seconds` of audio: floor(seconds * fps).

    Raises MuseTalkError when not even one frame fits (audio empty or shorter than a frame).
    """
    count = int(seconds * fps)
    if count < 1:
        raise MuseTalkError(
            f"The audio lasts {float(seconds):.3f} s, less than one frame at {float(fps):g} frames/s; "
            "give longer audio."
        )
    return count


def output_count(
    audio_seconds: Fraction, fps: Fraction, source_frames: int, source_fps: Fraction, mode: MatchMode
) -> int:
    """Frames of the result: what the audio asks for, in mode "trim" at most what the source shows.

    audio_seconds: the audio's samples / its own rate; source_frames at source_fps. Raises MuseTalkError for
    an empty source or audio shorter than a frame.
    """
    if source_frames < 1:
        raise MuseTalkError("The source has 0 frames; give at least one picture.")
    count = frame_count(audio_seconds, fps)
    if mode == "trim":
        count = max(1, min(count, int(Fraction(source_frames) / source_fps * fps)))
    return count


def source_index(i: int, source_frames: int, source_fps: Fraction, fps: Fraction, mode: MatchMode) -> int:
    """Index (0-based) of the source frame that output frame i (0-based, at time i/fps) shows.

    j = floor(i * source_fps / fps) runs on through the source, then by mode: "ping-pong" there and back with
    both end frames doubled (frames + reversed frames, as MuseTalk), "loop" from the start again, "hold" and
    "trim" stay on the last frame.
    """
    j = int(i * source_fps / fps)
    if mode == "ping-pong":
        k = j % (2 * source_frames)
        return k if k < source_frames else 2 * source_frames - 1 - k
    if mode == "loop":
        return j % source_frames
    if mode in ("hold", "trim"):
        return min(j, source_frames - 1)
    raise MuseTalkError(f"The mode {mode!r} is unknown; choose one of {', '.join(MATCH_MODES)}.")


def shows_again(frames: int, source_frames: int, source_fps: Fraction, fps: Fraction, mode: MatchMode) -> bool:
    """Whether `frames` output frames come back to a source frame after showing another one."""
    last = int((frames - 1) * source_fps / fps)
    # Ping-pong shows the last frame twice in a row before it turns.
    turn = {"ping-pong": source_frames + 1, "loop": source_frames}
    return source_frames > 1 and mode in turn and last >= turn[mode]
