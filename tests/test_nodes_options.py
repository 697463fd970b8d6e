"""Silence, Blend Options, a user's mask and the debug sheet through the node classes in a real ComfyUI's Python."""

from typing import Any

import pytest
from test_nodes_schema import probe


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return probe("options")


def test_the_source_shows_where_nobody_speaks_and_fades_in_before_the_sound(facts):
    """15 frames of 0.04 s; the sound begins with frame 10, and 2 frames fade."""
    assert facts["same_as_source"] == [True] * 8 + [False] * 7
    assert "7 lip-synced" in facts["report"] and "8 kept in silence" in facts["report"]


def test_where_the_users_mask_is_black_no_pixel_changes(facts):
    assert facts["left_kept"]


def test_the_discrete_nodes_with_the_same_options_give_the_same(facts):
    assert facts["steps_silent"] == facts["same_as_source"]
    assert facts["steps_difference"] <= 1.01 / 255


def test_the_sheet_has_a_row_for_each_named_frame(facts):
    one, height, width, channels = facts["sheet"]
    assert (one, channels) == (1, 3) and height > 2 * 256 and width == 4 * (256 + 16) + 16
