"""Points of the whole body by the real mmpose, for those who want upstream's own code to run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import MuseTalkError
from ..nets.dwpose import POINTS

CONFIG = ".mim/configs/wholebody_2d_keypoint/rtmpose/ubody/rtmpose-l_8xb32-270e_coco-ubody-wholebody-384x288.py"
INSTALL = "run `python -m pip install --no-deps -r requirements-mmpose.txt` in the pack's folder"
# What mmpose imports for other models and for evaluation: module that shows whether it is there -> names wanted.
OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "xtcocotools": {
        "xtcocotools": (),
        "xtcocotools.coco": ("COCO",),
        "xtcocotools.cocoeval": ("COCOeval",),
        "xtcocotools.mask": (),
    },
    "mmdet": {"mmdet": (), "mmdet.utils": ("ConfigType", "reduce_mean")},
    "mmcv._ext": {"mmcv.ops": ("MultiScaleDeformableAttention",)},
}


class MMPoseEstimator:
    """PoseEstimator by mmpose's inference_topdown, with its flip test.

    state: the tensors of dw-ll_ucoco_384.pth. net: mmpose's model, on the CPU at first; whoever moves it to `device`
    does so before the first estimate. Raises MuseTalkError with the command when mmpose is not installed.
    """

    def __init__(self, state: dict[str, torch.Tensor], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        with stand_ins():
            apis, config = _import_mmpose()
            self._infer = apis.inference_topdown
            self.net: nn.Module = apis.init_model(config, device="cpu")
        self.net.load_state_dict(state)
        self.net.requires_grad_(False)

    def estimate(self, frame: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See PoseEstimator."""
        if not len(boxes):  # mmpose would take the whole frame
            return np.zeros((0, POINTS, 2), np.float32), np.zeros((0, POINTS), np.float32)
        # It notes the device in its own to(), which ComfyUI's model management does not call.
        preprocessor: Any = self.net.data_preprocessor
        preprocessor.to(self.device)
        people = self._infer(self.net, np.ascontiguousarray(frame[..., ::-1]), np.asarray(boxes, dtype=np.float32))
        points = np.concatenate([person.pred_instances.keypoints for person in people])
        scores = np.concatenate([person.pred_instances.keypoint_scores for person in people])
        return points.astype(np.float32), scores.astype(np.float32)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Put empty modules in the place of absent ones that mmpose imports but does not use here; take them away again."""
    added: list[str] = []
    try:
        for shown_by, modules in OPTIONAL.items():
            if not _installed(shown_by):
                for name, attributes in modules.items():
                    module = ModuleType(name)
                    module.__spec__ = ModuleSpec(name, None)  # or whoever asks for it while it is there would fail
                    for attribute in attributes:
                        setattr(module, attribute, type(attribute, (), {}))
                    sys.modules[name] = module
                    added.append(name)
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _installed(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except ImportError:  # the package around it is absent
        return False


def _import_mmpose() -> tuple[Any, Any]:
    """mmpose.apis and the configuration of DWPose's network."""
    try:
        import mmpose
        from mmengine.config import Config
        from mmpose import apis
    except (ImportError, AssertionError, RuntimeError) as error:  # they assert versions, torchvision its operators
        raise MuseTalkError(f"The detector mmpose cannot start ({error}); {INSTALL}, or choose dwpose.") from error
    path = Path(mmpose.__file__).parent / CONFIG
    if not path.is_file():
        raise MuseTalkError(f"The installed mmpose has no {path.name}; {INSTALL}, or choose the detector dwpose.")
    config = Config.fromfile(path)
    config.model.backbone.pop("_scope_", None)  # mmpose has this backbone too, so mmdet is not needed
    return apis, config
