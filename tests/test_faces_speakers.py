"""Two speakers, chosen faces, given tracks and bad clips through the whole loop, with the demo model."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import portrait, write_audio, write_video
from face_clips import Place, clip, elsewhere, mouth, person
from PIL import Image

from musetalk_core.__main__ import main
from musetalk_core.audio_features import extract_features
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.external import faces_in_boxes, given_boxes
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.report import Report
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import locate_all, whole_track
from musetalk_core.weights.folders import ModelFolders

FPS = Fraction(25)
BOTH = [{"her": Place(110 + 2 * k, 120), "him": Place(370 - 2 * k, 120)} for k in range(6)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    torch.set_num_threads(1)
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


def speech(seed: int, frames: int = 6) -> np.ndarray:
    """Noise whose loudness changes with the seed."""
    random = np.random.default_rng(seed)
    return (random.normal(0, 0.2, frames * 640) * np.linspace(0.2, 1, frames * 640)).astype(np.float32)


def run(engine, frames, sound, track=None, **settings):
    settings = LipSyncSettings(batch_size=4).changed("test", settings)
    tokens = extract_features(engine.audio_encoder, sound, Fraction(len(sound), 16000), FPS, 2, 2, "overlap")
    report = Report()
    source = TensorFrames(frames, FPS)
    made = lip_sync(source, tokens, tokens.frames, engine.models(settings), settings, report, track)
    return torch.stack(list(made)), report


def changed(a: torch.Tensor, b: torch.Tensor, kind: str) -> list[bool]:
    """For each frame whether pixels differ within 45 pixels of a person's mouth."""
    rows = []
    for k, places in enumerate(BOTH):
        x, y = (int(value) for value in mouth(kind, places[kind]))
        around = (slice(y - 45, y + 45), slice(x - 45, x + 45))
        rows.append(not torch.equal(a[k][around], b[k][around]))
    return rows


def test_two_speakers_move_only_with_their_own_audio(engine):
    frames = clip(BOTH)
    hers, his, another = speech(1), speech(2), speech(3)
    first, _ = run(engine, frames, hers, face_index=0)
    assert changed(first, frames, "her") == [True] * 6 and changed(first, frames, "him") == [False] * 6
    second, _ = run(engine, first, his, face_index=1)
    assert changed(second, first, "him") == [True] * 6 and changed(second, first, "her") == [False] * 6
    third, _ = run(engine, first, another, face_index=1)
    assert any(changed(third, second, "him")) and not any(changed(third, second, "her"))


def test_a_given_track_is_what_is_generated(engine):
    frames = clip(BOTH)
    settings = LipSyncSettings().changed("test", {"face_index": 1})
    track = locate_all(TensorFrames(frames, FPS), engine.models(settings).locator, 4)
    made, report = run(engine, frames, speech(1), track)
    assert report.found == 6 and changed(made, frames, "him") == [True] * 6 and not any(changed(made, frames, "her"))
    with pytest.raises(MuseTalkError, match="made on 480x240 pixels"):
        run(engine, frames[:, :200], speech(1), track)


def test_frames_without_the_chosen_face_are_bit_equal_and_told(engine):
    frames = torch.cat([clip(BOTH[:2]), elsewhere(2), clip(BOTH[2:4])])
    made, report = run(engine, frames, speech(1), detect_every=5)
    assert torch.equal(made[2:4], frames[2:4])
    assert report.as_dict()["gaps"] == [{"first": 2, "last": 3, "reason": "no face"}]


@pytest.mark.parametrize("frames", [torch.zeros(2, 64, 64, 3), clip([{}, {}])])
def test_nobody_is_refused_or_passed_through(engine, frames):
    with pytest.raises(MuseTalkError, match="No face was found in any of the 6 frames; use"):
        run(engine, frames, speech(1))
    made, report = run(engine, frames, speech(1), allow_no_face=True)
    assert report.passed_through == 6 and torch.equal(made[0], frames[0])


