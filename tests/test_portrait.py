"""The portrait tool: phonemes to mouth shapes, mouth shapes to pictures, and the training data made of both."""

import hashlib
import json
import math
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import make_corpus  # noqa: E402
from comfy_setup import HostError  # noqa: E402
from portrait import phonemes, visemes, warp  # noqa: E402
from portrait.corpus import Utterance  # noqa: E402
from portrait.identity import HeadMotion, other_identity  # noqa: E402
from portrait.librivox import CLIPS, EXCLUDED, SAMPLES_SHA256, samples_sha256  # noqa: E402
from portrait.portrait import NEUTRAL, Portrait, Pose, find_mesh, landmarks68  # noqa: E402
from portrait.tracks import neutral_boxes, write_twins  # noqa: E402
from portrait.visemes import Segment  # noqa: E402
from system_packages import ensure  # noqa: E402

# The phones of the CMU Pronouncing Dictionary 0.7.
CMU_PHONES = """AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"""
# What flite 2.2 prints for "hello there." with -psdur.
FLITE = "pau:0.164 hh:0.255 ax:0.304 l:0.412 ow:0.523 dh:0.572 eh:0.664 r:0.838 pau:1.011"
OPEN = np.array([0.8, 0.0, 0.1, 0.0, 0.0])


@pytest.fixture(scope="module")
def portrait() -> Portrait:
    picture, mesh, _ = make_corpus.photograph()
    return Portrait(picture, mesh)


def speech(*sounds: str, each: float = 0.1, voice: str = "flite-slt") -> Utterance:
    """A hum whose sounds last `each` seconds; no hum in silence."""
    segments = [Segment(i * each, (i + 1) * each, (sound,)) for i, sound in enumerate(sounds)]
    time = np.arange(round(len(sounds) * each * 16000)) / 16000
    loud = np.repeat([0 if sound == "sil" else 8000 for sound in sounds], round(each * 16000))
    return Utterance((loud * np.sin(2 * np.pi * 220 * time)).astype(np.int16), segments, voice)


def test_every_phone_has_a_shape_and_none_is_taken_for_silence():
    for phone in CMU_PHONES.split():
        assert "sil" not in visemes.arpa_visemes(phone), phone
    for phoneme in ("ɐ", "a", "ɒ", "ᵻ", "ʉ", "ʍ", "ʲ", "ə", "ˈaɪ", "ɑːɹ", "əl", "n̩", "a:"):
        assert "sil" not in visemes.ipa_visemes(phoneme), phoneme
    assert visemes.ipa_visemes("") == visemes.ipa_visemes("_:") == ("sil",)
    assert len(visemes.VISEMES) == 22 and visemes.VISEMES[0] == "sil"
    for closed in "mbp":
        assert visemes.TABLE[visemes.ipa_visemes(closed)[0]][4] == 1
    # the article "a" is a small vowel, not the wide "ah" of "father"
    assert visemes.TABLE[visemes.ipa_visemes("ɐ")[0]][0] < visemes.TABLE[visemes.ipa_visemes("ɑː")[0]][0]


def test_unknown_sounds_are_refused():
    with pytest.raises(ValueError, match="ǂ"):
        visemes.ipa_visemes("ǂ")
    with pytest.raises(ValueError, match="QQ"):
        visemes.arpa_visemes("QQ")


def test_flites_phones_end_at_the_printed_second():
    segments = phonemes.flite_segments(FLITE)
    assert [s.end for s in segments] == [float(p.split(":")[1]) for p in FLITE.split()]
    assert [s.start for s in segments] == [0, *(s.end for s in segments[:-1])]
    assert segments[1] == Segment(0.164, 0.255, ("k",)) and segments[4].visemes == ("ao", "uw")
    with pytest.raises(HostError, match="no phones"):
        phonemes.flite_segments("hh 0.255 ax 0.304")


