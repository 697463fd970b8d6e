"""Sound and picture stay together in real files: exact counts, end drift, equal lengths."""

from fractions import Fraction

import pytest
from clips import faceless, probe, write_audio, write_video

from musetalk_core.__main__ import main


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("seconds", [15, 61, 600])
def test_lengths_agree_to_the_end(fps, seconds, tmp_path):
    if seconds == 600 and fps == 25:
        fps = Fraction(24000, 1001)
    video = write_video(tmp_path / "clip.mp4", faceless(20, 64), fps)
    audio = write_audio(tmp_path / "speech.wav", seconds, rate=8000 if seconds == 600 else 16000)
    out = tmp_path / "out.mp4"
    options = ["--version", "demo", "--allow-no-face", "--batch-size", "64"]
    assert main(["infer", *options, "--video", str(video), "--audio", str(audio), "--output", str(out)]) == 0
    facts = probe(out)
    assert facts["frames"] == seconds * fps.numerator // fps.denominator
    assert facts["fps"] == fps
    frame = 1 / float(fps)
    assert abs(facts["frames"] / float(fps) - seconds) < frame, "end drift"
    assert abs(facts["video_seconds"] - facts["audio_seconds"]) < frame
    assert abs(facts["audio_seconds"] - seconds) < frame
