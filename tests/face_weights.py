"""S3FD and DWPose checkpoints that know one picture: random networks whose last layers are fitted to it.

So the whole way from a frame to a face can be tested without the released weights, against a known place.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from comfy_client import REPOSITORY

from musetalk_core.faces.top_down import MIRRORED, look, normalised, views
from musetalk_core.nets.dwpose import BINS, HEIGHT, WIDTH, DWPose
from musetalk_core.nets.s3fd import HEADS, MEAN_BGR, S3FD

sys.path.insert(0, str(REPOSITORY / "scripts"))

from seeded_weights import seeded

SIZE = 256
FACE_BOX = np.array([79.0, 60.0, 179.0, 190.0])  # of the portrait's face, by eye
STRIDE, ANCHOR, CELL = 32, 128, 3  # of the fitted head, and the row and column whose anchor is to become the face
KNOWN = range(23, 91)


def portrait() -> np.ndarray:
    """(256,256,3) uint8: skimage's astronaut, with one face."""
    return np.ascontiguousarray(skimage.data.astronaut()[:SIZE, 96 : 96 + SIZE])


def landmarks() -> np.ndarray:
    """(68,2) where the fitted DWPose sees the portrait's points: a mean face drawn by hand into FACE_BOX."""
    angle = np.linspace(np.pi, 0, 17)
    jaw = np.stack([0.5 + 0.47 * np.cos(angle), 0.45 + 0.5 * np.sin(angle)], 1)
    brows = np.stack([np.r_[np.linspace(0.1, 0.4, 5), np.linspace(0.6, 0.9, 5)], np.full(10, 0.25)], 1)
    nose = np.r_[np.c_[np.full(4, 0.5), np.linspace(0.35, 0.58, 4)], np.c_[np.linspace(0.4, 0.6, 5), np.full(5, 0.62)]]
    eye = np.array([[-0.08, 0], [-0.04, -0.03], [0.04, -0.03], [0.08, 0], [0.04, 0.03], [-0.04, 0.03]])
    eyes = np.r_[eye + [0.28, 0.38], eye + [0.72, 0.38]]
    outer = np.linspace(np.pi, -np.pi, 12, endpoint=False)
    inner = np.linspace(np.pi, -np.pi, 8, endpoint=False)
    lips = np.r_[np.c_[0.17 * np.cos(outer), -0.07 * np.sin(outer)], np.c_[0.13 * np.cos(inner), -0.03 * np.sin(inner)]]
    face = np.concatenate([jaw, brows, nose, eyes, lips + [0.5, 0.76]])
    return FACE_BOX[:2] + face * (FACE_BOX[2:] - FACE_BOX[:2])


def others() -> list[np.ndarray]:
    """Frames in which there is to be no face."""
    grey = np.full((SIZE, SIZE, 3), 127, np.uint8)
    return [np.zeros_like(grey), grey, np.full_like(grey, 255), skimage.data.coffee()[:SIZE, :SIZE]]


@torch.no_grad()
def fitted_s3fd() -> dict[str, torch.Tensor]:
    """The state dict of an S3FD that finds FACE_BOX in the portrait and nothing in the others."""
    net = S3FD().train(False)
    net.load_state_dict(seeded(net.state_dict(), seed=0))
    level = int(np.log2(STRIDE)) - 2
    for name, *_ in HEADS:
        for kind in ("conf", "loc"):
            torch.nn.init.zeros_(net.get_submodule(f"{name}_mbox_{kind}").weight)
            torch.nn.init.zeros_(net.get_submodule(f"{name}_mbox_{kind}").bias)
        net.get_submodule(f"{name}_mbox_conf").bias[0] = 6.0
    rows, wanted = [], []
    for k, frame in enumerate([portrait(), *others()]):
        pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float().flip(1)
        features = net._features(pixels - torch.tensor(MEAN_BGR).view(1, 3, 1, 1))[level]
        rows.append(F.unfold(features, 3, padding=1)[0].T)
        score = torch.full(features.shape[-2:], -6.0)
        if k == 0:
            score[CELL, CELL] = 18.0
        wanted.append(score.flatten())
    name = HEADS[level][0]
    conf, loc = (net.get_submodule(f"{name}_mbox_{kind}") for kind in ("conf", "loc"))
    conf.weight[1] = torch.linalg.lstsq(torch.cat(rows).double(), torch.cat(wanted).double(), driver="gelsd")[0].view(
        conf.weight[1].shape
    )
    middle, side = (FACE_BOX[:2] + FACE_BOX[2:]) / 2, FACE_BOX[2:] - FACE_BOX[:2]
    place = (middle - (STRIDE / 2 + STRIDE * CELL)) / (0.1 * ANCHOR)
    loc.bias[:] = torch.from_numpy(np.concatenate([place, np.log(side / ANCHOR) / 0.2]))
    return net.state_dict()


@torch.no_grad()
def fitted_dwpose() -> dict[str, torch.Tensor]:
    """The state dict of a DWPose that sees landmarks() in the portrait, mirrored too, and nothing in black."""
    net = DWPose().train(False)
    net.load_state_dict(seeded(net.state_dict(), seed=1))
    centres, sizes = views(np.array([[0, 0, SIZE, SIZE]]))
    view = normalised(look(portrait(), centres[0], sizes[0])[None])
    black = normalised(np.zeros((1, HEIGHT, WIDTH, 3), np.uint8))
    features = net.backbone(torch.cat([view, view.flip(-1), black]))
    known = net.head.gau(net.head.mlp(net.head.final_layer(features).flatten(2))).double()
    scale = np.array([WIDTH, HEIGHT]) / sizes[0]
    bins = np.round((landmarks() - centres[0] + sizes[0] / 2) * scale * BINS).astype(int)
    rows = torch.cat([known[0, KNOWN], known[1, [MIRRORED[k] for k in KNOWN]], known[2, KNOWN]])
    across = F.one_hot(torch.from_numpy(bins[:, 0]), WIDTH * BINS).double()
    down = F.one_hot(torch.from_numpy(bins[:, 1]), HEIGHT * BINS).double()
    across = torch.cat([across, across.flip(-1), torch.zeros_like(across)])
    down = torch.cat([down, down, torch.zeros_like(down)])
    net.head.cls_x.weight[:] = torch.linalg.lstsq(rows, across)[0].T
    net.head.cls_y.weight[:] = torch.linalg.lstsq(rows, down)[0].T
    return net.state_dict()


def write_face_weights(folder: Path) -> None:
    """Both checkpoints where MuseTalk's layout has them; DWPose's with what mmengine leaves beside the tensors."""
    for name in ("dwpose", "s3fd"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(fitted_s3fd(), folder / "s3fd" / "s3fd-619a316812.pth")
    meta = {"epoch": 270, "dataset_meta": {"sigmas": np.ones(133, np.float32), "dataset_name": "coco_wholebody"}}
    state = collections.OrderedDict(fitted_dwpose())
    torch.save({"meta": meta, "state_dict": state}, folder / "dwpose" / "dw-ll_ucoco_384.pth")
