"""An avatar's other clips: another idle video, and actions that are shown when they are called."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from ..files import whole_file

ACTIONS = "actions.json"
IDLE = 1


@dataclass(frozen=True)
class Action:
    """A clip by number: audiotype 1 replaces the idle video, 2 and more are actions.

    video: the name of a video, picture or folder of pictures in the avatar's folder. audio: that of its sound, None
    for silence.
    """

    audiotype: int
    video: str
    audio: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.audiotype, bool) or not isinstance(self.audiotype, int) or self.audiotype < IDLE:
            raise MuseTalkError(
                f"The audiotype of an action is {self.audiotype!r}; give 1 (idle) or a larger whole number."
            )


def load_actions(folder: Path) -> tuple[Action, ...]:
    """The actions of an avatar's folder, by rising number; none without actions.json.

    Raises MuseTalkError for a file that is no list of actions, a number that is there twice, and a clip that is not
    in the folder.
    """
    file = folder / ACTIONS
    if not file.exists():
        return ()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, list):
        raise MuseTalkError(f'{file} is no list; write [{{"audiotype": 2, "video": "wave.mp4", "audio": null}}].')
    actions = [_action(file, item) for item in content]
    _check(folder, actions)
    return tuple(sorted(actions, key=lambda action: action.audiotype))


def save_actions(folder: Path, actions: Sequence[Action]) -> None:
    """Write the actions of an avatar, whose clips lie in its folder; the file is replaced at once or not at all."""
    _check(folder, actions)
    with whole_file(folder / ACTIONS) as part:
        part.write_text(json.dumps([asdict(action) for action in actions], indent=1), encoding="utf-8")


def add_action(folder: Path, audiotype: int, video: Path, audio: Path | None = None) -> Action:
    """Copy a clip, and its sound, into an avatar's folder and write it down; replaces the action of that number."""
    stem = f"action_{audiotype}"
    action = Action(audiotype, stem + video.suffix.lower(), None if audio is None else stem + audio.suffix.lower())
    if action.video == action.audio:
        raise MuseTalkError(f"{video.name} and {audio and audio.name} have one ending; give sound as an audio file.")
    for source, name in ((video, action.video), (audio, action.audio)):
        if source is None or name is None:
            continue
        if not source.is_file():
            raise MuseTalkError(f"There is no file {source}; give the action's video and sound as files.")
        with whole_file(folder / name) as part:
            shutil.copyfile(source, part)
    others = [other for other in load_actions(folder) if other.audiotype != audiotype]
    save_actions(folder, [*others, action])
    return action


def action_path(folder: Path, name: str) -> Path:
    """A clip of an avatar's folder. Raises MuseTalkError for a name that leads out of it or is not there."""
    path = folder / name
    inside = os.path.basename(name) == name and "\\" not in name and name not in ("", ".", "..")
    if not inside or os.path.realpath(path) != os.path.join(os.path.realpath(folder), name):
        raise MuseTalkError(f"The action's file {name!r} is not in the avatar's own folder; give a bare file name.")
    if not path.exists():
        raise MuseTalkError(f"The action's file {name!r} is missing in {folder}; put it there.")
    return path


def _action(file: Path, item: Any) -> Action:
    known = {"audiotype", "video", "audio"}
    texts = isinstance(item, dict) and isinstance(item.get("video"), str)
    if not texts or set(item) - known or not isinstance(item.get("audio"), str | None):
        raise MuseTalkError(f"{file} has the entry {item!r}; write audiotype, video and audio (a name or null).")
    return Action(item.get("audiotype", 0), item["video"], item.get("audio"))


def _check(folder: Path, actions: Sequence[Action]) -> None:
    numbers = [action.audiotype for action in actions]
    for number in numbers:
        if numbers.count(number) > 1:
            raise MuseTalkError(f"The audiotype {number} is there {numbers.count(number)} times; give each one number.")
    for action in actions:
        for name in (action.video, action.audio):
            if name is not None:
                action_path(folder, name)
