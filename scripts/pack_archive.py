#!/usr/bin/env python3
"""Make the archive that the ComfyUI registry would get: what `comfy node pack` zips, before anything is committed.

    python3 scripts/pack_archive.py [ARCHIVE.zip]        (default: output/musetalk-suite.zip)

comfy-cli zips the files that git knows, less those that .comfyignore names with gitignore's patterns, and adds what
`includes` of pyproject.toml names (nothing here). Files not yet added to git count as known, unless .gitignore names
them. Prints one JSON line: the archive, its number of files, their bytes and the archive's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def shipped_files() -> list[str]:
    """Paths of the archive's files, relative to the repository, with forward slashes, sorted."""
    known = _git_files("--exclude-standard")
    left_out = _git_files("--ignored", "--exclude-from=.comfyignore")
    return sorted(known - left_out)


def _git_files(*arguments: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (REPOSITORY / name).is_file()}


def pack(archive: Path) -> list[str]:
    """Write the archive, whole or not at all; the names of its files."""
    names = shipped_files()
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(".partial-" + archive.name)
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as made:
            for name in names:
                made.write(REPOSITORY / name, name)
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    default = REPOSITORY / "output" / "musetalk-suite.zip"
    parser.add_argument("archive", type=Path, nargs="?", default=default, help="default: %(default)s")
    archive = parser.parse_args().archive.resolve()
    names = pack(archive)
    size = sum((REPOSITORY / name).stat().st_size for name in names)
    facts = {"archive": str(archive), "files": len(names), "bytes": size, "packed": archive.stat().st_size}
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
