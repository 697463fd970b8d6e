"""Avatars for tests: real clips, the demo networks, and folders as MuseTalk's own script leaves them."""

import json
import pickle
from fractions import Fraction
from pathlib import Path

import clips
import cv2
import numpy as np
import torch

from musetalk_core.avatars.avatar import Avatar
from musetalk_core.avatars.prepare import prepare_avatar
from musetalk_core.engine import Engine, WeightChoice, load_engine
from musetalk_core.media.source import FrameSource, TensorFrames
from musetalk_core.settings import LipSyncSettings
from musetalk_core.weights.folders import ModelFolders

SETTINGS = LipSyncSettings(detector="mediapipe")


def demo_engine() -> Engine:
    return load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)


def frames(count: int, size: int = 256, fps: Fraction = Fraction(25)) -> TensorFrames:
    """The moving portrait, in memory."""
    return TensorFrames(torch.from_numpy(clips.moving_portrait(count, size)), fps)


def prepared(
    engine: Engine, folder: Path, source: FrameSource, settings: LipSyncSettings = SETTINGS, **more: object
) -> Avatar:
    return prepare_avatar(folder.name, source, engine.models(settings), settings, engine.version, folder, **more)


def upstream_folder(folder: Path, count: int, version: str = "v15", doubled: bool = True) -> dict[str, np.ndarray]:
    """A folder as scripts/realtime_inference.py of MuseTalk writes it, of random latents; returns what is in it once.

    As there: numpy integers in the boxes, lists and tuples, masks of the enlarged square, latents times 0.18215.
    """
    random = np.random.default_rng(3)
    pictures = clips.moving_portrait(count, 128)
    for name in ("full_imgs", "mask", "vid_output"):
        (folder / name).mkdir(parents=True)
    boxes, regions, masks, latents = [], [], [], []
    for k in range(count):
        x1, y1, x2, y2 = np.int32(30 + k), 20, np.int32(90 + k), np.int32(84)
        centre_x, centre_y, side = (x1 + x2) // 2, (y1 + y2) // 2, int(max(x2 - x1, y2 - y1) // 2 * 1.5)
        boxes.append([x1, y1, x2, y2])
        regions.append([centre_x - side, centre_y - side, centre_x + side, centre_y + side])
        masks.append(random.integers(0, 256, (2 * side, 2 * side), dtype=np.uint8))
        latents.append(torch.from_numpy(random.normal(0, 1, (1, 8, 32, 32)).astype(np.float16)))
    order = [*range(count), *reversed(range(count))] if doubled else list(range(count))
    for place, k in enumerate(order):
        cv2.imwrite(str(folder / "full_imgs" / f"{place:08d}.png"), pictures[k][..., ::-1])
        cv2.imwrite(str(folder / "mask" / f"{place:08d}.png"), masks[k])
    (folder / "coords.pkl").write_bytes(pickle.dumps([boxes[k] for k in order]))
    (folder / "mask_coords.pkl").write_bytes(pickle.dumps([regions[k] for k in order]))
    torch.save([latents[k] for k in order], folder / "latents.pt")
    described = {"avatar_id": "avator_1", "video_path": "data/video/yongen.mp4", "bbox_shift": 5, "version": version}
    (folder / "avator_info.json").write_text(json.dumps(described))
    return {
        "pictures": pictures,
        "boxes": np.array(boxes, np.float32),
        "latents": np.concatenate([latent.float().numpy() for latent in latents]),
        "masks": np.stack(
            [
                mask[y1 - top : y2 - top, x1 - left : x2 - left]
                for mask, (x1, y1, x2, y2), (left, top, _, _) in zip(masks, boxes, regions, strict=True)
            ]
        ),
    }
