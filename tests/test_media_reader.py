"""Frames out of videos, images and tensors, against pictures whose number is painted into them."""

import os
import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from musetalk_core.errors import MuseTalkError
from musetalk_core.media.images import ImageFolder, StillImage
from musetalk_core.media.source import TensorFrames, open_source
from musetalk_core.media.video_reader import VideoReader

torch.set_num_threads(1)


def numbered(i, height=64, width=64):
    """A picture whose 4x4 blocks spell i in binary, black and white."""
    bits = np.array([(i >> b) & 1 for b in range(16)], np.uint8).reshape(4, 4)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return np.repeat(bits[rows][:, columns, None] * 255, 3, axis=2)


def number(frame):
    """What `numbered` painted, from the centres of the blocks."""
    height, width = frame.shape[:2]
    centres = (np.arange(4) * 2 + 1) / 8
    blocks = frame.numpy()[(centres * height).astype(int)][:, (centres * width).astype(int), 1]
    return sum(int(bit) << b for b, bit in enumerate(blocks.reshape(-1) > 127))


def write_video(
    path, count, rate=25, codec="libx264", pix_fmt="yuv420p", stamps=None, tick=None, size=(64, 64), options=None,
    prepare=None, picture=numbered, container_options=None,
):  # fmt: skip
    rate = Fraction(rate)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if tick:
            stream.time_base = stream.codec_context.time_base = tick
        if prepare:
            prepare(stream)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), "rgb24")
            frame.pts, frame.time_base = (stamps[i] if stamps else i), tick or 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(reader, indices):
    return [number(frame) for frame in reader.read(indices)]


