"""Files that VideoWriter writes, probed with PyAV and read back."""

import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioArray, AudioFile
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.video_reader import VideoReader
from musetalk_core.media.video_writer import VideoWriter

torch.set_num_threads(1)

NTSC = Fraction(30000, 1001)


def gray(level, height=64, width=64):
    return torch.full((height, width, 3), level, dtype=torch.uint8)


def write(path, frames, fps=Fraction(25), audio=None, **options):
    with VideoWriter(path, fps, tuple(frames[0].shape[:2]), audio, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def clicks(rate, seconds, times, channels=1):
    sound = np.zeros((channels, round(rate * seconds)), np.float32)
    for moment in times:
        sound[:, round(moment * rate)] = 0.9
    return AudioArray(sound, rate)


def late_clicks(path, times):
    """Seconds by which each click of the file's sound is late."""
    source = AudioFile(path)
    sound, rate = np.abs(np.concatenate(list(source.blocks()), 1)[0]), source.sample_rate
    near = round(0.05 * rate)
    starts = [round(moment * rate) - near for moment in times]
    return [(int(sound[start : start + 2 * near].argmax()) - near) / rate for start in starts]


@pytest.mark.parametrize("fps", [Fraction(25), NTSC], ids=["25", "29.97"])
@pytest.mark.parametrize("seconds, rate", [(15, 44100), (61, 16000)])
def test_count_rate_and_length_are_exact(tmp_path, fps, seconds, rate):
    times = (0.2, seconds / 2, seconds - 0.2)
    audio = clicks(rate, seconds, times)
    count = int(seconds * fps)
    levels = [20, 60, 100, 140, 180, 220]
    path = write(tmp_path / "out.mp4", [gray(levels[i % 6]) for i in range(count)], fps, audio)
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.frames, video.average_rate) == (count, fps)
        assert video.duration * video.time_base == count / fps
        assert abs(sound.duration * sound.time_base - seconds) < Fraction(1, 1000)
        assert abs(container.duration / av.time_base - seconds) < 0.001
        stamps = sorted(p.pts for p in container.demux(video) if p.size)
        assert [stamp * video.time_base for stamp in stamps] == [i / fps for i in range(count)]
    assert AudioFile(path).samples == audio.samples
    assert max(map(abs, late_clicks(path, times))) <= 0.005
    reader = VideoReader(path)
    assert (len(reader), reader.fps) == (count, fps)
    for i, frame in enumerate(reader.read(range(count))):
        assert abs(int(frame[30, 30, 1]) - levels[i % 6]) <= 2
    assert {file.name for file in tmp_path.iterdir()} == {"out.mp4"}


@pytest.mark.parametrize("fps", ["1", "12", "24000/1001", "24", "50", "60", "60000/1001", "120", "997/40"])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_every_rate_and_container(tmp_path, fps, suffix):
    fps = Fraction(fps)
    path = write(tmp_path / f"a film.{suffix}", [gray(40 * i) for i in range(6)], fps, clicks(48000, 6 / fps, []))
    with VideoReader(path) as reader:
        assert (len(reader), reader.fps, reader.size) == (6, fps, (64, 64))
        assert [round(int(frame[9, 9, 0]) / 40) for frame in reader.read(range(6))] == list(range(6))
    padding = Fraction(1024, 48000) if suffix == "mkv" else 0  # Matroska has no word for AAC's last frame
    assert abs(AudioFile(path).seconds - 6 / fps) <= Fraction(1, 1000) + padding


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44056, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 3, 6, 9])
def test_any_sound_is_written_in_place(tmp_path, rate, channels):
    times = (0.1, 0.5, 0.9)
    path = write(
        tmp_path / "a.mp4",
        [gray(9)] * 25,
        audio=clicks(rate, 1, times, channels),
        encoding=Encoding(preset="ultrafast"),
    )
    source = AudioFile(path)
    assert source.channels == (2 if 2 <= channels <= 8 else 1)
    assert abs(source.seconds - 1) < Fraction(1, 1000)
    assert max(map(abs, late_clicks(path, times))) <= 0.005


def test_sound_survives_and_bad_samples_do_no_harm(tmp_path):
    rate = 44100
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate, dtype=np.float32)
    stereo = np.stack([wave, -wave])
    sound = AudioArray(stereo, rate)
    path = write(tmp_path / "sine.mp4", [gray(9)] * 25, audio=sound)
    back = np.concatenate(list(AudioFile(path).blocks()), 1)
    assert np.abs(back - stereo)[:, 2000:-2000].max() < 0.02
    loud = stereo * 9
    loud[0, 5000:5010] = np.nan
    assert AudioFile(write(tmp_path / "loud.mp4", [gray(9)] * 25, audio=AudioArray(loud, rate))).samples == rate


