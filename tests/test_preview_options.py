"""Silence and a user's mask: the preview shows what the long run gives there, and videos keep to the mask."""

from dataclasses import replace
from fractions import Fraction

import clips
import numpy as np
import pytest
import torch

from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioArray
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.preview import find_moment, make_take, report
from musetalk_core.settings import LipSyncSettings
from musetalk_core.silence import GatedTokens
from musetalk_core.tasks import LipSyncVideo, stream_tokens
from musetalk_core.weights.folders import ModelFolders

FPS, FRAMES = Fraction(25), 15
# Faint noise for 10 of the 15 frames, then a voice.
NOISE = np.random.default_rng(0).normal(0, 0.003, 6400).astype(np.float32)
SOUND = AudioArray(np.concatenate([NOISE, clips.tone(0.2)])[None], 16000)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    torch.set_num_threads(1)
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def source():
    return TensorFrames(torch.from_numpy(clips.moving_portrait(FRAMES)), FPS)


def settings_of(**values):
    return LipSyncSettings(batch_size=1).changed("test", values)


def half_black(masks: int = 1) -> torch.Tensor:
    """Black on the left, white on the right."""
    mask = torch.zeros(masks, 256, 256)
    mask[:, :, 128:] = 1
    return mask


def both_ways(engine, source, frame, settings, own=None):
    """The preview's take of an output frame, and the frame of the long run."""
    models = engine.models(settings)
    tokens = stream_tokens(engine.audio_encoder, SOUND, FPS, settings)
    moment = find_moment(source, tokens, frame / 25, models, settings, own)
    made = list(lip_sync(source, tokens, FRAMES, models, settings, own_mask=own))
    return moment, make_take(moment, settings.bbox_shift, models, settings), made[frame]


@pytest.mark.parametrize("silence", ["close", "original"])
def test_a_silent_moment_a_fade_and_speech_are_those_of_the_long_run(engine, source, silence):
    settings = settings_of(silence=silence, silence_fade=4)
    tokens = stream_tokens(engine.audio_encoder, SOUND, FPS, settings)
    assert isinstance(tokens, GatedTokens)
    weights = tokens.speech.weights(0, FRAMES)
    (fading,) = np.flatnonzero((weights > 0) & (weights < 1))[:1]
    plain = both_ways(engine, source, 2, settings_of())[1]
    for frame in (2, int(fading), FRAMES - 2):
        _, take, made = both_ways(engine, source, frame, settings)
        assert torch.equal(take.picture, made), frame
    _, silent, _ = both_ways(engine, source, 2, settings)
    assert not torch.equal(silent.picture, plain.picture)


def test_a_moment_that_keeps_its_picture_says_why(engine, source):
    moment, take, made = both_ways(engine, source, 2, settings_of(silence="original", silence_fade=0))
    assert torch.equal(take.picture, moment.picture) and torch.equal(made, moment.picture)
    assert report(moment, take, [take]).endswith(
        "Nobody speaks at 0.08 s, so the frame stays as it is; choose another moment."
    )


@pytest.mark.parametrize("masks", [1, FRAMES])
def test_a_users_mask_is_previewed_as_in_the_long_run(engine, source, masks):
    own = half_black(masks)
    own[-1, :, 200:] = 0  # of many, only the last frame's mask
    moment, take, made = both_ways(engine, source, 12, settings_of(), own)
    assert torch.equal(take.picture, made)
    assert torch.equal(take.picture[:, :128], moment.picture[:, :128])
    assert not torch.equal(take.picture[:, 128:], moment.picture[:, 128:])


@pytest.mark.parametrize("shape", [(2, 256, 256), (1, 256, 255), (256, 256)])
def test_a_mask_that_does_not_fit_is_refused(engine, source, shape):
    with pytest.raises(MuseTalkError, match="The mask has"):
        both_ways(engine, source, 0, settings_of(), torch.ones(shape))


def test_a_video_changes_only_where_the_mask_is_white(engine, source, tmp_path):
    settings = LipSyncSettings()
    job = LipSyncVideo(source, SOUND, None, engine.audio_encoder, engine.models(settings), settings, "demo")
    pictures = {}
    for name, mask in {"half": half_black(), "none": torch.zeros(1, 256, 256)}.items():
        # Quality 0 is lossless, so that equal frames are equal in the file.
        replace(job, own_mask=mask).write(tmp_path / f"{name}.mp4", Encoding(crf=0, pixel_format="yuv444p"))
        pictures[name] = clips.read_frames(tmp_path / f"{name}.mp4")
    half, none = pictures["half"], pictures["none"]
    assert len(half) == FRAMES and (half[:, :, :128] == none[:, :, :128]).all()
    assert (half[:, :, 128:] != none[:, :, 128:]).any((1, 2, 3)).all()
