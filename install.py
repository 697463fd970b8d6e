"""What ComfyUI-Manager runs after pip: says whether the environment is complete and how weights are got.

`python install.py <command> ...` runs `python -m musetalk_core <command> ...` where an embedded Python does not see
this folder. Nothing is downloaded unless such a command asks for it.
"""

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

PACK = Path(__file__).absolute().parent
OLDEST_PYTHON = (3, 10)
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
MODULE_OF = {"opencv-python": "cv2"}


def main(argv: list[str]) -> int:
    """Check the environment, or run a core command; returns the exit status (0 when nothing required is missing)."""
    if argv:
        sys.path.insert(0, str(PACK))
        from musetalk_core.__main__ import main as run_command

        return run_command(argv)
    problems = find_problems(PACK / "requirements.txt")
    for problem in problems:
        print(f"MuseTalk Suite: {problem}")
    if problems:
        print(f"MuseTalk Suite: to mend this run: {sys.executable} -m pip install -r {PACK / 'requirements.txt'}")
        return 1
    print(f"MuseTalk Suite: Python {sys.version.split()[0]} and every requirement are there.")
    print(f"MuseTalk Suite: weights belong in {weights_folder()}; nothing was downloaded. To get MuseTalk 1.5 run:")
    print(f"  {sys.executable} {PACK / 'install.py'} weights download v1.5")
    print("The embedded demo model and face detector need no download.")
    return 0


def find_problems(requirements: Path) -> list[str]:
    """One plain sentence for each thing that is missing or too old."""
    problems = []
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        problems.append(f"Python {sys.version.split()[0]} is too old; {wanted} or newer is needed.")
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\s*([\w.-]+)\s*(?:>=\s*([\w.]+))?\s*", line):
            problem = _problem_of(match[1], match[2] or "0")
            problems += [problem] if problem else []
    return problems


def _problem_of(package: str, wanted: str) -> str | None:
    module = MODULE_OF.get(package, package)
    if importlib.util.find_spec(module) is None:
        return f"{package} is not installed (Python finds no module {module})."
    version = _installed_version(OPENCV if package == "opencv-python" else (package,))
    if version and _numbers(version) < _numbers(wanted):
        return f"{package} {version} is too old; {wanted} or newer is needed."
    return None


def _installed_version(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def weights_folder() -> Path:
    """ComfyUI's models/musetalk when this pack lies in its custom_nodes, else models in the current folder."""
    models = PACK.parent.parent / "models"
    if PACK.parent.name == "custom_nodes" and models.is_dir():
        return models / "musetalk"
    return Path("models").absolute()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
