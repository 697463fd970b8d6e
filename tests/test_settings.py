"""Settings: upstream's defaults by version, refused values, hashing and JSON."""

import json

import pytest

from musetalk_core.errors import MuseTalkError
from musetalk_core.settings import FaceSettings, LipSyncSettings, MaskSettings, SilenceSettings


def test_defaults_are_those_of_musetalk_1_5():
    settings = LipSyncSettings()
    assert settings == LipSyncSettings.for_version("v1.5") == LipSyncSettings.for_version("demo")
    assert (settings.bbox_shift, settings.extra_margin, settings.mode) == (0, 10, "ping-pong")
    assert (settings.audio_padding_left, settings.audio_padding_right) == (2, 2)
    assert settings.mask == MaskSettings("jaw", 90, 90, 1.5, 0.05, 0.5)


def test_defaults_of_musetalk_1_0():
    settings = LipSyncSettings.for_version("v1.0")
    assert settings.extra_margin == 0
    assert (settings.mask.parsing_mode, settings.mask.left_cheek_width, settings.mask.right_cheek_width) == (
        "raw",
        80,
        80,
    )


def test_changes_reach_both_levels():
    settings = LipSyncSettings.for_version("v1.0", bbox_shift=-7, parsing_mode="neck", expand=2.0)
    assert (settings.bbox_shift, settings.extra_margin) == (-7, 0)
    assert (settings.mask.parsing_mode, settings.mask.expand, settings.mask.left_cheek_width) == ("neck", 2.0, 80)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bbox_shift", 1001),
        ("extra_margin", -1),
        ("face", "tallest"),
        ("mode", "bounce"),
        ("segmentation", "none"),
        ("audio_padding_left", -1),
        ("audio_padding_right", 26),
        ("batch_size", -1),
        ("batch_size", 2.5),
        ("batch_size", True),
        ("extra_margin", "10"),
        ("left_cheek_width", 90.0),
        ("blur", None),
        ("parsing_mode", "lips"),
        ("left_cheek_width", 257),
        ("expand", 0.9),
        ("blur", float("nan")),
        ("upper_boundary_ratio", 1.1),
        ("mask_shape", "square"),
        ("feather", -1),
        ("feather", 2.5),
        ("colour_match", 1.1),
        ("occlusion", 1),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(MuseTalkError, match=name):
        LipSyncSettings.for_version("v1.5", **{name: value})


def test_an_unknown_setting_is_named():
    with pytest.raises(MuseTalkError, match="'bbox_shfit'"):
        LipSyncSettings.for_version("v1.5", bbox_shfit=3)


def test_settings_are_hashable_and_plain_in_json():
    settings = LipSyncSettings(bbox_shift=3)
    assert len({settings, LipSyncSettings(bbox_shift=3), LipSyncSettings()}) == 2
    values = json.loads(json.dumps(settings.as_dict()))
    assert values["bbox_shift"] == 3 and values["mask"]["blur"] == 0.05
    groups = {"mask": MaskSettings, "silence": SilenceSettings, "faces": FaceSettings}
    assert LipSyncSettings(**{**values, **{name: group(**values[name]) for name, group in groups.items()}}) == settings