@pytest.mark.parametrize("voice", ["flite", "espeak"])
def test_the_voices_say_what_they_are_told(voice):
    ensure(voices=True)
    text = "mama saw you."
    said = phonemes.flite(text, "slt", 1.1, 190) if voice == "flite" else phonemes.Espeak().speak(text, "en-us+f2")
    seconds = len(said.samples) / said.rate
    assert said.voice.startswith(voice) and np.abs(said.samples).max() > 3000
    assert all(a.end == pytest.approx(b.start) for a, b in zip(said.segments, said.segments[1:], strict=False))
    assert said.segments[-1].end == pytest.approx(seconds, abs=0.06)
    sounds = [viseme for s in said.segments for viseme in s.visemes if viseme != "sil"]
    assert [s for s in sounds if s in ("m", "s", "y")] == ["m", "m", "s", "y"]


def test_espeak_refuses_an_unknown_voice():
    ensure(voices=True)
    with pytest.raises(HostError, match="klingon-x"):
        phonemes.Espeak().speak("hello", "klingon-x")


def test_a_normal_user_is_told_the_line_to_run(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="sudo apt-get install .*flite"):
        ensure(voices=True)


def test_curves_follow_the_dominance_formula():
    segments = [Segment(0.0, 0.2, ("aa",)), Segment(0.2, 0.3, ("m",)), Segment(0.3, 0.5, ("iy",))]
    row, rate = 5, 25
    time = (row + 0.5) / rate - 0.02
    weights = []
    for middle, span, dominance in ((0.1, 0.2, 1.0), (0.25, 0.1, 2.2), (0.4, 0.2, 1.0)):
        reach = min(max(0.45 * span, 0.025), 0.12)
        weights.append(dominance * math.exp(-((abs(time - middle) / reach) ** 1.4)))
    jaw = 0.85 * (weights[0] * 0.85 + weights[2] * 0.17) / sum(weights)
    press = weights[1] / sum(weights)
    found = visemes.curves(segments, 12, rate)
    assert found.dtype == np.float32 and found.shape == (12, 5)
    assert found[row, 0] == pytest.approx(jaw, rel=1e-5) and found[row, 4] == pytest.approx(press, rel=1e-5)


def test_curves_mean_the_same_at_every_rate_and_level():
    said = speech("sil", "aa", "m", "iy", "f", "sil")
    slow = visemes.curves(said.segments, 15, 25, said.samples)
    fast = visemes.curves(said.segments, 45, 75, said.samples)
    np.testing.assert_allclose(fast[1::3], slow, atol=1e-3)
    quiet = visemes.curves(said.segments, 15, 25, (said.samples / 10).astype(np.float32))
    np.testing.assert_allclose(quiet, slow, atol=1e-3)


def test_closures_close_and_vowels_open():
    said = speech("sil", "aa", "m", "aa", "uw", "iy", "sil", each=0.16)
    shape = visemes.curves(said.segments, 112, 100, said.samples)
    gap = warp.lip_gap(shape)
    at = {i: gap[round((i + 0.5) * 16 + 2)] for i in range(7)}
    assert at[2] < 0.02 and at[0] < 0.03 and at[6] < 0.03 and min(at[1], at[3]) > 0.12
    assert shape[74, 1] < -0.7 and shape[90, 1] > 0.6  # rounded, then spread


def test_classes_name_the_sound_that_is_heard():
    segments = [Segment(0.0, 0.1, ("m",)), Segment(0.1, 0.3, ("aa", "iy"))]
    names = [visemes.VISEMES[c] for c in visemes.classes(segments, 20, 50)]
    assert names == ["m"] * 5 + ["aa"] * 5 + ["iy"] * 5 + ["sil"] * 5


def test_lip_gap_is_the_gap_of_the_mesh(portrait):
    assert warp.lip_gap(np.array([1.0, 0, 0, 0, 0])) == pytest.approx(0.3, abs=1e-6)
    rng = np.random.default_rng(1)
    for _ in range(20):
        controls = rng.uniform([0, -1, 0, 0, 0], [1, 1, 0.5, 1, 1])
        mesh = portrait.mesh(controls, Pose(0.05, 1.02, 0.01, -0.02))
        measured = np.linalg.norm(mesh[13] - mesh[14]) / np.linalg.norm(mesh[33] - mesh[263])
        assert warp.lip_gap(controls) == pytest.approx(measured, abs=2e-5)


