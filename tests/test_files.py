"""Files that appear whole or not at all."""

import pytest

from musetalk_core.errors import MuseTalkError
from musetalk_core.files import whole_file


def test_the_file_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with whole_file(path) as part:
        assert part.suffix == ".json" and part.parent == tmp_path and part != path
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_broken_block_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "track.json"
    path.write_text("old")
    with pytest.raises(error), whole_file(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_one_sentence_with_the_path(tmp_path):
    path = tmp_path / "none" / "track.json"
    message = rf"^{path} cannot be written: No such file or directory; choose another folder\.$"
    with pytest.raises(MuseTalkError, match=message), whole_file(path) as part:
        part.write_text("new")
