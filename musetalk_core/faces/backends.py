"""Face detectors by name: which one a run uses, what it is made of, what is missing for it."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import MissingWeightsError, MuseTalkError
from ..settings import DETECTORS, DetectorChoice
from ..weights.folders import ModelFolders
from ..weights.models import dwpose_state_dict, load_dwpose, load_s3fd
from .detector import Detector, FaceDetector
from .dwpose_detector import DWPoseDetector
from .mmpose_estimator import MMPoseEstimator
from .top_down import DWPoseEstimator, PoseEstimator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A detector and its networks: on the CPU at first, to be moved to the detector's device before it is used."""

    name: str
    detector: Detector
    nets: nn.Module


class Backends:
    """The detectors of a run, each loaded when it is first asked for and kept. device: where they will run."""

    def __init__(self, folders: ModelFolders, device: torch.device) -> None:
        self.folders = folders
        self.device = device
        self._loaded: dict[str, Backend] = {}

    @property
    def loaded(self) -> list[Backend]:
        """Those asked for so far."""
        return list(self._loaded.values())

    def get(self, choice: DetectorChoice) -> Backend:
        """The detector of a choice; "auto" is dwpose when both of its weights are there, else mediapipe.

        Raises MissingWeightsError with the command that gets the file, MuseTalkError for an unknown choice, a wrong
        file or an mmpose that is not installed.
        """
        name = self._best() if choice == "auto" else choice
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _best(self) -> str:
        try:
            self._files()
        except MissingWeightsError as error:
            log.info("Faces are found by the embedded networks: %s", error)
            return "mediapipe"
        return "dwpose"

    def _files(self) -> tuple[Path, Path]:
        return self.folders.find("s3fd"), self.folders.find("dwpose")

    def _load(self, name: str) -> Backend:
        if name == "mediapipe":
            nets = FaceDetector.load_nets()
            return Backend(name, FaceDetector(nets, self.device), nets)
        if name not in ("dwpose", "mmpose"):
            raise MuseTalkError(f"The detector {name!r} is unknown; choose one of {', '.join(DETECTORS)}.")
        s3fd, dwpose = self._files()
        pose: PoseEstimator
        if name == "mmpose":
            pose = MMPoseEstimator(dwpose_state_dict(dwpose), self.device)
        else:
            pose = DWPoseEstimator(load_dwpose(dwpose), self.device)
        detector = DWPoseDetector(load_s3fd(s3fd), pose, self.device)
        return Backend(name, detector, detector.nets)