FORMATS = [
    ("a clip, with spaces é.mp4", "libx264", "yuv420p", 25, {"g": "12", "bf": "3"}),
    ("b.mkv", "libx264", "yuv420p", Fraction(30000, 1001), {"g": "12", "bf": "2"}),
    ("c.mov", "prores_ks", "yuv422p10le", 24, {}),
    ("d.webm", "libvpx-vp9", "yuv420p", Fraction(24000, 1001), {"deadline": "realtime", "cpu-used": "8", "g": "10"}),
    ("e.webm", "libvpx", "yuv420p", 30, {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4", "g": "10"}),
    ("f.gif", "gif", "rgb8", 15, {}),
    ("g.avi", "mpeg4", "yuv420p", 12, {"bf": "2", "g": "10"}),
    ("h.ts", "libx264", "yuv420p", 50, {"g": "10"}),
    ("i.mp4", "libx264", "yuv420p", Fraction(120), {"g": "10", "x264-params": "open-gop=1"}),
    ("j.mkv", "ffv1", "gray", 25, {}),
]


@pytest.mark.parametrize("name, codec, pix_fmt, rate, options", FORMATS, ids=[row[0][-5:] for row in FORMATS])
def test_containers_give_every_frame_in_any_order(tmp_path, name, codec, pix_fmt, rate, options):
    path = write_video(tmp_path / name, 45, rate, codec, pix_fmt, options=options)
    with VideoReader(path) as reader:
        assert (len(reader), reader.fps, reader.size) == (45, Fraction(rate), (64, 64))
        assert numbers(reader, range(45)) == list(range(45))
        assert numbers(reader, range(44, -1, -1)) == list(range(44, -1, -1))
        order = random.Random(0).choices(range(45), k=40)
        assert numbers(reader, order) == order


LONG_GROUPS = {"g": "250", "keyint_min": "250", "sc_threshold": "0"}


def picture_bytes(path):
    """Bytes of one decoded picture."""
    with av.open(str(path)) as container:
        return sum(plane.buffer_size for plane in next(container.decode(video=0)).planes)


def test_ping_pong_over_long_groups_is_right_in_bounded_memory(tmp_path):
    path = write_video(tmp_path / "long.mp4", 300, options=LONG_GROUPS)
    with VideoReader(path) as forward, VideoReader(path, 16 * picture_bytes(path)) as reader:
        expected = [frame.clone() for frame in forward.read(range(300))]
        assert forward.held_frames <= 2
        most = 0
        order = [*range(300), *range(299, -1, -1)] * 2
        for i, frame in zip(order, reader.read(order), strict=True):
            assert torch.equal(frame, expected[i])
            most = max(most, reader.held_frames)
        assert 2 < most <= 4 * 16
        assert [number(frame) for frame in expected] == list(range(300))


# Two groups of 250. All held: each once. A third, 84, held: 250 + 166 + 82. At most 4 * 10 held: 250 + 210 + ... + 10.
@pytest.mark.parametrize("fit, held, decoded", [(250, 250, 250), (84, 84, 498), (21, 84, 498), (10, 40, 910)])
def test_reading_backward_decodes_each_picture_a_bounded_number_of_times(tmp_path, fit, held, decoded):
    path = write_video(tmp_path / "long.mp4", 500, options=LONG_GROUPS)
    with VideoReader(path, fit * picture_bytes(path)) as reader:
        assert numbers(reader, range(500)) == list(range(500))
        assert reader.decoded <= 502  # the first picture also tells the size
        before, most = reader.decoded, 0
        for i, frame in zip(range(499, -1, -1), reader.read(range(499, -1, -1)), strict=True):
            assert number(frame) == i
            most = max(most, reader.held_frames)
        assert most <= held
        assert reader.decoded - before <= 2 * decoded


def test_read_is_lazy_and_checks_its_indices(tmp_path):
    reader = VideoReader(write_video(tmp_path / "a.mp4", 5))
    frames = reader.read(iter([4, 5]))
    assert number(next(frames)) == 4
    with pytest.raises(IndexError):
        next(frames)


def shown_by_formula(stamps, tick, fps):
    """Frame i is the last coded picture with stamp <= i / fps."""
    return [max(k for k, s in enumerate(stamps) if s * tick <= i / fps) for i in range(len(stamps))]


@pytest.mark.parametrize("name, tick", [("v.mp4", Fraction(1, 90000)), ("v.mkv", Fraction(1, 1000))])
def test_variable_rate_is_laid_on_the_average_rate(tmp_path, name, tick):
    unit = int(Fraction(1, 100) / tick)
    steps = random.Random(3).choices([1, 3, 4, 7, 20], k=39)
    stamps = [unit * sum(steps[:i]) for i in range(40)]
    path = write_video(tmp_path / name, 40, 100, stamps=stamps, tick=tick, options={"g": "12"})
    reader = VideoReader(path)
    assert len(reader) == 40
    span = stamps[-1] * tick
    assert 39 / (span + Fraction(1, 4)) < reader.fps <= 40 / span
    expected = shown_by_formula(stamps, tick, reader.fps)
    assert len(set(expected)) < 40
    assert numbers(reader, range(40)) == expected
    assert numbers(reader, reversed(range(40))) == expected[::-1]


@pytest.mark.parametrize("degrees, turns", [(90, 1), (180, 2), (-90, 3), (270, 3), (0, 0)])
def test_rotation_is_applied(tmp_path, degrees, turns):
    size = (48, 64)
    plain = VideoReader(write_video(tmp_path / "plain.mp4", 3, size=size))
    path = write_video(tmp_path / "t.mp4", 3, size=size, prepare=lambda stream: stream.set_display_rotation(degrees))
    reader = VideoReader(path)
    assert reader.size == ((64, 48) if turns % 2 else size)
    for before, after in zip(plain.read(range(3)), reader.read(range(3)), strict=True):
        assert np.array_equal(np.rot90(before.numpy(), turns), after.numpy())


def test_mirroring_is_applied(tmp_path):
    one, last = 1 << 16, 1 << 30
    matrix = [-one, 0, 0, 0, one, 0, 0, 0, last]
    path = write_video(tmp_path / "m.mp4", 2, prepare=lambda stream: stream.set_display_matrix(matrix))
    plain = VideoReader(write_video(tmp_path / "plain.mp4", 2))
    for before, after in zip(plain.read(range(2)), VideoReader(path).read(range(2)), strict=True):
        assert np.array_equal(before.numpy()[:, ::-1], after.numpy())


def test_oblong_pixels_become_square(tmp_path):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    reader = VideoReader(write_video(tmp_path / "dv.mp4", 4, prepare=prepare))
    assert reader.size == (64, 128)
    assert numbers(reader, range(4)) == list(range(4))


def test_odd_sizes(tmp_path):
    path = write_video(tmp_path / "odd.mkv", 6, codec="ffv1", pix_fmt="bgr0", size=(47, 63))
    reader = VideoReader(path)
    assert reader.size == (47, 63)
    for i, frame in enumerate(reader.read(range(6))):
        assert np.array_equal(frame.numpy(), numbered(i, 47, 63))


def test_colour_tags_are_followed(tmp_path):
    """BT.709 and BT.601 luma of one RGB colour, by their published weights, limited (1) and full (2) range."""
    colour = np.array([200, 60, 30])

    def picture(i, height, width):
        return np.full((height, width, 3), colour, np.uint8)

    cases = [(1, 1, 0.2126, 0.0722), (6, 1, 0.299, 0.114), (2, 0, 0.299, 0.114), (1, 2, 0.2126, 0.0722)]
    for tag, color_range, kr, kb in [*cases, (6, 2, 0.299, 0.114)]:
        y = kr * 200 + (1 - kr - kb) * 60 + kb * 30
        cb, cr = (30 - y) / (2 - 2 * kb), (200 - y) / (2 - 2 * kr)
        planes = [16 + y * 219 / 255, 128 + cb * 224 / 255, 128 + cr * 224 / 255]
        if color_range == 2:
            planes = [y, 128 + cb, 128 + cr]
        path = tmp_path / f"{tag} {color_range}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = tag, color_range
            yuv = np.stack([np.full((32, 32), round(value), np.uint8) for value in planes])
            frame = av.VideoFrame.from_ndarray(yuv, "yuv444p")
            frame.colorspace, frame.color_range = tag, color_range
            container.mux([*stream.encode(frame), *stream.encode(None)])
        (read,) = VideoReader(path).read([0])
        assert np.abs(read.numpy().astype(int) - colour).max() <= 2


def damage(path, ordinal):
    """Zero the data of the coded picture `ordinal`."""
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][ordinal]
    with open(path, "r+b") as file:
        file.seek(packet.pos + 8)
        file.write(bytes(packet.size - 8))


def test_a_bad_picture_is_replaced_by_the_one_before(tmp_path, caplog):
    path = write_video(tmp_path / "bad.mov", 20, codec="png", pix_fmt="rgb24")
    damage(path, 7)
    expected = [6 if i == 7 else i for i in range(20)]
    reader = VideoReader(path)
    assert numbers(reader, range(20)) == expected
    assert numbers(reader, reversed(range(20))) == expected[::-1]
    assert "picture 7" in caplog.text and "bad.mov" in caplog.text


def test_a_bad_first_picture_is_replaced_by_the_next(tmp_path):
    path = write_video(tmp_path / "bad.mov", 5, codec="png", pix_fmt="rgb24")
    damage(path, 0)
    assert numbers(VideoReader(path), range(5)) == [1, 1, 2, 3, 4]


def refused(path, *words):
    with pytest.raises(MuseTalkError) as caught:
        open_source(path)
    text = str(caught.value)
    assert path.name in text and "\n" not in text
    for word in words:
        assert word in text


def noise(i, height, width):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name, first", [("t.mp4", {"movflags": "faststart"}), ("u.mp4", {}), ("t.mkv", {})])
def test_truncated_files_are_refused_by_name(tmp_path, name, first):
    path = write_video(tmp_path / name, 75, picture=noise, container_options=first)
    VideoReader(path).close()
    data = path.read_bytes()
    for share in (0.01, 0.3, 0.6):
        path.write_bytes(data[: int(len(data) * share)])
        refused(path)


def test_other_bad_input_is_refused_by_name(tmp_path):
    refused(tmp_path / "absent.mp4", "no file")
    for name, content in [("empty.mp4", b""), ("text.mp4", b"hello\n" * 99), ("text.txt", b"hello\n" * 99)]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    (tmp_path / "random.mp4").write_bytes(random.Random(0).randbytes(9999))
    refused(tmp_path / "random.mp4")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")
    refused(tmp_path / "list.mp4")
    (tmp_path / "pictures").mkdir()
    refused(tmp_path / "pictures", "no images")
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        container.start_encoding()
    refused(tmp_path / "none.mp4")


def test_audio_and_its_cover_are_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered(5), "rgb24").reformat(format="yuvj420p")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 16000, 0
        container.mux([*sound.encode(silence), *sound.encode(None)])
    refused(path, "no video track")


