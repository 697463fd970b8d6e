"""Encoding: what is refused, and what reaches the encoder."""

from fractions import Fraction

import av
import pytest
import torch

from musetalk_core.errors import MuseTalkError
from musetalk_core.media.encoding import NVENC_PRESETS, PRESETS, Encoding
from musetalk_core.media.video_writer import VideoWriter

SMALLEST_NVENC = (64, 160)  # NVENC takes no frames narrower than 145 pixels


def encoded(path, encoding, frames=3):
    with VideoWriter(path, Fraction(25), SMALLEST_NVENC, encoding=encoding) as writer:
        for i in range(frames):
            writer.write(torch.full((*SMALLEST_NVENC, 3), 20 * i, dtype=torch.uint8))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crf": 52}, "crf is 52; give a whole number from 0"),
        ({"crf": -1}, "crf is -1"),
        ({"crf": 18.5}, "crf is 18.5"),
        ({"preset": "placebo"}, "preset 'placebo' is unknown; choose ultrafast, superfast"),
        ({"pixel_format": "rgb24"}, "pixel format 'rgb24' is unknown; choose yuv420p, yuv422p"),
        ({"encoder": "libx265"}, "encoder 'libx265' is unknown; choose libx264, h264_nvenc"),
        (
            {"encoder": "h264_nvenc", "pixel_format": "yuv422p"},
            "not write the pixel format yuv422p; choose yuv420p",
        ),
    ],
)
def test_values_that_do_not_exist_are_one_sentence(values, words):
    with pytest.raises(MuseTalkError, match=words) as caught:
        Encoding(**values)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


# Motion search and lookahead of x264's presets, from `x264 --fullhelp`.
@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("ultrafast", [b"me=dia", b"cabac=0"]),
        ("medium", [b"me=hex", b"rc_lookahead=40"]),
        ("veryslow", [b"me=umh", b"rc_lookahead=60", b"ref=16"]),
    ],
)
def test_presets_reach_x264(tmp_path, preset, words):
    written = encoded(tmp_path / "a.mp4", Encoding(crf=31, preset=preset))
    assert all(word in written for word in [*words, b"crf=31.0"])


def test_nvenc_has_a_preset_for_each_name_and_its_own_words_for_quality():
    numbers = [int(NVENC_PRESETS[preset][1:]) for preset in PRESETS]
    assert numbers == sorted(numbers) and (numbers[0], numbers[-1]) == (1, 7)
    options = Encoding(crf=23, encoder="h264_nvenc").options
    assert options == {"preset": "p4", "rc": "vbr", "cq": "23"}  # p4 is NVENC's own default
    assert Encoding(crf=0, encoder="h264_nvenc").options["tune"] == "lossless"


def test_an_encoder_that_is_not_there_is_refused_before_the_first_frame(tmp_path):
    """On a machine that encodes with NVENC: the file is H.264 and whole."""
    try:
        writer = VideoWriter(tmp_path / "a.mp4", Fraction(25), SMALLEST_NVENC, encoding=Encoding(encoder="h264_nvenc"))
    except MuseTalkError as error:
        message = str(error)
        assert "h264_nvenc cannot be used for 160x64 here" in message and "choose the encoder libx264" in message
        assert message.endswith(".") and "\n" not in message
        assert list(tmp_path.iterdir()) == []
        return
    with writer:
        writer.write(torch.zeros((*SMALLEST_NVENC, 3), dtype=torch.uint8))
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert len(list(file.decode(video=0))) == 1