def test_dense_map_undoes_an_affine_movement(portrait):
    face, turn = portrait.face, np.array([[0.96, 0.05], [-0.04, 1.03]])
    target = face.points @ turn.T + [4.0, -3.0]
    region = (150, 260, 310, 400)
    x, y = warp.dense_map(face, target, region)
    grid = np.stack(np.meshgrid(np.arange(150, 310), np.arange(260, 400)), -1)
    expected = (grid - [4.0, -3.0]) @ np.linalg.inv(turn).T
    mouth = np.zeros(x.shape, np.uint8)
    outline = np.concatenate([target[warp.UPPER[3]], target[warp.LOWER[3]][::-1]]) - region[:2]
    cv2.fillPoly(mouth, [outline.round().astype(np.int32)], 1)
    error = np.hypot(x - expected[..., 0], y - expected[..., 1])[cv2.dilate(mouth, np.ones((5, 5))) == 0]
    assert error.max() < 0.01


def test_only_the_lower_face_changes(portrait):
    pose = Pose(0.03, 1.01, 0.01, 0.0)
    rendering = portrait.render(OPEN, pose)
    changed = np.abs(rendering.frame.astype(int) - portrait.still(pose)).max(2) > 24
    points = landmarks68(rendering.mesh)
    assert rendering.frame.shape == (384, 384, 3) and rendering.frame.dtype == np.uint8
    assert changed[int(points[51, 1]) : int(points[8, 1])].mean() > 0.05
    assert not changed[: int(points[36:48, 1].max())].any()
    assert not changed[:, :8].any() and not changed[:, -8:].any()


@pytest.mark.parametrize("name", ["sil", "m", "aa", "iy", "ow"])
def test_a_landmark_net_sees_the_mouth_that_was_asked_for(portrait, name):
    controls = np.array(visemes.TABLE[name][:5]) * [0.85, 1, 1, 1, 1]
    rendering = portrait.render(controls, Pose(0.02))
    face = make_corpus.photograph()[2].detect(torch.from_numpy(rendering.frame))[0]
    eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    assert np.linalg.norm(face.landmarks[62] - face.landmarks[66]) / eyes == pytest.approx(rendering.gap, abs=0.04)
    assert np.linalg.norm(face.landmarks - landmarks68(rendering.mesh), axis=1).mean() < 0.03 * eyes


def test_teeth_show_in_an_open_mouth_and_nothing_is_torn(portrait):
    rendering = portrait.render(OPEN)
    top, bottom = rendering.mesh[13], rendering.mesh[14]
    column = rendering.frame[int(top[1]) : int(bottom[1]) + 1, int(top[0])].astype(float).mean(1)
    middle = len(column) // 2
    assert column[2:middle].max() > 120 and column[middle:-3].min() < 80  # teeth above, dark below
    cheek = rendering.frame[int(rendering.mesh[2, 1]) + 4 : int(top[1]) - 12, int(top[0]) - 20 : int(top[0]) + 20]
    assert np.abs(np.diff(cheek.astype(int), axis=0)).max() < 60


def test_identities_differ_are_faces_and_repeat():
    picture, mesh, detector = make_corpus.photograph()
    first = other_identity(picture, mesh, np.random.default_rng(1))
    again = other_identity(picture, mesh, np.random.default_rng(1))
    second = other_identity(picture, mesh, np.random.default_rng(2))
    assert np.array_equal(first, again) and np.abs(first.astype(int) - second).mean() > 5
    assert find_mesh(first, detector) is not None and find_mesh(second, detector) is not None
    assert find_mesh(np.zeros_like(picture[:256, :256]), detector) is None


def test_heads_move_smoothly(portrait):
    motion = HeadMotion.random(np.random.default_rng(3))
    nose = np.array([portrait.mesh(NEUTRAL, motion.pose(i / 25))[1] for i in range(100)])
    steps = np.linalg.norm(np.diff(nose, axis=0), axis=1)
    assert steps.mean() > 0.05 and steps.max() < 2