def test_audio_seconds_cuts_and_short_sound_ends_early(tmp_path):
    frames = [gray(9)] * 10
    cut = write(tmp_path / "cut.mp4", frames, audio=clicks(48000, 5, []), audio_seconds=Fraction(10, 25))
    assert AudioFile(cut).samples == 48000 * 10 // 25
    short = write(tmp_path / "short.mp4", frames, audio=clicks(48000, 0.1, []), audio_seconds=Fraction(10, 25))
    assert AudioFile(short).samples == 4800
    whole = write(tmp_path / "whole.mp4", frames, audio=clicks(48000, 5, []))
    assert AudioFile(whole).samples == 48000 * 5


def test_sound_and_pictures_are_interleaved(tmp_path):
    rng = np.random.default_rng(0)
    frames = [torch.from_numpy(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(250)]
    audio = AudioArray(rng.normal(0, 0.1, (1, 480000)).astype(np.float32), 48000)
    path = write(tmp_path / "a.mp4", frames, audio=audio, encoding=Encoding(preset="ultrafast"))
    with av.open(str(path)) as container:
        times = {"video": 0.0, "audio": 0.0}
        for packet in container.demux():
            if packet.size:
                times[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(times["video"] - times["audio"]) < 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_float_and_uint8_frames_give_equal_files(tmp_path, dtype):
    frames = [torch.arange(3 * 48 * 64).reshape(48, 64, 3).add(i * 7).remainder(256).byte() for i in range(5)]
    floats = [(frame.to(torch.float64) / 255).to(dtype) for frame in frames]
    copies = [frame.clone() for frame in floats]
    first, second = write(tmp_path / "a.mp4", frames), write(tmp_path / "b.mp4", floats)
    assert first.read_bytes() == second.read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(floats, copies, strict=True))


def test_nan_and_out_of_range_floats(tmp_path):
    frames = [torch.full((16, 16, 3), value) for value in (float("nan"), -3.0, 7.0, float("inf"))]
    levels = [int(frame[8, 8, 0]) for frame in VideoReader(write(tmp_path / "a.mp4", frames)).read(range(4))]
    assert np.abs(np.array(levels) - [0, 0, 255, 255]).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (63, 64), (64, 63), (65, 33)])
