"""SyncNet, its MFCC, its arithmetic and its crops, against the published code's own numbers."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from syncnet_reference import GOLDEN, embeddings, faces, fill, sound

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.evaluation.face_crops import crop_faces, find_tracks, whole_frames
from musetalk_core.evaluation.mfcc import mfcc
from musetalk_core.evaluation.speech import SyncSettings, loudness
from musetalk_core.evaluation.sync import SyncScorer, score
from musetalk_core.media.source import TensorFrames
from musetalk_core.nets.syncnet import SyncNet
from musetalk_core.weights.catalogue import find_entry
from musetalk_core.weights.models import check_role, load_syncnet

GOLD = json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """Loaded as users load it: a torch file with the published keys, opened without running code."""
    path = tmp_path_factory.mktemp("weights") / "syncnet_v2.model"
    with torch.device("meta"):
        torch_shapes = SyncNet().state_dict()
    torch.save(fill(torch_shapes), path)
    return load_syncnet(path)


def test_keys_and_shapes_are_the_published_ones(net):
    assert {name: list(tensor.shape) for name, tensor in net.state_dict().items()} == GOLD["shapes"]
    assert len(GOLD["shapes"]) == 102


@torch.inference_mode()
def test_embeddings_are_the_published_networks(net):
    pixels = torch.from_numpy(faces()[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    seen = net.see(pixels)
    heard = net.hear(torch.from_numpy(mfcc(sound() / 32768)[:20].T.copy()).float()[None, None])
    for name, found in (("lips", seen), ("heard", heard)):
        np.testing.assert_allclose(found.norm(dim=1), GOLD[f"{name}_norm"], rtol=1e-4)
        np.testing.assert_allclose(found[:, :16], GOLD[name], atol=1e-4 * max(GOLD[f"{name}_norm"]))


def test_mfcc_are_python_speech_features():
    rows = mfcc(sound() / 32768)
    assert len(rows) == GOLD["mfcc_rows"]
    np.testing.assert_allclose(rows[:3], GOLD["mfcc"], atol=1e-8)
    assert mfcc(np.zeros(10)).shape == (1, 13) and np.isfinite(mfcc(np.zeros(10))).all()


def test_scores_are_the_published_arithmetic():
    found = score(*map(torch.from_numpy, embeddings()), max_shift=10)
    assert (found.offset, found.windows) == (GOLD["offset"], 40)
    assert found.distance == pytest.approx(GOLD["distance"], rel=1e-6)
    assert found.confidence == pytest.approx(GOLD["confidence"], rel=1e-5)


@pytest.mark.parametrize("late", [-15, -4, 0, 3, 15])
def test_a_known_shift_is_the_offset_and_lse_d_is_zero(late):
    """The sound is silent (zero) where the shift leaves the clip, as the arithmetic takes it to be."""
    said = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    heard = torch.zeros(100, 64)
    heard[20:80] = said[20:80]
    found = score(torch.roll(heard, late, 0), heard)
    assert found.offset == late
    assert found.distance == pytest.approx(0, abs=1e-4) and found.confidence > 1
    with pytest.raises(MuseTalkError, match="100 faces and 99"):
        score(said, said[1:])


def test_faces_come_as_a_stream_and_give_what_windows_give(net):
    """24 frames and one second of sound: 19 windows, the last one left out as by the reference."""
    frames = np.concatenate([faces()] * 4)
    samples = np.concatenate([sound(), sound()]) / 32768
    found = SyncScorer(net).score(iter(frames), samples)
    assert found.windows == 19
    with torch.inference_mode():
        pixels = torch.from_numpy(frames[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        rows = torch.from_numpy(mfcc(samples)).float()
        heard = net.hear(torch.stack([rows[4 * k : 4 * k + 20].T for k in range(19)])[:, None])
        assert found == score(net.see(pixels)[:19], heard) or found.distance == pytest.approx(
            score(net.see(pixels)[:19], heard).distance, rel=1e-4
        )
    with pytest.raises(MuseTalkError, match="at least 6 frames"):
        SyncScorer(net).score(iter(frames[:5]), samples)


def test_a_track_bridges_gaps_and_ends_at_a_cut():
    boxes = np.tile(np.float32([10, 10, 60, 60]), (200, 1))
    boxes[30:40] = np.nan  # bridged
    boxes[100:] += 200  # another place: a cut
    boxes[180:] = np.nan
    first, second = find_tracks(boxes)
    assert (first.start, len(first), second.start, len(second)) == (0, 100, 100, 80)
    assert np.isfinite(first.boxes).all() and (first.boxes[35] == [10, 10, 60, 60]).all()
    boxes[20:60] = np.nan  # longer than a second: two tracks, the first too short
    assert [(track.start, len(track)) for track in find_tracks(boxes)] == [(100, 80)]
    assert find_tracks(np.full((90, 4), np.nan)) == []


def test_crop_is_the_references_square_around_a_still_box():
    """Box 40..80: half 20, middle 60. Rows 60-20 .. 60+20*1.8, columns 60-20*1.4 .. 60+20*1.4."""
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    source = TensorFrames(torch.from_numpy(picture)[None].repeat(60, 1, 1, 1), Fraction(25))
    (track,) = find_tracks(np.tile(np.float32([40, 40, 80, 80]), (60, 1)))
    import cv2

    expected = cv2.resize(picture[40:96, 32:88], (224, 224))
    crops = list(crop_faces(source, range(60), track))
    assert len(crops) == 60 and np.array_equal(crops[30], expected)
    whole = next(whole_frames(source, [0]))
    assert np.array_equal(whole, cv2.resize(picture, (224, 224)))


def test_what_leaves_the_picture_is_grey():
    source = TensorFrames(torch.zeros((60, 50, 50, 3), dtype=torch.uint8), Fraction(25))
    (track,) = find_tracks(np.tile(np.float32([0, 0, 50, 50]), (60, 1)))
    crop = list(crop_faces(source, range(60), track))[30]
    assert (crop[:, 0] == 110).all() and (crop[-1] == 110).all() and (crop[100, 112] == 0).all()


def test_loudness_is_decibels_below_the_loudest():
    samples = np.concatenate([np.zeros(16000), 0.5 * np.ones(16000), 0.05 * np.ones(16000)])
    curve = loudness(samples, 75)
    assert curve[10] == 0 and curve[37] == pytest.approx(1) and curve[62] == pytest.approx(1 - 20 / 50)
    assert (loudness(np.zeros(16000), 25) == 0).all()


def test_catalogue_knows_syncnet_and_other_files_are_refused(tmp_path):
    assert find_entry("syncnet").files[0].size == 54_573_114
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(MuseTalkError, match="not a SyncNet v2"):
        check_role("syncnet", tmp_path / "other.pth")
    with pytest.raises(MissingWeightsError):
        load_syncnet(tmp_path / "none.pth")
    with pytest.raises(MuseTalkError, match="crop 'half'"):
        SyncSettings("half")
