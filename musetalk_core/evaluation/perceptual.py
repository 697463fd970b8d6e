"""Measures that need a trained network: LPIPS, the features of FID, and the face's identity (CSIM).

Each is loaded from a file that the user has; nothing is downloaded. Pictures are (H,W,3) RGB, uint8 or floating 0..1.
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import MissingWeightsError, MuseTalkError
from ..weights.state_dict import read_state_dict

# Where the middles of eyes, the tip of the nose and the corners of the mouth lie in ArcFace's 112-pixel crop.
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
ARCFACE_SIZE = 112
INSTALL = "run `pip install -r requirements-evaluate.txt`"


class Lpips:
    """LPIPS 0.1 with AlexNet (Zhang et al. 2018), by the package lpips; path: torchvision's alexnet-owt-7be5be79.pth.

    Raises MissingWeightsError without the file or the package, MuseTalkError when it is another network's.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self._net, self._device = load_lpips(path).to(device), device

    @torch.inference_mode()
    def distance(self, frame: np.ndarray, reference: np.ndarray) -> float:
        """0 for equal pictures, about 0.5 for unlike ones; both of one size."""
        first, second = (_pixels(picture).to(self._device) * 2 - 1 for picture in (frame, reference))
        return float(self._net(first, second))


def load_lpips(path: Path) -> torch.nn.Module:
    """The frozen network of Lpips, float32 on the CPU: two pictures (B,3,H,W) in [-1,1] -> (B,1,1,1).

    Gradients pass to the pictures. Errors as in Lpips.
    """
    try:
        import lpips
    except ImportError as error:
        raise MissingWeightsError(f"The package lpips is not installed; {INSTALL}.") from error
    tensors = {name: value for name, value in read_state_dict(path).items() if name.startswith("features.")}
    # The package would download AlexNet; with a random one it brings its own linear layers all the same.
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    slots = {name: f"features.{name.split('.', 1)[1]}" for name in net.net.state_dict()}
    if set(slots.values()) - set(tensors):
        raise MuseTalkError(f"{path} is not torchvision's AlexNet; give alexnet-owt-7be5be79.pth.")
    net.net.load_state_dict({name: tensors[source] for name, source in slots.items()})
    return net.train(False).requires_grad_(False)


class InceptionFeatures:
    """The 2048 features of FID, by torch-fidelity; path: its weights-inception-2015-12-05-6726825d.pth.

    Raises MissingWeightsError without the file or the package, MuseTalkError when it is another network's.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise MissingWeightsError(f"The package torch-fidelity is not installed; {INSTALL}.") from error
        read_state_dict(path)  # refuses a file with anything but tensors, which torch-fidelity would run
        try:
            net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
        except RuntimeError as error:
            raise MuseTalkError(f"{path} is not torch-fidelity's Inception; see docs/evaluation.md.") from error
        self._net, self._device = net.to(device), device

    @torch.inference_mode()
    def features(self, frame: np.ndarray) -> np.ndarray:
        """(1,2048) float32 of a picture of any size."""
        pixels = (_pixels(frame) * 255).round().to(torch.uint8).to(self._device)
        return self._net(pixels)[0].cpu().numpy()


class FaceEmbedder:
    """A face recognition network in ONNX format with input (1,3,112,112), such as insightface's w600k_r50.onnx.

    Raises MissingWeightsError without the file, MuseTalkError when OpenCV cannot read it.
    """

    def __init__(self, path: Path) -> None:
        import cv2

        if not path.is_file():
            raise MissingWeightsError(f"There is no face embedding network {path}; give an ONNX file.")
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise MuseTalkError(
                f"{path} cannot be read as an ONNX network; give insightface's w600k_r50.onnx."
            ) from error

    def embed(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(D,) of length 1 for the face with these iBUG points (68,2); RGB scaled to -1..1 as ArcFace was trained."""
        import cv2

        turn = align(five_points(landmarks), np.array(ARCFACE_POINTS))
        face = cv2.warpAffine(_bytes(frame), turn, (ARCFACE_SIZE, ARCFACE_SIZE))
        self._net.setInput(cv2.dnn.blobFromImage(face, 1 / 127.5, mean=(127.5, 127.5, 127.5)))
        vector = self._net.forward().ravel().astype(np.float64)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """(5,2): the middles of the eyes, the tip of the nose, the corners of the mouth, of iBUG points (68,2)."""
    eyes = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(np.float64)


def align(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(2,3) of the turn, scale and shift that brings points (N,2) nearest to places (N,2) (Umeyama 1991)."""
    middle, target = points.mean(0), places.mean(0)
    a, b = points - middle, places - target
    u, spread, v = np.linalg.svd(b.T @ a)
    mirror = np.array([1.0, np.sign(np.linalg.det(u @ v))])
    rotation = (u * mirror) @ v
    scale = (spread * mirror).sum() / max(float((a**2).sum()), 1e-12)
    return np.column_stack([scale * rotation, target - scale * rotation @ middle])


def _pixels(frame: np.ndarray) -> torch.Tensor:
    """(1,3,H,W) float32 0..1."""
    return torch.from_numpy(_bytes(frame)).permute(2, 0, 1)[None].float() / 255


def _bytes(frame: np.ndarray) -> np.ndarray:
    if np.issubdtype(frame.dtype, np.floating):
        return (frame.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(frame)