def test_odd_sizes_get_one_copied_edge(tmp_path, size):
    height, width = size
    ramp = torch.arange(height)[:, None] * 2 + torch.arange(width)
    frame = ramp[..., None].expand(height, width, 3).byte()
    reader = VideoReader(write(tmp_path / "odd.mp4", [frame] * 3, encoding=Encoding(crf=1)))
    assert reader.size == (height + height % 2, width + width % 2)
    padded = np.pad(frame.numpy(), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    for read in reader.read(range(3)):
        assert np.abs(read.numpy().astype(int) - padded).max() <= 4


@pytest.mark.parametrize("size, tag, weights", [((720, 64), 1, (0.2126, 0.0722)), ((718, 64), 6, (0.299, 0.114))])
def test_colours_are_converted_as_tagged(tmp_path, size, tag, weights):
    """The luma and chroma of saturated colours by the published BT.709 and BT.601 weights, limited range."""
    kr, kb = weights
    for red, green, blue in [(200, 60, 30), (20, 180, 40), (30, 40, 220), (128, 128, 128)]:
        frame = torch.tensor([red, green, blue], dtype=torch.uint8).expand(*size, 3)
        path = write(tmp_path / "c.mp4", [frame], encoding=Encoding(crf=1), overwrite=True)
        with av.open(str(path)) as container:
            picture = next(container.decode(video=0))
        assert picture.format.name == "yuv420p"
        assert (picture.colorspace, picture.color_primaries, picture.color_trc) == (tag, tag, tag)
        assert picture.color_range == 1
        y = kr * red + (1 - kr - kb) * green + kb * blue
        expected = [y * 219, 224 * (blue - y) / (2 - 2 * kb), 224 * (red - y) / (2 - 2 * kr)]
        planes = [np.frombuffer(plane, np.uint8)[0] for plane in picture.planes]
        assert np.abs(np.array(planes) - np.array(expected) / 255 - [16, 128, 128]).max() <= 1.5
        (read,) = VideoReader(path).read([0])
        assert np.abs(read[9, 9].numpy().astype(int) - [red, green, blue]).max() <= 3


PIXEL_FORMATS = {
    "yuv420p": (8, 2, 2),
    "yuv422p": (8, 1, 2),
    "yuv444p": (8, 1, 1),
    "yuv420p10le": (10, 2, 2),
    "yuv422p10le": (10, 1, 2),
    "yuv444p10le": (10, 1, 1),
}


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("crf", [1, 18])
def test_pixel_formats_are_really_written(tmp_path, name, crf):
    """Planes of a picture red above and blue below, by BT.601's weights in limited range of 8 or 10 bits."""
    bits, rows, columns = PIXEL_FORMATS[name]
    frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
    frame[:32, :, 0] = frame[32:, :, 2] = 200
    path = write(tmp_path / "p.mp4", [frame] * 3, encoding=Encoding(crf=crf, pixel_format=name))
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        pictures = list(container.decode(video=0))
    assert [picture.format.name for picture in pictures] == [name] * 3
    for (red, blue), top in (((200, 0), True), ((0, 200), False)):
        y = 0.299 * red + 0.114 * blue
        expected = [16 + y * 219 / 255, *(128 + c * 224 / 255 for c in ((blue - y) / 1.772, (red - y) / 1.402))]
        for plane, value, step in zip(
            pictures[-1].planes, expected, [(1, 1), (rows, columns), (rows, columns)], strict=True
        ):
            assert (plane.height, plane.width) == (64 // step[0], 64 // step[1])
            samples = np.frombuffer(plane, np.uint16 if bits > 8 else np.uint8).reshape(plane.height, -1)
            middle = samples[plane.height // (4 if top else 1) - 2 * (not top), plane.width // 2]
            assert abs(middle / 2 ** (bits - 8) - value) <= 1.5
    reader = VideoReader(path)
    (read,) = reader.read([1])
    assert np.abs(read[8, 8].numpy().astype(int) - [200, 0, 0]).max() <= 4
    assert np.abs(read[56, 56].numpy().astype(int) - [0, 0, 200]).max() <= 4


def test_ten_bits_and_full_colour_keep_more_of_a_picture(tmp_path):
    """At the same crf: a smooth ramp of colours comes back nearer from 10 bits, single coloured columns from 4:4:4."""
    x = torch.arange(128)
    ramp = torch.stack([x * 2, 255 - x * 2, x], -1).expand(64, 128, 3).byte()
    columns = torch.where((x % 2 == 0)[:, None], torch.tensor([200, 40, 40]), torch.tensor([40, 40, 200]))
    columns = columns.expand(64, 128, 3).byte()

    def lost(frame, name):
        path = write(tmp_path / "l.mp4", [frame] * 3, encoding=Encoding(crf=1, pixel_format=name), overwrite=True)
        (read,) = VideoReader(path).read([1])
        return float((read.float() - frame.float()).abs().mean())

    assert lost(ramp, "yuv444p10le") < lost(ramp, "yuv444p")
    assert lost(columns, "yuv444p") < 0.2 * lost(columns, "yuv420p")


def test_settings_reach_the_encoder_and_metadata_the_file(tmp_path):
    rng = np.random.default_rng(0)
    frames = [torch.from_numpy(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(10)]
    metadata = {"comment": "synthetic", "musetalk": '{"seed": 1, "ü": "x y"}'}
    fine = write(tmp_path / "fine.mp4", frames, encoding=Encoding(crf=10), metadata=metadata)
    rough = write(tmp_path / "rough.mp4", frames, encoding=Encoding(crf=40))
    assert fine.stat().st_size > 2 * rough.stat().st_size
    assert b"crf=10.0" in fine.read_bytes()
    with av.open(str(fine)) as container:
        assert {key: container.metadata[key] for key in metadata} == metadata
        video = container.streams.video[0].codec_context
        assert (video.name, video.pix_fmt) == ("h264", "yuv420p")
    with av.open(str(write(tmp_path / "a.mkv", frames[:2], metadata={"comment": "synthetic"}))) as container:
        assert container.metadata["COMMENT"] == "synthetic"


def test_existing_files_are_kept_unless_told(tmp_path):
    path = tmp_path / "kept.mp4"
    path.write_bytes(b"mine")
    with pytest.raises(MuseTalkError, match=r"kept\.mp4 exists already"):
        VideoWriter(path, Fraction(25), (64, 64))
    assert path.read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RuntimeError), VideoWriter(path, Fraction(25), (64, 64), overwrite=True) as writer:
        writer.write(gray(1))
        raise RuntimeError
    assert path.read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1
    assert len(VideoReader(write(path, [gray(1)] * 3, overwrite=True))) == 3


def test_a_file_that_appears_while_writing_is_kept(tmp_path):
    path = tmp_path / "late.mp4"
    with pytest.raises(MuseTalkError, match="exists already"), VideoWriter(path, Fraction(25), (64, 64)) as writer:
        writer.write(gray(1))
        path.write_bytes(b"mine")
    assert path.read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


class BrokenSound(AudioArray):
    """Sound whose file goes bad after the first block."""

    def blocks(self):
        yield next(super().blocks())
        raise MuseTalkError("the sound broke off")


def test_no_failure_leaves_a_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", Fraction(25), (64, 64)) as writer:
        for _ in range(60):
            writer.write(gray(1))
        raise KeyboardInterrupt
    with pytest.raises(MuseTalkError, match="0 frames"), VideoWriter(tmp_path / "a.mp4", Fraction(25), (64, 64)):
        pass
    with pytest.raises(MuseTalkError, match=r"\(64, 32, 3\)"):
        write(tmp_path / "a.mp4", [gray(1), gray(1, 64, 32)])
    sound = BrokenSound(np.zeros((1, 200_000), np.float32), 16000)
    with pytest.raises(MuseTalkError, match="broke off"):
        write(tmp_path / "a.mp4", [gray(1)] * 200, audio=sound)
    with pytest.raises(MuseTalkError, match="broke off"):
        write(tmp_path / "a.mp4", [gray(1)], audio=sound)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(MuseTalkError, match="no folder"):
        VideoWriter(tmp_path / "absent" / "a.mp4", Fraction(25), (64, 64))
    with pytest.raises(MuseTalkError, match=r"a\.xyz"):
        VideoWriter(tmp_path / "a.xyz", Fraction(25), (64, 64))
    with pytest.raises(MuseTalkError, match=r"a\.mp4 cannot be written"):
        VideoWriter(Path("/proc/self/a.mp4"), Fraction(25), (64, 64))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path):
    """A limit on file size stands for the full disk: the kernel refuses the write in the same way."""
    program = """
import resource, signal, sys, numpy as np, torch
from fractions import Fraction
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.video_writer import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
try:
    with VideoWriter(sys.argv[1], Fraction(25), (128, 128), encoding=Encoding(crf=1)) as writer:
        for i in range(100):
            writer.write(noise.roll(i, 0))
except MuseTalkError as error:
    print(error)
"""
    path = tmp_path / "full.mp4"
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=600)
    assert "full.mp4 cannot be written" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_final_file(tmp_path):
    program = """
import sys, torch
from fractions import Fraction
from musetalk_core.media.video_writer import VideoWriter
with VideoWriter(sys.argv[1], Fraction(25), (64, 64)) as writer:
    for i in range(10**9):
        writer.write(torch.full((64, 64, 3), i % 256, dtype=torch.uint8))
        if i == 200:
            print("running", flush=True)
"""
    path = tmp_path / "killed.mp4"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "running\n"
    time.sleep(0.2)
    process.kill()
    process.wait(timeout=600)
    process.stdout.close()
    assert not path.exists()
    assert all(file.name.startswith(".") and ".part" in file.name for file in tmp_path.iterdir())


def test_memory_does_not_grow_with_length(tmp_path):
    """1000 and 5000 frames with sound: the peak of the second run may not be much above the first's."""
    program = """
import resource, sys, numpy as np, torch
from fractions import Fraction
from musetalk_core.media.audio import AudioArray
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.video_writer import VideoWriter
peaks = []
for count in (1000, 5000):
    audio = AudioArray(np.zeros((1, 320 * count), np.float32), 8000)
    encoding = Encoding(preset="ultrafast")
    with VideoWriter(sys.argv[1], Fraction(25), (64, 64), audio, encoding=encoding, overwrite=True) as writer:
        frame = torch.zeros((64, 64, 3), dtype=torch.uint8)
        for i in range(count):
            writer.write(frame)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""
    path = tmp_path / "long.mp4"
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=600)
    first, second = map(int, run.stdout.split())
    assert second - first < 24, (first, second)
