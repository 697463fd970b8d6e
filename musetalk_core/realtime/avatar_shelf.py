"""The prepared avatars of a folder, each in memory once as long as somebody shows it."""

import threading
from collections.abc import Mapping
from pathlib import Path
from weakref import ReferenceType, WeakValueDictionary, ref

import torch

from ..avatars.actions import IDLE, Action, action_path, load_actions
from ..avatars.avatar import Avatar
from ..avatars.files import avatar_folder, list_avatars, load_avatar
from ..errors import MuseTalkError
from ..media.audio import AudioFile, mono16k
from ..media.source import TensorFrames, open_source
from .actions import ActionClip

CLIP_BYTES = 2**30


class AvatarShelf:
    """Gives avatars and their action clips by name; thread-safe. version: whose networks they must be made with."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder, self.version = folder, version
        self._shown: WeakValueDictionary[str, Avatar] = WeakValueDictionary()
        self._clips: dict[str, tuple[ReferenceType[Avatar], Mapping[int, ActionClip]]] = {}
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """What there is, sorted."""
        return list_avatars(self.folder)

    def actions(self, name: str) -> list[int]:
        """The numbers of an avatar's actions, without its other idle video; none when its list is damaged."""
        try:
            listed = load_actions(avatar_folder(self.folder, name))
        except MuseTalkError:
            return []
        return [action.audiotype for action in listed if action.audiotype > IDLE]

    def get(self, name: str) -> Avatar:
        """The avatar, with its frames in memory. Raises MuseTalkError when it is absent or of other networks."""
        if not name:
            raise MuseTalkError("No avatar is named and the server has no default; name one of GET /api/avatars.")
        with self._lock:
            avatar = self._shown.get(name)
            if avatar is None:
                avatar = load_avatar(avatar_folder(self.folder, name), in_memory=True)
                if avatar.version != self.version:
                    raise MuseTalkError(
                        f"The avatar {name!r} was prepared with {avatar.version} and the server runs {self.version}; "
                        "prepare it again."
                    )
                self._shown[name] = avatar
            return avatar

    def clips(self, name: str) -> Mapping[int, ActionClip]:
        """The action clips of an avatar by number, in memory as long as the avatar is. Raises MuseTalkError."""
        with self._lock:
            avatar = self.get(name)
            known = self._clips.get(name)
            if known is None or known[0]() is not avatar:
                folder = avatar_folder(self.folder, name)
                clips = {action.audiotype: _clip(folder, action) for action in load_actions(folder)}
                known = self._clips[name] = ref(avatar, lambda gone: self._drop(name, gone)), clips
            return known[1]

    def forget(self, name: str) -> None:
        """The next `get` reads the files anew; sessions that are open keep what they show."""
        with self._lock:
            self._shown.pop(name, None)

    def _drop(self, name: str, gone: ReferenceType[Avatar]) -> None:
        with self._lock:
            if name in self._clips and self._clips[name][0] is gone:
                del self._clips[name]


def _clip(folder: Path, action: Action) -> ActionClip:
    source = open_source(action_path(folder, action.video))
    height, width = source.size
    if len(source) * height * width * 3 > CLIP_BYTES:
        raise MuseTalkError(f"The action {action.audiotype} of {folder.name!r} is above 1 GiB; give a shorter clip.")
    frames = torch.stack(list(source.read(range(len(source)))))
    sound = None if action.audio is None else mono16k(AudioFile(action_path(folder, action.audio)))
    return ActionClip(TensorFrames(frames, source.fps), sound)
