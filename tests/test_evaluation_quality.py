"""Picture measures against scikit-image, closed forms and pictures made to be known."""

from fractions import Fraction
from pathlib import Path

import cv2
import lpips
import numpy as np
import pytest
import torch
import torchvision
from clips import portrait
from scipy import linalg
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import SimilarityTransform
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.evaluation import image
from musetalk_core.evaluation.clip import Clip
from musetalk_core.evaluation.cpbd import cpbd, edge_widths
from musetalk_core.evaluation.faces import ClipFaces
from musetalk_core.evaluation.fid import FeatureStatistics, fid, frechet_distance
from musetalk_core.evaluation.jitter import RegionJitter
from musetalk_core.evaluation.perceptual import ARCFACE_POINTS, FaceEmbedder, InceptionFeatures, Lpips, align
from musetalk_core.evaluation.quality import QualityTools, measure_quality
from musetalk_core.faces.detector import FaceDetector
from musetalk_core.media.source import TensorFrames

QUARTERS = Path(__file__).with_name("data") / "quarters.onnx"  # the mean of each quarter of each channel


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(FaceDetector.load_nets())


def noisy(picture, seed=0, sigma=8):
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def test_ssim_and_psnr_are_scikit_images():
    picture, other = portrait(128), noisy(portrait(128))
    grey = [frame @ np.array([0.299, 0.587, 0.114]) for frame in (picture, other)]
    whole, places = structural_similarity(*grey, data_range=255, full=True)
    found, around = image.ssim_map(picture, other)
    assert found == pytest.approx(whole)
    np.testing.assert_allclose(around, places, atol=1e-12)
    assert image.psnr(picture, other) == pytest.approx(peak_signal_noise_ratio(picture, other))
    assert image.ssim_map(picture, picture)[0] == pytest.approx(1)
    assert image.l1(picture, other) == pytest.approx(np.abs(picture.astype(float) - other).mean())
    with pytest.raises(MuseTalkError, match="7 pixels"):
        image.ssim_map(picture[:5], other[:5])


def test_cpbd_falls_with_every_step_of_blur():
    step = np.zeros((256, 256, 3), np.uint8)
    step[:, 128:] = 200
    step[:, ::37] = 90
    for picture in (step, data.astronaut(), data.chelsea()):
        values = [cpbd(picture)] + [cpbd(cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.5, 1, 2)]
        assert values == sorted(values, reverse=True) and values[0] > values[1] > values[2] and values[3] < 0.05
    assert np.isnan(cpbd(np.full((128, 128, 3), 90, np.uint8)))


def test_edge_width_is_the_length_of_a_ramp():
    row = np.concatenate([np.full(50, 20.0), np.linspace(20, 220, 9)[1:], np.full(50, 220.0)])
    for picture in (np.tile(row, (40, 1)), np.tile(row[::-1], (40, 1))):
        widths = edge_widths(picture)
        assert set(widths[20][widths[20] > 0]) == {8}


def test_fid_of_gaussians_is_the_closed_form():
    generator = np.random.default_rng(0)
    first, second = (a @ a.T + np.eye(6) for a in generator.normal(size=(2, 6, 6)))
    means = generator.normal(size=(2, 6))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(means[0], first, means[1], second) == pytest.approx(expected)
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2.
    assert frechet_distance(np.zeros(1), np.eye(1) * 4, np.ones(1) * 3, np.eye(1) * 25) == pytest.approx(9 + 9)
    assert frechet_distance(means[0], first, means[0], first) == pytest.approx(0, abs=1e-8)


def test_fid_gathers_in_parts_and_warns_of_few_samples():
    rows = np.random.default_rng(0).normal(3, 2, (3000, 5))
    made, real = FeatureStatistics(), FeatureStatistics()
    for part in np.array_split(rows, 7):
        clip = FeatureStatistics()
        clip.add(part[:100])
        clip.add(part[100:])
        made.include(clip)
    real.add(rows + 1)
    np.testing.assert_allclose(made.mean, rows.mean(0))
    np.testing.assert_allclose(made.covariance, np.cov(rows.T), atol=1e-9)
    assert fid(made, real) == (pytest.approx(5), "")
    few = FeatureStatistics()
    few.add(rows[:100])
    assert "100" in fid(few, real)[1] and "2048" in fid(few, real)[1]


