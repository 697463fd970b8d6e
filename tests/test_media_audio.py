"""Sound out of files and arrays, against soundfile, librosa and clicks at known times."""

import random
import tracemalloc
from fractions import Fraction

import av
import librosa
import numpy as np
import pytest
import soundfile

from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioArray, AudioFile, mono16k, mono16k_blocks

CLICKS = (0.1, 0.5, 1.0, 1.9)


def whole(source):
    blocks = list(source.blocks())
    assert all(block.dtype == np.float32 and block.shape[0] == source.channels and block.shape[1] for block in blocks)
    sound = np.concatenate(blocks, 1)
    assert sound.shape == (source.channels, source.samples)
    return sound


def click_track(rate, seconds=2.0, channels=2):
    sound = np.zeros((channels, round(rate * seconds)), np.float32)
    for time in CLICKS:
        sound[:, round(time * rate)] = 0.9
    return sound


def click_errors(source):
    """Seconds by which each click is late."""
    sound, rate = np.abs(whole(source)[0]), source.sample_rate
    near = round(0.05 * rate)
    starts = [round(time * rate) - near for time in CLICKS]
    return [(int(sound[start : start + 2 * near].argmax()) - near) / rate for start in starts]


def encode(path, codec, sound, rate, video_start=None, audio_start=0):
    """Write `sound` (C,N), stamps from audio_start samples on, beside a video that starts at video_start frames."""
    layout = {1: "mono", 2: "stereo"}[sound.shape[0]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if video_start is not None:
            video = container.add_stream("libx264", rate=25, options={"bf": "0"})
            video.width = video.height = 32
            for i in range(50):
                frame = av.VideoFrame(32, 32, "yuv420p")
                frame.pts, frame.time_base = video_start + i, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, audio_start, Fraction(1, rate)
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate, frame_size=size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    "subtype, bits", [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 24), ("FLOAT", 24), ("DOUBLE", 24)]
)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_wav_of_every_depth_equals_soundfile(tmp_path, subtype, bits, channels):
    sound = np.random.default_rng(0).uniform(-1, 1, (4001, channels))
    soundfile.write(tmp_path / "a sound.wav", sound, 22050, subtype=subtype)
    expected, _ = soundfile.read(tmp_path / "a sound.wav", dtype="float32", always_2d=True)
    source = AudioFile(tmp_path / "a sound.wav")
    assert (source.sample_rate, source.channels, source.samples) == (22050, channels, 4001)
    assert source.seconds == Fraction(4001, 22050)
    assert np.array_equal(whole(source), expected.T)
    assert np.abs(whole(source).T - sound).max() <= 2.0 ** (1 - bits)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3", "a.opus", "a.aiff", "a.w64", "a.au"])
def test_libsndfile_formats_equal_libsndfile(tmp_path, name):
    rate = 48000
    time = np.arange(rate * 2) / rate
    sound = np.stack([0.5 * np.sin(2 * np.pi * 300 * time), 0.5 * np.sin(2 * np.pi * 500 * time)], 1)
    container = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    soundfile.write(tmp_path / name, sound, rate, **container)
    source = AudioFile(tmp_path / name)
    assert (source.sample_rate, source.channels, source.samples) == (rate, 2, len(sound))
    assert np.abs(whole(source).T - sound)[2000:-2000].max() < (0.05 if name[2:] in ("ogg", "mp3", "opus") else 1e-4)


@pytest.mark.parametrize(
    "name, codec, rate",
    [
        ("a.m4a", "aac", 44100),
        ("a.mp4", "aac", 16000),
        ("a.mov", "pcm_s16le", 32000),
        ("a.mkv", "aac", 48000),
        ("a.mp3", "libmp3lame", 44100),
        ("a.webm", "libopus", 48000),
        ("a.opus", "libopus", 48000),
        ("a.flac", "flac", 8000),
    ],
)
@pytest.mark.parametrize("video_start", [None, 0])
def test_clicks_stay_where_they_are(tmp_path, name, codec, rate, video_start):
    if video_start is not None and name not in ("a.mp4", "a.mov"):
        name = "a.mkv"
    sound = click_track(rate)
    source = AudioFile(encode(tmp_path / name, codec, sound, rate, video_start))
    assert max(map(abs, click_errors(source))) <= 0.001
    assert abs(source.samples - sound.shape[1]) <= (0 if name[2:] in ("m4a", "mp4", "mov", "flac") else 0.03 * rate)


@pytest.mark.parametrize("late", [0.4, -0.4])
def test_a_track_that_starts_apart_from_the_video_is_aligned(tmp_path, late):
    rate = 48000
    video_start, audio_start = (0, round(late * rate)) if late > 0 else (round(-late * 25), 0)
    path = encode(tmp_path / "a.mkv", "flac", click_track(rate), rate, video_start, audio_start)
    source = AudioFile(path)
    assert abs(source.samples - rate * (2 + late)) <= rate / 500
    sound = np.abs(whole(source)[0])
    for time in CLICKS[1:]:
        place = round((time + late) * rate)
        assert sound[place - 100 : place + 100].max() > 0.8