def test_one_of_fifty_speaks_and_the_others_keep_every_pixel(engine):
    """The chosen face is one of the crowd's; what changes lies in its crop box."""
    crowd = np.tile(portrait(160), (5, 10, 1))
    frames = torch.from_numpy(np.stack([crowd] * 2))
    track = locate_all(TensorFrames(frames, FPS), engine.models(LipSyncSettings()).locator, 2)
    made, report = run(engine, frames, speech(1, 2), track)
    assert made.shape == frames.shape and report.found == 2
    outside = torch.ones(2, 800, 1600, dtype=torch.bool)
    for k, (x1, y1, x2, y2) in enumerate(track.boxes.astype(int)):
        outside[k, y1:y2, x1:x2] = False
        assert max(x2 - x1, y2 - y1) < 160
    assert torch.equal(made[outside], frames[outside]) and not torch.equal(made, frames)


@pytest.mark.parametrize("turn", [0, 180])
def test_a_portrait_on_its_head_is_generated_in_its_box_or_passed_through(engine, turn):
    """0: a mirror image on its head. Where a face is seen, only its crop box changes; else nothing does."""
    head = portrait(256)[::-1] if turn == 0 else portrait(256)[::-1, ::-1]
    frames = torch.from_numpy(np.stack([head] * 2))
    locator = engine.models(LipSyncSettings()).locator
    track = locate_all(TensorFrames(frames, FPS), locator, 2)
    made, report = run(engine, frames, speech(1, 2), track, allow_no_face=True)
    assert report.found == track.present.sum() and report.frames == 2
    for k in range(2):
        x1, y1, x2, y2 = track.boxes[k].astype(int)
        outside = torch.ones(256, 256, dtype=torch.bool)
        outside[max(y1, 0) : y2, max(x1, 0) : x2] = False
        assert torch.equal(made[k][outside], frames[k][outside])


def test_boxes_outside_the_image_pass_the_frames_through_with_the_reason(engine):
    frames = clip(BOTH[:2])
    beside = {"x": 500, "y": 20, "width": 90, "height": 90}
    boxes = given_boxes(beside, 2, (240, 480))
    assert boxes == [[], []]
    faces = [
        faces_in_boxes(frame, row, engine.backends.get("mediapipe").detector)
        for frame, row in zip(frames, boxes, strict=True)
    ]
    track = engine.models(LipSyncSettings()).locator.locate(frames, faces)
    made, report = run(engine, frames, speech(1, 2), track, allow_no_face=True)
    assert torch.equal(made, frames) and report.as_dict()["reasons"] == {"no face": 2}


def test_a_person_who_never_comes_is_refused_with_the_reason(engine):
    with pytest.raises(MuseTalkError, match="mostly: not the chosen face"):
        run(engine, clip(BOTH), speech(1), face_index=7)


def test_smoothing_looks_at_the_whole_source_first(engine):
    source = TensorFrames(clip(BOTH), FPS)
    settings = LipSyncSettings().changed("test", {"smoothing": 2.0, "subpixel": True})
    models = engine.models(settings)
    seen = []
    track = whole_track(source, models.locator, settings, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6) and track.present.all()
    made, report = run(engine, clip(BOTH), speech(1), track, smoothing=2.0, subpixel=True)
    assert report.found == 6 and made.shape == (6, 240, 480, 3)
    assert whole_track(source, models.locator, LipSyncSettings()) is None


def test_command_line_chooses_by_reference_and_writes_a_report(tmp_path, capsys):
    frames = torch.cat([clip(BOTH), elsewhere(2)]).numpy()
    video = write_video(tmp_path / "two.mp4", frames)
    sound = write_audio(tmp_path / "voice.wav", 0.32)
    Image.fromarray(person("him")).save(tmp_path / "him.png")
    call = ["infer", "--video", str(video), "--audio", str(sound), "--output", str(tmp_path / "out.mp4")]
    call += ["--version", "demo", "--models", str(tmp_path), "--face-reference", str(tmp_path / "him.png")]
    call += ["--detect-every", "5", "--report", str(tmp_path / "report.json"), "--saved-coord"]
    assert main(call) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["frames"], report["found"], report["reasons"]) == (8, 6, {"no face": 2})
    track = json.loads((tmp_path / "out.track.json").read_text())
    assert all(box[0] > 240 for box, present in zip(track["boxes"], track["present"], strict=True) if present)
    assert "no face: 2 (6-7)" in capsys.readouterr().out
