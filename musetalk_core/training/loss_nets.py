"""The frozen networks that losses look through, and where their weights lie."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..errors import MissingWeightsError
from ..evaluation.weights import ALEXNET
from ..nets.latentsync_syncnet import LatentSyncNet
from ..nets.vgg import Vgg19
from ..weights.folders import ModelFolders
from .recipes import LossSettings

# Below the model folder "musetalk"; docs/training_losses.md says where to get them.
VGG19 = "training/vgg19-dcbb9e9d.pth"
SYNCNETS = ("syncnet/latentsync_syncnet.pt", "syncnet/stable_syncnet.pt")


@dataclass(frozen=True)
class LossNets:
    """Networks without gradients of their own, on the device of the training; None where no loss needs one."""

    vgg: Vgg19 | None = None
    lpips: nn.Module | None = None
    syncnet: LatentSyncNet | None = None


def load_loss_nets(settings: LossSettings, folders: ModelFolders, device: torch.device) -> LossNets:
    """The networks of the losses that are switched on.

    Raises MissingWeightsError naming the file and how to do without, MuseTalkError when a file holds something else.
    """
    from ..evaluation.perceptual import load_lpips
    from ..weights.models import load_latentsync_syncnet, load_vgg19

    nets = LossNets()
    if settings.perceptual:
        nets = replace(nets, vgg=load_vgg19(_find(folders, "perceptual", (VGG19,))).to(device))
    if settings.lpips:
        nets = replace(nets, lpips=load_lpips(_find(folders, "lpips", (ALEXNET,))).to(device))
    if settings.sync:
        nets = replace(nets, syncnet=load_latentsync_syncnet(_find(folders, "sync", SYNCNETS)).to(device))
    return nets


def _find(folders: ModelFolders, loss: str, names: tuple[str, ...]) -> Path:
    """The first of the files that is there."""
    for name in names:
        try:
            return folders.find_named("musetalk", name)
        except MissingWeightsError:
            continue
    raise MissingWeightsError(
        f"The loss {loss!r} needs {' or '.join(names)}, and {folders.download_folder} has no such file; put it there "
        f"(docs/training_losses.md says from where) or set {loss} to 0."
    )