def test_still_images_of_every_depth(tmp_path):
    rng = np.random.default_rng(0)
    gray16 = rng.integers(0, 65536, (5, 7)).astype(np.uint16)
    gray8, rgba = rng.integers(0, 256, (5, 7), np.uint8), rng.integers(0, 256, (5, 7, 4), np.uint8)
    Image.fromarray(gray16).save(tmp_path / "16.png")
    Image.fromarray(gray16).save(tmp_path / "16.tiff")
    Image.fromarray(gray8).save(tmp_path / "8.png")
    Image.fromarray(rgba).save(tmp_path / "alpha image.png")
    Image.fromarray(gray8 > 127).save(tmp_path / "1.png")
    Image.fromarray(rgba[..., :3]).convert("P").convert("RGB").save(tmp_path / "p.bmp")
    scaled = np.floor(gray16 / 257 + 0.5).astype(np.uint8)
    expected = {"16.png": scaled, "16.tiff": scaled, "8.png": gray8, "1.png": np.where(gray8 > 127, 255, 0)}
    for name, gray in expected.items():
        source = open_source(tmp_path / name)
        assert (len(source), source.size, source.fps) == (1, (5, 7), 25)
        (frame,) = source.read([0])
        assert frame.dtype == torch.uint8
        assert np.array_equal(frame.numpy(), np.repeat(gray[..., None], 3, 2)), name
    (frame,) = StillImage(tmp_path / "alpha image.png", Fraction(30)).read([0])
    assert np.array_equal(frame.numpy(), rgba[..., :3])


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # "the 0th row is the right side": turn a quarter clockwise to see it upright
    picture = numbered(300, 40, 64)
    Image.fromarray(picture).save(tmp_path / "phone.png", exif=exif)
    (tmp_path / "f").mkdir()
    Image.fromarray(picture).save(tmp_path / "f" / "1.png", exif=exif)
    for source in (open_source(tmp_path / "phone.png"), open_source(tmp_path / "f")):
        assert source.size == (64, 40)
        (frame,) = source.read([0])
        assert np.array_equal(frame.numpy(), np.rot90(picture, -1))


