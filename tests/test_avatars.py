"""Prepared avatars: what they hold, that they speak like the whole chain, and that none is ever lost."""

import ctypes
import os
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
from avatar_clips import SETTINGS, demo_engine, frames, prepared

from musetalk_core.avatars.actions import Action, action_path, add_action, load_actions, save_actions
from musetalk_core.avatars.files import avatar_folder, check_avatar, list_avatars, load_avatar
from musetalk_core.avatars.info import SPEAKING, preparing
from musetalk_core.avatars.prepare import Order, ready_avatar, renew_avatar
from musetalk_core.avatars.speaking import AvatarVideo
from musetalk_core.avatars.timing import Timing
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioFile
from musetalk_core.media.source import TensorFrames, open_source
from musetalk_core.pipeline import lip_sync
from musetalk_core.report import Report
from musetalk_core.tasks import stream_tokens, whole_track

ROOT = Path(__file__).parents[1]
DATA = ("track.json", "latents.safetensors", "frames.mkv")


@pytest.fixture(scope="module")
def engine():
    return demo_engine()


@pytest.fixture(scope="module")
def made(engine, tmp_path_factory):
    """An avatar of a video of twelve frames; its folder, and the video."""
    folder = tmp_path_factory.mktemp("made")
    video = clips.write_video(folder / "portrait.mp4", clips.moving_portrait(12), Fraction(25))
    prepared(engine, folder / "avatars" / "anna", open_source(video))
    return folder / "avatars" / "anna", video


@pytest.fixture
def copy(made, tmp_path):
    """The avatar again, to be damaged."""
    import shutil

    return Path(shutil.copytree(made[0], tmp_path / "anna"))


def said(avatar, engine, sound: Path, settings=SETTINGS) -> list[torch.Tensor]:
    parts = engine.audio_encoder, engine.generator, engine.codec
    video = AvatarVideo(avatar, AudioFile(sound), None, *parts, settings, engine.version)
    return list(video.frames(Report()))


def pixels(source) -> np.ndarray:
    return np.stack([frame.numpy() for frame in source.read(range(len(source)))])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bbox_shift": 7, "smoothing": 2.0, "upright": True, "colour_match": 1.0, "silence": "close", "batch_size": 5},
    ],
)
def test_an_avatar_says_what_the_whole_chain_says_bit_for_bit(engine, made, tmp_path, changes):
    settings = SETTINGS.changed("test", changes)
    source = open_source(made[1])
    sound = clips.write_audio(tmp_path / "voice.wav", 1.2)
    avatar = prepared(engine, tmp_path / "anna", source, settings)
    audio = AudioFile(sound)
    models = engine.models(settings)
    tokens = stream_tokens(engine.audio_encoder, audio, Fraction(25), settings)
    track = whole_track(source, models.locator, settings)
    whole = list(lip_sync(source, tokens, 30, models, settings, track=track))
    mine = said(avatar, engine, sound, settings)
    assert len(mine) == len(whole) == 30
    assert all(torch.equal(a, b) for a, b in zip(mine, whole, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(mine, source.read([0] * 30), strict=True))


def test_frames_come_back_bit_for_bit_also_of_odd_sizes_and_noise(engine, tmp_path):
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.integers(0, 256, (30, 63, 101, 3), dtype=np.uint8))
    settings = replace(SETTINGS, allow_no_face=True)
    avatar = prepared(engine, tmp_path / "noise", TensorFrames(noise, Fraction(25)), settings)
    assert (pixels(avatar.frames) == noise.numpy()).all()
    backward = [frame.numpy() for frame in avatar.frames.read(range(29, -1, -1))]
    assert (np.stack(backward) == noise.numpy()[::-1]).all()
    held = load_avatar(tmp_path / "noise", in_memory=True)
    assert isinstance(held.frames, TensorFrames) and held.frames.frames.dtype == torch.uint8
    assert (held.frames.frames.numpy() == noise.numpy()).all()


def test_reloading_gives_the_same_bits(engine, made):
    source = open_source(made[1])
    avatar, reason = ready_avatar("anna", Order(source, SETTINGS, "demo"), lambda: pytest.fail("prepared"), made[0])
    assert reason == ""
    again = load_avatar(made[0])
    assert avatar.version == "demo" and avatar.settings == SETTINGS and avatar.name == "anna"
    assert torch.equal(avatar.masked, again.masked) and torch.equal(avatar.reference, again.reference)
    assert all((a == b).all() for a, b in zip(avatar.masks, again.masks, strict=True))
    assert (avatar.track.boxes == again.track.boxes).all() and avatar.frames.size == (256, 256)
    assert (pixels(avatar.frames) == pixels(source)).all()


