"""Prepare Avatar, Load Avatar and Avatar Lip Sync in a real ComfyUI server."""

import shutil
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from comfy_client import ComfyServer, PromptRefused
from test_lipsync_video import graph, lipsync, node

from musetalk_core.avatars.files import check_avatar


@pytest.fixture(scope="module")
def object_info(comfy: ComfyServer) -> dict[str, Any]:
    return comfy.ask("/object_info")


@pytest.fixture
def avatars(comfy: ComfyServer) -> Path:
    """The server's avatars, none at first."""
    folder = comfy.folder / "output" / "musetalk" / "avatars"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def with_defaults(object_info: dict[str, Any], kind: str, **values: Any) -> dict[str, Any]:
    """One of the nodes with its defaults; of the models the sockets that it has."""
    made = lipsync(object_info, kind, **values)
    specs = object_info[kind]["input"]
    known = {**specs["required"], **specs.get("optional", {})}
    made["inputs"] = {name: value for name, value in made["inputs"].items() if name in known}
    return made


def prepare(object_info: dict[str, Any], file: str = "portrait.mp4", **values: Any) -> dict[str, Any]:
    """Load Video, Prepare Avatar (id prepare) named anna."""
    return {
        "models": node("LoadMuseTalkModels", version="demo", precision="auto"),
        "load": node("LoadVideo", file=file),
        "prepare": with_defaults(
            object_info, "MuseTalkPrepareAvatar", **{"name": "anna", "video": ["load", 0], **values}
        ),
        "told": node("PreviewAny", source=["prepare", 1]),
    }


def speak(object_info: dict[str, Any], avatar: list[Any], **values: Any) -> dict[str, Any]:
    """Avatar Lip Sync (id speak), Save Video."""
    return {
        "models": node("LoadMuseTalkModels", version="demo", precision="auto"),
        "sound": node("LoadAudio", audio="voice.wav"),
        "speak": with_defaults(
            object_info, "MuseTalkAvatarLipSync", **{"avatar": avatar, "audio": ["sound", 0], **values}
        ),
        "save": node("SaveVideo", video=["speak", 0], filename_prefix="test/avatar", format="auto", codec="auto"),
        "report": node("PreviewAny", source=["speak", 1]),
    }


def test_the_video_is_that_of_lip_sync_video(comfy, object_info, avatars):
    exact = {"crf": 0, "pixel_format": "yuv444p"}
    prompt = prepare(object_info, "cutaway.mp4") | speak(object_info, ["prepare", 0], **exact)
    outputs = comfy.run(prompt)
    whole = comfy.run(graph(object_info, "cutaway.mp4", "voice.wav", **exact))
    files = [comfy.file(output["save"]["images"][0]) for output in (outputs, whole)]
    mine, wanted = map(clips.read_frames, files)
    assert mine.shape == (25, 256, 256, 3) and (mine == wanted).all()
    assert outputs["report"]["text"] == whole["report"]["text"]
    assert "17 lip-synced, 8 passed through" in outputs["report"]["text"][0]
    assert check_avatar(avatars / "anna", every_byte=True) == ""


def test_it_is_prepared_only_when_something_has_changed(comfy, object_info, avatars):
    def told(**values: Any) -> str:
        return comfy.run(prepare(object_info, **values))["told"]["text"][0].splitlines()[0]

    assert told() == "Prepared: it is not prepared yet."
    before = (avatars / "anna" / "frames.mkv").stat().st_mtime_ns
    assert told(batch_size=4) == "It was there already."
    assert (avatars / "anna" / "frames.mkv").stat().st_mtime_ns == before
    assert told(bbox_shift=7) == "Prepared: bbox_shift is 7, it was prepared with 0."
    assert told(bbox_shift=7, again=True) == "Prepared: it was asked for."
    assert told(file="cutaway.mp4", bbox_shift=7) == "Prepared: the source has changed."
    (avatars / "anna" / "track.json").unlink()
    assert told(file="cutaway.mp4", bbox_shift=7) == "Prepared: track.json is missing."


def test_a_stored_avatar_is_listed_and_speaks_without_its_video(comfy, object_info, avatars):
    prompt = prepare(object_info, images=["parts", 0], video=["load", 0])
    del prompt["prepare"]["inputs"]["video"]
    prompt["parts"] = node("GetVideoComponents", video=["load", 0])
    comfy.run(prompt)
    listed = comfy.ask("/object_info/MuseTalkLoadAvatar")["MuseTalkLoadAvatar"]["input"]["required"]["name"]
    assert "anna" in (listed[0] if isinstance(listed[0], list) else listed[1]["options"])
    outputs = comfy.run({"avatar": node("MuseTalkLoadAvatar", name="anna"), **speak(object_info, ["avatar", 0])})
    facts = clips.probe(comfy.file(outputs["save"]["images"][0]))
    assert (facts["frames"], facts["fps"], facts["size"]) == (25, 25, (256, 256))
    assert abs(facts["audio_seconds"] - 1.0) < 0.05
    picture = clips.read_frames(comfy.file(outputs["save"]["images"][0]))[5].astype(int)
    assert np.abs(picture - clips.moving_portrait(6)[5]).max() > 40  # it speaks


@pytest.mark.parametrize("name", ["../../input", "/etc", "nobody", ""])
def test_names_that_are_no_avatar_are_refused_before_the_run(comfy, object_info, avatars, name):
    with pytest.raises(PromptRefused):
        comfy.queue({"avatar": node("MuseTalkLoadAvatar", name=name), **speak(object_info, ["avatar", 0])})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "../anna"}, "'../anna' cannot be that of a folder"),
        ({"file": "nobody.mp4"}, "No face was found"),
        ({"images": ["parts", 0]}, "connect one and not both"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(comfy, object_info, avatars, values, words):
    prompt = prepare(object_info, **values)
    prompt["parts"] = node("GetVideoComponents", video=["load", 0])
    message = comfy.fail(prompt)
    assert words in message and "\n" not in message and message.endswith(".")
    assert not avatars.exists() or list(avatars.iterdir()) == []
    assert not (avatars.parent / "anna").exists()