def test_jitter_is_zero_for_steady_light_and_seen_where_it_is():
    points = np.zeros((68, 2))
    points[36], points[45] = (40, 40), (104, 40)
    still, steady, nose = RegionJitter(), RegionJitter(), RegionJitter()
    for k in range(8):
        frame = np.full((160, 160, 3), 100, np.uint8)
        still.add(frame, points)
        steady.add(frame + np.uint8(3 * k), points)
        frame[45:75, 50:95] += np.uint8(10 * (k % 2))  # below the eyes, above the mouth
        nose.add(frame, points)
    assert still.figures() == {"nose_jitter": 0, "mouth_jitter": 0}
    assert steady.figures()["nose_jitter"] == pytest.approx(0, abs=1e-6)
    assert nose.figures()["nose_jitter"] > 15 and nose.figures()["mouth_jitter"] < 1
    nose.add(frame, None)
    assert np.isnan(RegionJitter().figures()["nose_jitter"])


def test_alignment_is_scikit_images_similarity():
    points = np.random.default_rng(0).uniform(0, 200, (5, 2))
    expected = SimilarityTransform.from_estimate(points, np.array(ARCFACE_POINTS))
    np.testing.assert_allclose(align(points, np.array(ARCFACE_POINTS)), expected.params[:2], atol=1e-9)


def test_embedding_is_the_networks_of_the_upright_face():
    """The network gives the mean of each quarter, so the vector is known from the crop."""
    landmarks = np.zeros((68, 2))
    eye_left, eye_right, nose, mouth_left, mouth_right = np.array(ARCFACE_POINTS)
    landmarks[36:42], landmarks[42:48], landmarks[30] = eye_left, eye_right, nose
    landmarks[48], landmarks[54] = mouth_left, mouth_right
    face = cv2.resize(portrait(256), (112, 112))
    means = [face[y : y + 56, x : x + 56].mean((0, 1)) / 127.5 - 1 for y in (0, 56) for x in (0, 56)]
    expected = np.stack(means, 1).ravel()
    found = FaceEmbedder(QUARTERS).embed(face, landmarks)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-4)
    with pytest.raises(MissingWeightsError):
        FaceEmbedder(QUARTERS.with_name("none.onnx"))


def test_lpips_takes_alexnet_from_a_file(tmp_path):
    alexnet = torchvision.models.alexnet(weights=None)
    torch.save(alexnet.state_dict(), tmp_path / "alexnet.pth")
    known = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for piece in (known.net.slice1, known.net.slice2, known.net.slice3, known.net.slice4, known.net.slice5):
        for name, layer in piece.named_children():
            layer.load_state_dict(alexnet.features[int(name)].state_dict())
    picture, other = portrait(64), noisy(portrait(64))
    first, second = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (picture, other))
    measure = Lpips(tmp_path / "alexnet.pth")
    assert measure.distance(picture, other) == pytest.approx(known(first, second).item(), rel=1e-4)
    assert measure.distance(picture, picture) == 0


