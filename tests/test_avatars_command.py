"""`python -m musetalk_core avatar` on real files: prepare, list, check, import, action, and configs of many clips."""

import json

import clips
import numpy as np
import pytest
from avatar_clips import upstream_folder

from musetalk_core.__main__ import main
from musetalk_core.avatars.files import check_avatar, load_avatar


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with two clips and two sounds."""
    monkeypatch.chdir(tmp_path)
    clips.write_video(tmp_path / "anna.mp4", clips.moving_portrait(6))
    clips.write_video(tmp_path / "bob.mp4", clips.moving_portrait(4)[:, :, ::-1])
    clips.write_audio(tmp_path / "one.wav", 0.4)
    clips.write_audio(tmp_path / "two.wav", 0.2)
    return tmp_path


def avatar(*args: object) -> int:
    return main(["avatar", *map(str, args)])


def test_an_avatar_is_prepared_once_listed_and_checked(place, capsys):
    prepare = ["prepare", "anna", "--video", "anna.mp4", "--version", "demo"]
    assert avatar(*prepare) == 0
    assert "it is not prepared yet" in capsys.readouterr().out
    before = (place / "avatars" / "anna" / "avatar.json").stat().st_mtime_ns
    assert avatar(*prepare) == 0 and "is prepared already" in capsys.readouterr().out
    assert (place / "avatars" / "anna" / "avatar.json").stat().st_mtime_ns == before
    (place / "anna.mp4").unlink()
    assert avatar("prepare", "anna", "--version", "demo", "--bbox-shift", 7) == 0
    assert "bbox_shift is 7, it was prepared with 0" in capsys.readouterr().out
    assert load_avatar(place / "avatars" / "anna").settings.bbox_shift == 7
    assert avatar("list") == 0 and "anna: 6 frames of 256x256, 25 frames/s, demo" in capsys.readouterr().out
    assert avatar("check") == 0 and "anna: whole" in capsys.readouterr().out
    (place / "avatars" / "anna" / "latents.safetensors").unlink()
    assert avatar("check", "anna") == 1 and "latents.safetensors is missing" in capsys.readouterr().out


def test_an_upstream_folder_becomes_an_avatar(place, capsys):
    upstream_folder(place / "results" / "v15" / "avatars" / "avator_1", 2)
    assert avatar("import", "results/v15/avatars/avator_1", "--avatars", "mine") == 0
    assert "avator_1: 2 frames of 128x128, 25 frames/s, v1.5" in capsys.readouterr().out
    assert check_avatar(place / "mine" / "avator_1", every_byte=True) == ""
    assert avatar("import", "results/v15/avatars/avator_1", "--avatars", "mine") == 1
    assert "exists already" in capsys.readouterr().err


def config(place, **changes):
    """upstream's configs/inference/realtime.yaml with two avatars."""
    clips_of = {"audio_0": "one.wav", "audio_1": "two.wav"}
    anna = {"preparation": True, "bbox_shift": 5, "video_path": "anna.mp4", "audio_clips": clips_of, **changes}
    bob = {"preparation": True, "bbox_shift": 0, "video_path": "bob.mp4", "audio_clips": {"hello": "two.wav"}}
    (place / "realtime.yaml").write_text(json.dumps({"avatar_1": anna, "avatar_2": bob}))
    return place / "realtime.yaml"


def test_a_config_makes_a_video_of_every_clip(place, capsys):
    assert avatar("run", config(place), "--version", "demo") == 0
    results = place / "results" / "demo"
    assert sorted(str(path.relative_to(results)) for path in results.rglob("*.mp4")) == [
        "avatar_1/audio_0.mp4",
        "avatar_1/audio_1.mp4",
        "avatar_2/hello.mp4",
    ]
    assert [clips.probe(results / "avatar_1" / f"audio_{k}.mp4")["frames"] for k in (0, 1)] == [10, 5]
    comment = json.loads(clips.probe(results / "avatar_1" / "audio_0.mp4")["comment"])
    assert comment["bbox_shift"] == 5 and comment["version"] == "demo"
    assert capsys.readouterr().out.count("it is not prepared yet") == 2
    assert not np.array_equal(clips.read_frames(results / "avatar_1" / "audio_0.mp4")[0], clips.moving_portrait(1)[0])
    assert avatar("run", config(place), "--version", "demo") == 1  # the results are there
    assert "exists already" in capsys.readouterr().err


def test_without_saving_it_tells_the_speed_and_needs_no_video_again(place, capsys):
    assert avatar("run", config(place), "--version", "demo", "--skip_save_images") == 0
    told = capsys.readouterr().out
    assert told.count("frames/s, nothing written") == 3 and not (place / "results").exists()
    (place / "anna.mp4").unlink()
    changed = config(place, preparation=False, bbox_shift=7)
    assert avatar("run", changed, "--version", "demo", "--skip-save") == 0
    assert "bbox_shift is 7, it was prepared with 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preparation": "yes"}, "preparation 'yes'"),
        ({"video_path": None}, "has no video_path"),
        ({"video_path": None, "preparation": False}, "it is not prepared yet"),
        ({"audio_clips": ["one.wav"]}, "has no audio_clips"),
        ({"bbox_shfit": 3}, "'bbox_shfit' is no setting"),
        ({"video_path": "none.mp4"}, "none.mp4"),
        ({"audio_clips": {"../out": "one.wav"}}, "'../out' cannot be"),
    ],
)
def test_mistakes_in_a_config_are_one_sentence(place, capsys, changes, words):
    assert avatar("run", config(place, **changes), "--version", "demo") == 1
    told = capsys.readouterr().err.splitlines()
    errors = [line for line in told if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0]


def test_an_action_clip_is_copied_in(place, capsys):
    assert avatar("prepare", "anna", "--video", "anna.mp4", "--version", "demo") == 0
    assert avatar("action", "anna", "--audiotype", 2, "--video", "bob.mp4", "--audio", "two.wav") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"audiotype": 2, "video": "action_2.mp4", "audio": "action_2.wav"}
    assert (place / "avatars" / "anna" / "action_2.mp4").read_bytes() == (place / "bob.mp4").read_bytes()
    assert avatar("action", "bob", "--audiotype", 2, "--video", "bob.mp4") == 1
    assert "it is not prepared yet" in capsys.readouterr().err
