"""The prepared avatars of a folder, each in memory once as long as somebody shows it."""

import threading
from pathlib import Path
from weakref import WeakValueDictionary

from ..avatars.avatar import Avatar
from ..avatars.files import avatar_folder, list_avatars, load_avatar
from ..errors import MuseTalkError


class AvatarShelf:
    """Gives avatars by name; thread-safe. version: whose networks they must be made with."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder, self.version = folder, version
        self._shown: WeakValueDictionary[str, Avatar] = WeakValueDictionary()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What there is, sorted."""
        return list_avatars(self.folder)

    def get(self, name: str) -> Avatar:
        """The avatar, with its frames in memory. Raises MuseTalkError when it is absent or of other networks."""
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

    def forget(self, name: str) -> None:
        """The next `get` reads the files anew; sessions that are open keep what they show."""
        with self._lock:
            self._shown.pop(name, None)