def test_folder_in_natural_order(tmp_path):
    names = ["1.png", "2.png", "10.png", "a2.png", "a10.png", "frame.png"]
    for i, name in enumerate(names):
        Image.fromarray(numbered(i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    source = open_source(tmp_path, Fraction(24))
    assert (len(source), source.fps, source.size) == (6, 24, (64, 64))
    assert numbers(source, [0, 1, 2, 3, 4, 5, 5, 0]) == [0, 1, 2, 3, 4, 5, 5, 0]


def test_folder_with_two_sizes_or_a_broken_image(tmp_path):
    Image.fromarray(numbered(0)).save(tmp_path / "1.png")
    Image.fromarray(numbered(1, 32, 48)).save(tmp_path / "2.png")
    with pytest.raises(MuseTalkError, match=r"2\.png is 48x32 and 1\.png is 64x64"):
        open_source(tmp_path)
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[: len(data) - 30])
    with pytest.raises(MuseTalkError, match=r"2\.png cannot be read"):
        list(ImageFolder(tmp_path, Fraction(25)).read(range(2)))
    (tmp_path / "3.png").write_bytes(b"no image")
    refused(tmp_path / "3.png")
    (tmp_path / "4.jpg").write_bytes(b"")
    refused(tmp_path / "4.jpg")


def test_tensor_frames():
    frames = torch.rand(4, 6, 5, 4, dtype=torch.float16)
    source = TensorFrames(frames, Fraction(30))
    assert (len(source), source.size, source.fps) == (4, (6, 5), 30)
    read = list(source.read([3, 0]))
    assert torch.equal(read[0], frames[3, ..., :3]) and torch.equal(read[1], frames[0, ..., :3])
    for shape in [(0, 6, 5, 3), (4, 6, 5, 2), (6, 5, 3)]:
        with pytest.raises(MuseTalkError):
            TensorFrames(torch.zeros(shape), Fraction(30))
    with pytest.raises(IndexError):
        list(source.read([-1]))


def test_what_a_file_says_about_its_film_is_read_and_its_making_is_not(tmp_path):
    said = {"title": "Täter", "artist": "N. N.", "comment": "take 3", "mood": "calm"}
    made = {"workflow": "{}", "prompt": "{}", "creation_time": "2020-01-02T03:04:05Z"}
    for name in ("a.mp4", "a.mkv"):
        path = tmp_path / name
        with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if name == "a.mp4" else {}) as container:
            container.metadata.update({**said, **made})
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = 64
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(numbered(1), "rgb24")), *stream.encode(None)])
        assert {key.lower(): value for key, value in VideoReader(path).tags.items()} == said
    assert TensorFrames(torch.zeros(1, 2, 2, 3), Fraction(25)).tags == {}


def test_a_closed_reader_releases_its_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", 3)
    with VideoReader(path) as reader:
        list(reader.read(range(3)))
    open_files = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert str(path) not in open_files
