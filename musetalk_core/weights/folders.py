"""Where weight files are looked for: upstream's layout, ComfyUI's model folders, extra_model_paths.yaml."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingWeightsError, MuseTalkError
from .catalogue import find_entry

PACK_DIR = Path(__file__).absolute().parents[2]


@dataclass(frozen=True)
class ModelFolders:
    """Folders to search, per model folder key, the first of each being where downloads go.

    Keys: "musetalk" (upstream's layout lies below it: musetalkV15/unet.pth, musetalk/pytorch_model.bin, sd-vae/,
    whisper/, face-parse-bisent/, dwpose/) and "vae" (ComfyUI's VAE files). Both may be absent or empty.
    """

    folders: Mapping[str, Sequence[Path]]

    @classmethod
    def default(cls, models_dir: Path | None = None) -> "ModelFolders":
        """Folders for a models directory: ComfyUI's own models folder or a plain one such as upstream's ./models.

        None: ComfyUI's models folder when this pack lies in ComfyUI/custom_nodes, else ./models. Beside a ComfyUI
        models folder its extra_model_paths.yaml is read too; raises MuseTalkError when that file is not valid.
        """
        models = default_models_dir(PACK_DIR) if models_dir is None else Path(models_dir)
        own = models / "musetalk"
        if not _in_comfyui(models):
            return cls({"musetalk": [models, own], "vae": [models / "vae", models]})
        found = {"musetalk": [own], "vae": [models / "vae"]}
        _add_extra_model_paths(found, models.parent / "extra_model_paths.yaml")
        musetalk = [*found["musetalk"], models]
        return cls({"musetalk": musetalk, "vae": [*found["vae"], *musetalk]})

    @property
    def download_folder(self) -> Path:
        """The folder below which downloads are laid out; raises MuseTalkError when there is none."""
        roots = self.folders.get("musetalk")
        if not roots:
            raise MuseTalkError("No model folder 'musetalk' is set; give --models DIR.")
        return Path(roots[0])

    def find(self, entry_id: str) -> Path:
        """The weight file of a catalogue entry: places in order of preference, folders in order for each.

        Raises MissingWeightsError naming file, folder and the command that gets it, MuseTalkError for an unknown id.
        """
        entry = find_entry(entry_id)
        for key, relative in entry.candidates:
            for root in self.folders.get(key, ()):
                if (path := Path(root) / relative).is_file():
                    return path
        folder = self.download_folder
        raise MissingWeightsError(
            f"{entry.title} is missing: there is no {entry.files[0].path} in {folder}; get it with "
            f"`python -m musetalk_core weights download {entry.id} --models {_models_option(folder)}`."
        )

    def find_named(self, key: str, name: str) -> Path:
        """A file or folder called `name` (may have parts: "sd-vae") in the folders of a key.

        Raises MissingWeightsError naming the folders searched.
        """
        roots = [Path(root) for root in self.folders.get(key, ())]
        for root in roots:
            path = (root / name).resolve()
            if path.exists() and path.is_relative_to(root.resolve()):
                return path
        searched = ", ".join(str(root) for root in roots) or "no folder"
        raise MissingWeightsError(f"There is no {key} model {name!r} in {searched}; give a path or another name.")


def default_models_dir(pack_dir: Path) -> Path:
    """ComfyUI's models folder when `pack_dir` is in ComfyUI/custom_nodes, else ./models (upstream's)."""
    models = pack_dir.parent.parent / "models"
    return models if pack_dir.parent.name == "custom_nodes" and models.is_dir() else Path("models")


def _in_comfyui(models: Path) -> bool:
    parent = models.absolute().parent
    return (parent / "custom_nodes").is_dir() and (parent / "folder_paths.py").is_file()


def _models_option(folder: Path) -> Path:
    """The --models value that leads to this download folder again."""
    return folder.parent if folder.name == "musetalk" and _in_comfyui(folder.parent) else folder


def _add_extra_model_paths(found: dict[str, list[Path]], config: Path) -> None:
    """Add the folders of ComfyUI's extra_model_paths.yaml: sections of {base_path, is_default, key: folders}."""
    if not config.is_file():
        return
    import yaml

    try:
        sections = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MuseTalkError(f"{config} is not valid YAML; mend it as ComfyUI's example shows.") from error
    for section in sections.values() if isinstance(sections, dict) else ():
        if isinstance(section, dict):
            _add_section(found, section, config.absolute().parent)


def _add_section(found: dict[str, list[Path]], section: dict[str, Any], home: Path) -> None:
    """Folders of one section, one a line; is_default puts them before those already found."""
    base = home / Path(os.path.expandvars(str(section.get("base_path", "")))).expanduser()
    for key in found:
        lines = section.get(key)
        folders = [base / line for line in lines.split("\n") if line] if isinstance(lines, str) else []
        found[key] = folders + found[key] if section.get("is_default") else found[key] + folders
