"""Loads the demo model: from its one file when that is there, else untrained and saying so."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..errors import MuseTalkError
from ..files import whole_file
from .audio import DemoAudioEncoder, DemoAudioNet
from .autoencoder import DemoAutoencoder, start_as_thumbnail
from .codec import DemoCodec

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..generator import MuseTalkGenerator

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
FILE = FOLDER / "demo.safetensors"
CONFIG = FOLDER / "config.json"
FORMAT = "musetalk-demo-1"
UNTRAINED = "the demo model is untrained: it shows the data path, the mouth is noise"
SEED = 20261121


@dataclass(frozen=True)
class DemoNets:
    """The three networks, wherever and in whatever dtype they lie, and the configuration they were built from.

    config: {"vae", "unet", "audio"} hold each network's constructor arguments, "scaling" is what latents are
    multiplied by at the UNet's input and divided by at its output.
    """

    vae: DemoAutoencoder
    unet: "UNet2DConditionModel"
    audio: DemoAudioNet
    config: dict[str, Any]

    def modules(self) -> dict[str, nn.Module]:
        """The networks by their prefix in the file."""
        return {"vae": self.vae, "unet": cast(nn.Module, self.unet), "audio": self.audio}


@dataclass(frozen=True)
class DemoModels:
    """The demo model behind the core's interfaces; `nets` are the modules inside, for a host to manage."""

    codec: DemoCodec
    generator: "MuseTalkGenerator"
    audio_encoder: DemoAudioEncoder
    trained: bool
    nets: DemoNets


def load_demo(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, path: str | Path | None = None
) -> DemoModels:
    """The demo model on `device` in `dtype`, ready to infer.

    path: a file that save_demo wrote; None takes the package's demo.safetensors and, when there is none, networks
    initialised from a fixed seed, with one warning in the log. Raises MuseTalkError for a file that is missing,
    damaged or something else.
    """
    nets, trained = read_demo(path)
    if not trained:
        log.warning(UNTRAINED)
    for module in nets.modules().values():
        nn.Module.to(module, device, dtype)  # diffusers' own warns of float32 modules where there are none
    return wrap_demo(nets, trained, device, dtype)


def wrap_demo(nets: DemoNets, trained: bool, device: torch.device | str, dtype: torch.dtype) -> DemoModels:
    """Codec, generator and audio encoder around `nets`, which lie on `device` in `dtype` or will when they run."""
    from ..generator import MuseTalkGenerator
    from ..weights.layouts import MUSETALK_LAYOUT

    return DemoModels(
        codec=DemoCodec(nets.vae, device, dtype),
        generator=MuseTalkGenerator(
            nets.unet, MUSETALK_LAYOUT, torch.device(device), dtype, scaling=nets.config["scaling"]
        ),
        audio_encoder=DemoAudioEncoder(nets.audio, device, dtype),
        trained=trained,
        nets=nets,
    )


def read_demo(path: str | Path | None = None) -> tuple[DemoNets, bool]:
    """The networks on the CPU, in the file's dtype, and whether they are trained; `path`, errors as in load_demo."""
    if path is None and not FILE.is_file():
        return initial_nets(), False
    return _read_file(FILE if path is None else Path(path))


def initial_nets(config: Mapping[str, Any] | None = None, seed: int = SEED) -> DemoNets:
    """Untrained networks, float32 on the CPU, the same for the same seed; the global random state is kept.

    The autoencoder starts as an 8x8-pixel thumbnail (autoencoder.start_as_thumbnail), the others at random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        nets = _build(dict(config) if config is not None else json.loads(CONFIG.read_text(encoding="utf-8")))
    start_as_thumbnail(nets.vae)
    return _frozen(nets)


def save_demo(path: str | Path, nets: DemoNets, trained: bool = True) -> None:
    """Write the networks to one safetensors file, atomically, each tensor in the dtype that it has.

    Keys are vae.*, unet.*, audio.*; the metadata holds format, trained ("true" or "false") and the configuration
    as JSON.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, module in nets.modules().items()
        for name, tensor in module.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "trained": "true" if trained else "false",
        "config": json.dumps(nets.config, sort_keys=True),
    }
    with whole_file(Path(path)) as part:
        save_file(tensors, part, metadata=metadata)


def _build(config: dict[str, Any]) -> DemoNets:
    from diffusers import UNet2DConditionModel

    return DemoNets(
        vae=DemoAutoencoder(**config["vae"]),
        unet=UNet2DConditionModel(**config["unet"]),
        audio=DemoAudioNet(**config["audio"]),
        config=config,
    )


def _frozen(nets: DemoNets) -> DemoNets:
    for module in nets.modules().values():
        module.train(False).requires_grad_(False)
    return nets


def _read_file(path: Path) -> tuple[DemoNets, bool]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MuseTalkError(f"There is no demo model at {path}; give a file that save_demo wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise MuseTalkError(
            f"{path} is damaged or no safetensors file ({error}); get it again from the repository."
        ) from error
    if metadata.get("format") != FORMAT:
        raise MuseTalkError(
            f"{path} is not a demo model (its format is {metadata.get('format')!r}, {FORMAT!r} is expected); "
            "load MuseTalk's own weights as version v1.5 or v1.0."
        )
    with torch.device("meta"):
        nets = _build(json.loads(metadata["config"]))
    for prefix, module in nets.modules().items():
        own = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        _assign(module, own, path, prefix)
    return _frozen(nets), metadata["trained"] == "true"


def _assign(module: nn.Module, tensors: dict[str, torch.Tensor], path: Path, prefix: str) -> None:
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise MuseTalkError(
            f"{path} does not fit its own configuration at {prefix!r}; save it again with save_demo ({error})."
        ) from error