def test_a_hole_in_the_stamps_becomes_silence(tmp_path):
    rate, path = 48000, tmp_path / "hole.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for pts, level in ((0, 8000), (rate // 2 + 4800, 16000)):
            frame = av.AudioFrame.from_ndarray(np.full((1, rate // 2), level, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, pts, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound = whole(AudioFile(path))[0]
    half = rate // 2
    assert abs(len(sound) - rate - 4800) <= 48
    assert np.all(sound[half + 10 : half + 4700] == 0) and np.all(sound[half + 4900 :] == np.float32(16000 / 32768))


def test_nan_and_infinity_become_silence(tmp_path):
    sound = np.array([[0.5, np.nan, np.inf, -np.inf, -0.25]], np.float32)
    soundfile.write(tmp_path / "n.wav", sound.T, 16000, subtype="FLOAT")
    for source in (AudioFile(tmp_path / "n.wav"), AudioArray(sound, 16000)):
        assert np.array_equal(whole(source), np.float32([[0.5, 0, 0, 0, -0.25]]))
    assert np.isnan(sound[0, 1])


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_mono16k_equals_librosa_and_the_stream(tmp_path, rate, channels):
    rng = np.random.default_rng(rate)
    sound = rng.normal(0, 0.2, (rate * 3 + 137, channels)).clip(-1, 1)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="PCM_16")
    expected, _ = librosa.load(tmp_path / "a.wav", sr=16000)
    source = AudioFile(tmp_path / "a.wav")
    once = mono16k(source)
    assert once.dtype == np.float32 and np.array_equal(once, expected)
    blocks = list(mono16k_blocks(source))
    assert all(block.dtype == np.float32 and block.ndim == 1 and len(block) for block in blocks)
    stream = np.concatenate(blocks)
    assert len(stream) == len(expected) == -(-len(sound) * 16000 // rate)
    assert np.abs(stream - expected).max() <= 1e-6


@pytest.mark.parametrize("samples", [1, 7, 441, 882])
def test_very_short_sound(samples):
    source = AudioArray(np.full((2, samples), 0.5, np.float32), 44100)
    expected = librosa.resample(np.full(samples, 0.5, np.float32), orig_sr=44100, target_sr=16000, res_type="soxr_hq")
    assert np.array_equal(mono16k(source), expected)
    assert np.abs(np.concatenate(list(mono16k_blocks(source))) - expected).max() <= 1e-6


def test_audio_array_blocks():
    sound = np.random.default_rng(0).normal(0, 0.1, (3, 200_001))
    source = AudioArray(sound, 48000)
    assert source.seconds == Fraction(200_001, 48000)
    assert np.array_equal(whole(source), sound.astype(np.float32))
    for shape, rate in [((2, 0), 16000), ((0, 5), 16000), ((5,), 16000), ((1, 5), 0)]:
        with pytest.raises(MuseTalkError):
            AudioArray(np.zeros(shape, np.float32), rate)


def test_ten_minutes_are_counted_and_streamed_in_constant_memory(tmp_path):
    rate, minutes = 8000, 10
    noise = np.random.default_rng(0).normal(0, 0.1, rate * 60).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", rate, 1) as file:
        for _ in range(minutes):
            file.write(noise)
    next(mono16k_blocks(AudioArray(noise[None], rate)))
    tracemalloc.start()
    source = AudioFile(tmp_path / "long.flac")
    count = sum(len(block) for block in mono16k_blocks(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (source.samples, count) == (rate * 60 * minutes, 16000 * 60 * minutes)
    assert peak < 4 * 2**20


def refused(path, *words):
    with pytest.raises(MuseTalkError) as caught:
        AudioFile(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    for word in words:
        assert word in text


def test_bad_input_is_refused_by_name(tmp_path):
    refused(tmp_path / "absent.wav", "no file")
    refused(tmp_path)
    (tmp_path / "empty.wav").write_bytes(b"")
    refused(tmp_path / "empty.wav", "empty")
    soundfile.write(tmp_path / "zero.wav", np.zeros((0, 1)), 16000)
    refused(tmp_path / "zero.wav", "sample")
    for suffix in ("wav", "mp3", "m4a", "ogg", "flac", "txt", "aac"):
        (tmp_path / f"text.{suffix}").write_bytes(b"this is no sound\n" * 300)
        refused(tmp_path / f"text.{suffix}")
        (tmp_path / f"random.{suffix}").write_bytes(random.Random(1).randbytes(20000))
        refused(tmp_path / f"random.{suffix}")
    silent = tmp_path / "silent.mp4"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        container.mux([*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)])
    refused(silent, "no audio track")


def test_truncated_m4a_is_refused_by_name(tmp_path):
    rate = 16000
    noise = np.random.default_rng(0).normal(0, 0.2, (1, rate * 5)).astype(np.float32)
    path = encode(tmp_path / "t.m4a", "aac", noise, rate)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path)


def test_a_damaged_packet_keeps_the_rest_in_place(tmp_path):
    rate = 48000
    path = encode(tmp_path / "d.mkv", "flac", click_track(rate), rate)
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(audio=0) if p.size][15]
    data = bytearray(path.read_bytes())
    place = bytes(data).find(bytes(packet))
    data[place : place + packet.size] = b"\x55" * packet.size
    path.write_bytes(data)
    source = AudioFile(path)
    assert abs(source.samples - rate * 2) <= 0.03 * rate
    assert max(map(abs, click_errors(source)[2:])) <= 0.005