def test_every_frame_is_stored_once(made):
    import av

    assert sorted(file.name for file in made[0].iterdir()) == sorted(["avatar.json", *DATA])
    with av.open(str(made[0] / "frames.mkv")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 12


# By hand: frame i is at i/fps; it shows the source frame floor(i * source_fps / fps).
@pytest.mark.parametrize(
    ("count", "source_fps", "shown", "stored"),
    [
        (5, Fraction(25), [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (6, Fraction(30), [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (4, Fraction(50), [0, 2], [0, 2]),
        (3, Fraction(10), [0, 0, 0, 1, 1, 2, 2], [0, 1, 2]),
        (1, Fraction(60), [0], [0]),
    ],
)
def test_any_rate_becomes_25_and_frames_are_stored_once(count, source_fps, shown, stored):
    timing = Timing(count, source_fps, Fraction(25))
    assert timing.shown() == shown and timing.stored() == stored
    assert [timing.stored()[place] for place in timing.places()] == shown


def test_a_slow_source_is_resampled_and_keeps_its_faces_in_place(engine, tmp_path):
    source = frames(3, fps=Fraction(10))
    shown = [0, 0, 0, 1, 1, 2, 2]
    for avatar in (prepared(engine, tmp_path / "slow", source), load_avatar(tmp_path / "slow", in_memory=True)):
        assert len(avatar) == len(avatar.frames) == 7 and avatar.frames.fps == 25
        assert (pixels(avatar.frames) == source.frames.numpy()[shown]).all()
        assert [avatar.track.boxes[i].tolist() for i in (0, 3, 5)] != [avatar.track.boxes[0].tolist()] * 3
        assert torch.equal(avatar.masked[1], avatar.masked[2]) and not torch.equal(avatar.masked[2], avatar.masked[3])
        assert avatar.prepared(4).mask is not None and (avatar.prepared(4).box == avatar.track.boxes[3]).all()
    kept = prepared(engine, tmp_path / "own rate", source, fps=None)
    assert len(kept) == 3 and kept.frames.fps == 10
    with pytest.raises(MuseTalkError, match="has 10 frames/s and real time needs 25"):
        load_avatar(tmp_path / "own rate", in_memory=True)


def test_one_picture_is_an_avatar(engine, tmp_path):
    avatar = prepared(engine, tmp_path / "still", frames(1))
    result = said(avatar, engine, clips.write_audio(tmp_path / "voice.wav", 0.4))
    assert len(avatar) == 1 and len(result) == 10


def test_frames_without_a_face_are_kept_as_they_are(engine, tmp_path):
    pictures = clips.moving_portrait(6)
    pictures[2:4] = clips.faceless(2, 256)
    avatar = prepared(engine, tmp_path / "cutaway", TensorFrames(torch.from_numpy(pictures), Fraction(25)))
    assert avatar.track.present.tolist() == [True, True, False, False, True, True]
    assert avatar.text().startswith("6 frames, 4 with a face\n") and ": 2 (2-3)" in avatar.text()
    assert avatar.prepared(2).reason and avatar.prepared(2).box is None and not avatar.masked[2].any()
    result = said(avatar, engine, clips.write_audio(tmp_path / "voice.wav", 0.24))
    changed = [not (frame.numpy() == picture).all() for frame, picture in zip(result, pictures, strict=True)]
    assert changed == [True, True, False, False, True, True]


def test_a_source_without_any_face_is_refused_and_leaves_nothing(engine, tmp_path):
    source = TensorFrames(torch.from_numpy(clips.faceless(3, 256)), Fraction(25))
    with pytest.raises(MuseTalkError, match="No face was found in any of the 3 frames"):
        prepared(engine, tmp_path / "nobody", source)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox_shift": 7}, "bbox_shift is 7, it was prepared with 0"),
        ({"blur": 0.1}, "blur is 0.1, it was prepared with 0.05"),
        ({"smoothing": 1.0}, "smoothing is 1.0, it was prepared with 0.0"),
        ({"mode": "loop", "silence": "close", "batch_size": 2, "audio_padding_left": 1}, ""),
    ],
)
def test_changed_settings_ask_for_preparation_only_where_it_depends_on_them(made, changes, reason):
    assert check_avatar(made[0], settings=SETTINGS.changed("test", changes)) == reason


def test_every_setting_counts_for_preparing_or_for_speaking():
    plain = set(preparing(SETTINGS)) | set(SPEAKING) | {"mask", "faces"}
    assert set(SETTINGS.as_dict()) <= plain and not set(preparing(SETTINGS)) & set(SPEAKING)


def test_another_source_version_or_rate_asks_for_preparation(made, tmp_path):
    folder, video = made
    other = clips.write_video(tmp_path / "portrait.mp4", clips.moving_portrait(12)[:, :, ::-1], Fraction(25))
    assert check_avatar(folder, open_source(video), SETTINGS, "demo", Fraction(25)) == ""
    assert check_avatar(folder, open_source(other)) == "the source has changed"
    assert check_avatar(folder, version="v1.5") == "it was prepared with demo, now v1.5 is wanted"
    assert "30 are wanted" in check_avatar(folder, fps=Fraction(30))
    assert check_avatar(folder.with_name("nobody")) == "it is not prepared yet"


def test_changed_settings_prepare_it_again_and_say_why(engine, copy, made):
    order = Order(open_source(made[1]), replace(SETTINGS, bbox_shift=7), "demo")
    before = load_avatar(copy).track.boxes.copy()
    avatar, reason = ready_avatar("anna", order, lambda: engine.models(order.settings), copy)
    assert reason == "bbox_shift is 7, it was prepared with 0" and avatar.settings.bbox_shift == 7
    assert (avatar.track.boxes[:, 1] == before[:, 1] + 14).all() or (avatar.track.boxes != before).any()
    assert check_avatar(copy, settings=order.settings) == ""


@pytest.mark.parametrize("name", ["avatar.json", *DATA])
def test_a_missing_file_is_named_and_brought_back_by_preparing(engine, copy, made, name):
    (copy / name).unlink()
    assert check_avatar(copy) == f"{name} is missing"
    with pytest.raises(MuseTalkError, match=f"{name} is missing; prepare it again"):
        load_avatar(copy)
    avatar, reason = ready_avatar(
        "anna", Order(open_source(made[1]), SETTINGS, "demo"), lambda: engine.models(SETTINGS), copy
    )
    assert reason == f"{name} is missing" and len(avatar) == 12


@pytest.mark.parametrize("name", DATA)
def test_damage_is_seen(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 255
    (copy / name).write_bytes(content)
    assert check_avatar(copy, every_byte=True) == f"{name} is damaged"
    (copy / name).write_bytes(content[:-9])
    assert check_avatar(copy) == f"{name} has {len(content) - 9} of {len(content)} bytes"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "musetalk-avatar-1"}', '{"format": "musetalk-avatar-9"}'])
def test_a_foreign_avatar_json_is_a_reason(copy, text):
    (copy / "avatar.json").write_text(text)
    assert check_avatar(copy).startswith("avatar.json ")


def test_a_foreign_file_cannot_ask_for_all_memory(copy):
    text = (copy / "avatar.json").read_text()
    (copy / "avatar.json").write_text(text.replace('"frames": 12', '"frames": 1000000000000'))
    assert check_avatar(copy) == "avatar.json lacks what this version needs"


def test_a_changed_setting_in_the_file_is_seen(copy):
    text = (copy / "avatar.json").read_text()
    (copy / "avatar.json").write_text(text.replace('"bbox_shift": 0', '"bbox_shift": 3'))
    assert check_avatar(copy) == "avatar.json was changed by hand"


def test_it_can_be_prepared_again_from_itself(engine, copy):
    shifted = renew_avatar(
        copy, engine.models(replace(SETTINGS, bbox_shift=7)), replace(SETTINGS, bbox_shift=7), "demo"
    )
    assert shifted.settings.bbox_shift == 7 and check_avatar(copy, every_byte=True) == ""
    back = renew_avatar(copy, engine.models(SETTINGS), SETTINGS, "demo")
    assert torch.equal(back.masked, shifted.masked) is False and len(back) == 12


def test_an_avatar_replaced_after_loading_is_not_mixed_with_the_new_one(engine, copy):
    loaded = load_avatar(copy)
    renew_avatar(copy, engine.models(replace(SETTINGS, bbox_shift=7)), replace(SETTINGS, bbox_shift=7), "demo")
    with pytest.raises(MuseTalkError, match="changed after it was loaded"):
        next(iter(loaded.frames.read([0])))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from avatar_clips import demo_engine, frames, prepared
def progress(done, total):
    if done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
prepared(demo_engine(), Path(sys.argv[1]), frames(20), progress=progress)
"""
FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
from avatar_clips import demo_engine, frames, prepared
engine = demo_engine()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    prepared(engine, Path(sys.argv[1]), frames(20))
except ValueError as error:
    sys.stdout.write(f"{type(error).__name__}: {error}")
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess:
    call = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_killed_in_the_middle_the_old_avatar_stays_and_the_rest_is_cleared_later(engine, copy):
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    assert run(KILLED, copy).returncode == -9
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert check_avatar(copy, every_byte=True) == "" and list_avatars(copy.parent) == ["anna"]
    (left,) = copy.parent.glob(".anna.*.part")
    old = time.time() - 7200
    for file in [*left.iterdir(), left]:
        os.utime(file, (old, old))
    prepared(engine, copy, frames(2))
    assert [file.name for file in copy.parent.iterdir()] == ["anna"]


@pytest.mark.skipif(os.name == "nt", reason="file size limits of POSIX")
def test_a_full_disk_is_one_sentence_and_the_old_avatar_stays(copy):
    """The kernel refuses files above 200 kB; the frames need more."""
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    told = run(FULL, copy)
    assert told.stdout.startswith("MuseTalkError: ") and "cannot be written" in told.stdout, told.stderr
    assert "\n" not in told.stdout
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    assert [file.name for file in copy.parent.iterdir()] == ["anna"]


def test_killed_between_the_two_renames_the_old_avatar_is_put_back(copy):
    copy.rename(copy.with_name(".anna.b.0123456789ab.old"))
    assert check_avatar(copy) == "it is not prepared yet"  # it is another's
    assert list_avatars(copy.parent) == ["anna.b"]
    assert check_avatar(copy.with_name("anna.b"), every_byte=True) == ""


# What malloc has given out and not got back, after every batch: resident memory also holds what fell between blocks.
MEMORY = """
import ctypes, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "tests")
from avatar_clips import SETTINGS, demo_engine, prepared
from musetalk_core.media.source import open_source
NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
used = []
def note(done, total):
    info = mallinfo()
    used.append(info.uordblks + info.hblkhd)
settings = replace(SETTINGS, allow_no_face=True)
prepared(demo_engine(), Path(sys.argv[1]), open_source(sys.argv[1] + ".mp4"), settings, progress=note)
sys.stdout.write(str(max(used) // 1024))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc for its figures")
def test_preparing_holds_a_batch_of_frames_and_not_all(tmp_path):
    """64 instead of 24 frames of 1.56 MB: 62 MB more if they were held."""
    peaks = []
    for count in (24, 64):
        clips.write_video(tmp_path / f"{count}.mp4", clips.faceless(count, 720))
        told = run(MEMORY, tmp_path / str(count))
        assert told.returncode == 0, told.stderr
        peaks.append(int(told.stdout))
    assert peaks[0] > 100_000 and peaks[1] - peaks[0] < 10_000, peaks


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "../a", "/a", ".hidden", "CON", "nul.txt", "a.", "a ", "x" * 65, "a\nb"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(MuseTalkError, match="cannot be that of a folder"):
        avatar_folder(tmp_path, name)


@pytest.mark.parametrize("name", ["anna", "Anna 2", "avator_1", "小红", "b-v1.5+"])
def test_plain_names_are_taken(tmp_path, name):
    assert avatar_folder(tmp_path, name) == tmp_path / name


def test_another_version_cannot_drive_it(engine, made, tmp_path):
    parts = engine.audio_encoder, engine.generator, engine.codec
    sound = AudioFile(clips.write_audio(tmp_path / "voice.wav", 0.2))
    with pytest.raises(MuseTalkError, match="prepared with demo and the model is v1.5"):
        AvatarVideo(load_avatar(made[0]), sound, None, *parts, SETTINGS, "v1.5")


def test_frames_that_do_not_fit_into_memory_are_refused_with_numbers(made, monkeypatch):
    import psutil

    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=2**28))
    with pytest.raises(MuseTalkError, match=r"12 frames of 256x256 needs 0\.5 GB and 0\.3 GB"):
        load_avatar(made[0], in_memory=True)


def test_action_clips_stay_with_the_avatar(engine, copy, tmp_path):
    clip = clips.write_video(tmp_path / "wave.mp4", clips.moving_portrait(3))
    voice = clips.write_audio(tmp_path / "hello.wav", 0.2)
    assert load_actions(copy) == ()
    add_action(copy, 3, clip, voice)
    add_action(copy, 1, clip)
    wanted = (Action(1, "action_1.mp4"), Action(3, "action_3.mp4", "action_3.wav"))
    assert load_actions(copy) == wanted
    renew_avatar(copy, engine.models(SETTINGS), SETTINGS, "demo")
    assert load_actions(copy) == wanted and action_path(copy, "action_3.wav").read_bytes() == voice.read_bytes()


@pytest.mark.parametrize(
    "name", ["../anna/frames.mkv", "/etc/passwd", "..", "", "sub/clip.mp4", "link.mp4", "none.mp4"]
)
def test_actions_outside_the_avatar_are_refused(copy, tmp_path, name):
    (tmp_path / "elsewhere.mp4").write_bytes(b"x")
    (copy / "link.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(MuseTalkError):
        save_actions(copy, [Action(2, name)])
    assert not (copy / "actions.json").exists()


@pytest.mark.parametrize("text", ["{", "{}", '[{"audiotype": 2}]', '[{"audiotype": 0, "video": "frames.mkv"}]', "[7]"])
def test_actions_that_are_none_are_one_sentence(copy, text):
    (copy / "actions.json").write_text(text)
    with pytest.raises(MuseTalkError) as error:
        load_actions(copy)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