def test_inception_takes_its_weights_from_a_file(tmp_path, monkeypatch):
    other = str(tmp_path / "other.pth")
    torch.save({"a": torch.zeros(1)}, other)
    with pytest.raises(MuseTalkError, match="not torch-fidelity's"):
        InceptionFeatures(Path(other))
    with monkeypatch.context() as patch:  # the package cannot make a random network otherwise
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        net = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=str(tmp_path / "other.pth")
        )
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    picture = portrait(128)
    found = InceptionFeatures(tmp_path / "inception.pth").features(picture)
    expected = net(torch.from_numpy(picture).permute(2, 0, 1)[None])[0]
    assert found.shape == (1, 2048) and found.std() > 0
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_measures_of_a_clip_that_differs_only_in_the_mouth(detector):
    """Equal outside the mask; the lips are brighter by 10, so PSNR of them alone is 20 log10(255 / 10)."""
    pictures = torch.from_numpy(portrait(256)).repeat(3, 1, 1, 1)
    source = TensorFrames(pictures, Fraction(25))
    points = ClipFaces(Clip("source", source), detector).own.landmarks[0]
    lips = cv2.fillPoly(np.zeros((256, 256), np.uint8), [points[48:60].astype(np.int32)], 1) > 0
    changed = pictures.numpy().clip(0, 245).copy()
    base = TensorFrames(torch.from_numpy(changed.copy()), Fraction(25))
    changed[:, lips] += 10
    clip = Clip("mouth", TensorFrames(torch.from_numpy(changed), Fraction(25)), None, base, base)
    figures = measure_quality(clip, ClipFaces(clip, detector), QualityTools())
    assert figures["outside_psnr"] == 100
    of_lips = 20 * np.log10(255 / 10)
    region = image.mouth_region(points, (256, 256))
    assert figures["mouth_psnr"] == pytest.approx(of_lips + 10 * np.log10(region.sum() / lips.sum()), abs=1e-6)
    assert figures["psnr"] == pytest.approx(of_lips + 10 * np.log10(1 / lips.mean()), abs=1e-6)
    assert figures["mouth_ssim"] < figures["ssim"] < 1 and figures["l1"] == pytest.approx(10 * lips.mean())
    assert figures["mouth_sharpness"] == pytest.approx(1, abs=0.2) and figures["nose_jitter"] == 0
    assert figures["lpips"] == figures["csim"] == "weights missing"


def test_a_still_source_is_searched_once_and_shared_with_the_reference(detector):
    class Counted(FaceDetector):
        looks = 0

        def detect(self, frame):
            self.looks += 1
            return super().detect(frame)

    counted = Counted(detector.nets)
    pictures = torch.from_numpy(portrait(256))[None]
    still = TensorFrames(pictures, Fraction(25))
    faces = ClipFaces(
        Clip("still", TensorFrames(pictures.repeat(4, 1, 1, 1), Fraction(25)), None, still, still), counted
    )
    assert len(faces.clip) == 1 and counted.looks == 0, "a reference of one frame has one moment"
    alone = ClipFaces(Clip("still", TensorFrames(pictures.repeat(4, 1, 1, 1), Fraction(25)), None, still), counted)
    assert len(alone.source) == 4 and alone.source.present.all() and counted.looks == 1
    np.testing.assert_array_equal(faces.reference_landmarks, alone.source.landmarks[:1])
    assert counted.looks == 2 and faces.source.present.all() and counted.looks == 2


def test_csim_is_one_for_the_same_face(detector):
    pictures = torch.from_numpy(portrait(256))[None]
    frames = TensorFrames(pictures, Fraction(25))
    clip = Clip("same", frames, None, frames)
    figures = measure_quality(clip, ClipFaces(clip, detector), QualityTools(embedder=FaceEmbedder(QUARTERS)))
    assert figures["csim"] == pytest.approx(1) and figures["seam"] == pytest.approx(1)


def test_sizes_that_differ_are_told():
    small, large = (TensorFrames(torch.zeros((2, n, n, 3)), Fraction(25)) for n in (8, 16))
    with pytest.raises(MuseTalkError, match="16x16 pixels and its reference 8x8"):
        Clip("x", large, None, None, small)


def test_a_clip_without_a_face_has_reasons_instead_of_numbers(detector):
    frames = TensorFrames(torch.full((3, 64, 64, 3), 90, dtype=torch.uint8), Fraction(25))
    clip = Clip("none", frames, None, frames)
    figures = measure_quality(clip, ClipFaces(clip, detector), QualityTools())
    assert figures["outside_psnr"] == figures["nose_jitter"] == figures["cpbd"] == "nothing to measure"