def test_twins_differ_only_in_their_mouths(portrait, tmp_path):
    first, second = speech("sil", "aa", "m", "iy"), speech("sil", "uw", "aa", "sil", voice="espeak-en")
    motion = HeadMotion.random(np.random.default_rng(4))
    made = write_twins(tmp_path / "000", portrait, motion, first, second)
    assert made["frames"] == 10 and made["box_width"] >= 160
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["000", "a.mp4", "b.mp4", "still.png", "track.npz"]
    a, b = (read_video(tmp_path / "000" / f"{name}.mp4") for name in "ab")
    track = np.load(tmp_path / "000" / "track.npz")
    assert a.shape == b.shape == (10, 384, 384, 3)
    assert track["boxes"].shape == (10, 4) and track["boxes"].dtype == np.float32
    assert track["landmarks_a"].shape == (10, 68, 2) and track["gap_b"].dtype == np.float32
    assert np.array_equal(track["samples_b"], second.samples) and list(track["voices"]) == ["flite-slt", "espeak-en"]
    eyes = int(track["landmarks_a"][:, 36:48, 1].max())
    assert np.abs(a[:, :eyes] - b[:, :eyes]).mean() < 2
    wide = int(track["gap_a"].argmax())
    x1, y1, x2, y2 = (int(v) for v in track["boxes"][wide])
    half = (y1 + y2) // 2
    assert np.abs(a[wide, half:y2, x1:x2] - b[wide, half:y2, x1:x2]).mean() > 4
    points = track["landmarks_a"]
    gap = np.linalg.norm(points[:, 62] - points[:, 66], axis=1) / np.linalg.norm(points[:, 36] - points[:, 45], axis=1)
    np.testing.assert_allclose(track["gap_a"], gap, atol=1e-4)
    np.testing.assert_array_equal(track["boxes"], neutral_boxes(portrait, motion, 10)[0])


def read_video(path: Path) -> np.ndarray:
    with av.open(path) as container:
        assert container.streams.audio and container.streams.video[0].average_rate == Fraction(25)
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(int)


def test_a_speech_file_holds_what_it_says(tmp_path):
    said = speech("sil", "aa", "m", each=0.11)
    path = tmp_path / "00000.npz"
    make_corpus._write_speech(path, said)
    data = np.load(path)
    rows = len(said.samples) // 320
    assert data["curves"].shape == (rows, 5) and data["curves"].dtype == np.float32
    assert data["viseme"].shape == (rows,) and data["viseme"].dtype == np.uint8
    assert data["samples"].dtype == np.int16 and str(data["voice"]) == "flite-slt"
    assert str(data["sha256"]) == hashlib.sha256(said.samples.tobytes()).hexdigest()


def test_what_is_held_out_is_refused(tmp_path):
    (tmp_path / "speech").mkdir()
    entry = {"name": "00000", "voice": "flite-slt", "seconds": 3.0}
    np.savez(tmp_path / "speech" / "00000.npz", sha256=np.array(SAMPLES_SHA256[1]))
    with pytest.raises(HostError, match="held-out"):
        make_corpus.check(tmp_path, [entry])
    np.savez(tmp_path / "speech" / "00000.npz", sha256=np.array("0" * 64))
    make_corpus.check(tmp_path, [entry])
    with pytest.raises(HostError, match="flite speaks 50%"):
        make_corpus.check(tmp_path, [entry, {"name": "00000b", "voice": "espeak-en", "seconds": 3.0}])


def test_the_hash_of_the_demo_clip_is_excluded():
    import demo_inputs

    assert CLIPS[0].name == demo_inputs.SPEECH and CLIPS[0].sha256 == demo_inputs.SPEECH_SHA256
    assert len(set(EXCLUDED)) == 10 and all(len(digest) == 64 for digest in EXCLUDED)
    assert samples_sha256(np.array([1, -2], np.int16)) == hashlib.sha256(b"\x01\x00\xfe\xff").hexdigest()


def test_the_split_keeps_made_up_faces_apart_and_a_third_plain():
    plain = [i for i in range(46) if make_corpus.is_plain(i)]
    held = [i for i in range(46) if make_corpus.split_of(i) == "val"]
    assert len(plain) == 16 and len(held) == 6 and sum(i in plain for i in held) == 1


def test_a_folder_of_other_settings_is_not_mixed(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"tool_version": "0", "seed": 0, "frames": 170}))
    ensure(voices=True)
    with pytest.raises(HostError, match="choose another folder"):
        make_corpus.make_corpus(tmp_path, 1, 1, 170, 0, 1)
