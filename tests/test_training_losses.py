"""The losses of MuseTalk's UNet by hand, VGG-19 against torchvision's, and whom gradients reach."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional as F

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.evaluation.perceptual import load_lpips
from musetalk_core.nets.vgg import Vgg19
from musetalk_core.training.face_discriminator import FaceDiscriminator, feature_matching, mouth_crops
from musetalk_core.training.loss_nets import LossNets, load_loss_nets
from musetalk_core.training.objective import Made, Objective, Target
from musetalk_core.training.perceptual import VggPyramidLoss, gaussian, shrunk
from musetalk_core.training.recipes import DiscriminatorSettings, LossSettings
from musetalk_core.weights.folders import ModelFolders
from musetalk_core.weights.models import load_vgg19

CPU = torch.device("cpu")
TAPS = (1, 6, 11, 20, 29)  # relu1_1 ... relu5_1 of torchvision's features
NARROW = [2, 2, "M", 3, 3, "M", 4, 4, 4, 4, "M", 5, 5, 5, 5, "M", 6, 6, 6, 6, "M"]
SMALL = DiscriminatorSettings(width=2, spectral=False)


def write_narrow_vgg(path, layers=NARROW):
    """A file with a classifier's keys, as torchvision's, and torchvision's own features with its weights."""
    features = torchvision.models.vgg.make_layers(layers)
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2), "classifier.6.weight": torch.zeros(2, 2)}, path)
    return features


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    write_narrow_vgg(path)
    return load_vgg19(path)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# --- VGG-19 and the perceptual loss


def test_vgg19_takes_torchvisions_checkpoint():
    with torch.device("meta"):
        known = torchvision.models.vgg19(weights=None).state_dict()
        ours = Vgg19().state_dict()
    assert {name: known[name].shape for name in ours} == {name: tensor.shape for name, tensor in ours.items()}
    assert list(ours)[-1] == "features.28.bias" and len(ours) == 26


def test_vgg_features_are_torchvisions(tmp_path):
    features = write_narrow_vgg(tmp_path / "vgg.pth")
    net = load_vgg19(tmp_path / "vgg.pth")
    pixels = noise(2, 3, 40, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    found = net(pixels)
    with torch.no_grad():
        expected = [features[: tap + 1](values) for tap in TAPS]
    assert len(found) == 5 and not any(p.requires_grad for p in net.parameters())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_other_networks_are_no_vgg19(tmp_path):
    sixteen = [2, 2, "M", 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M", 2, 2, 2, "M"]
    write_narrow_vgg(tmp_path / "vgg16.pth", sixteen)
    with pytest.raises(MuseTalkError, match=r"vgg16\.pth holds a VGG classifier, not torchvision's VGG-19"):
        load_vgg19(tmp_path / "vgg16.pth")


def test_pictures_shrink_through_a_gaussian():
    """Deviation (1/scale - 1)/2; of a white picture the corner sees the kernel's inner quarter, the rest is zeros."""
    weights = [math.exp(-(k**2) / (2 * 0.5**2)) for k in (-2, -1, 0, 1, 2)]
    line = torch.tensor(weights) / sum(weights)
    torch.testing.assert_close(gaussian(0.5), line[:, None] * line)
    assert [len(gaussian(scale)) for scale in (0.5, 0.25, 0.125)] == [5, 13, 29]
    small = shrunk(torch.ones(1, 2, 32, 24), 0.5)
    assert small.shape == (1, 2, 16, 12)
    assert small[0, 1, 8, 6].item() == pytest.approx(1)
    assert small[0, 0, 0, 0].item() == pytest.approx(line[2:].sum().item() ** 2)
    assert shrunk(small, 0.25).shape == (1, 2, 4, 3)


def test_perceptual_loss_of_known_features():
    """All layers pass on red, so each holds relu((red - mean) / deviation) and differs by (1 - 0.5) / deviation."""
    net = Vgg19((1, 1, 1, 1, 1)).requires_grad_(False)
    for parameter in net.parameters():
        parameter.zero_()
        if parameter.ndim == 4:
            parameter[0, 0, 1, 1] = 1
    made, real = torch.full((1, 3, 32, 32), 1.0), torch.full((1, 3, 32, 32), 0.5)
    step = 0.5 / 0.229
    even = VggPyramidLoss(net, (1.0,), (1.0, 1.0, 1.0, 1.0, 1.0))
    assert even(made, real).item() == pytest.approx(5 * step / 5, rel=1e-5)
    black = torch.full((1, 3, 32, 32), -1.0)  # below the mean: relu gives 0
    assert even(black, real).item() == pytest.approx((0.5 - 0.485) / 0.229, rel=1e-4)


def test_perceptual_loss_sums_sizes_and_weighs_layers(vgg):
    made, real = noise(1, 3, 64, 64).requires_grad_(True), noise(1, 3, 64, 64, seed=1).requires_grad_(True)
    weights = (1.0, 0.0, 0.0, 0.0, 3.0)
    loss = VggPyramidLoss(vgg, (1.0, 0.25), weights)(made, real)
    expected = 0.0
    for size in (1.0, 0.25):
        pairs = list(zip(vgg(shrunk(made, size)), vgg(shrunk(real, size)), strict=True))
        first, last = ((a - b).abs().mean().item() for a, b in (pairs[0], pairs[4]))
        expected += (first + 3 * last) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert made.grad.abs().sum() > 0 and real.grad is None
    assert all(p.grad is None for p in vgg.parameters())


# --- the discriminator


def test_discriminator_has_the_published_size_and_maps():
    torch.manual_seed(0)
    discriminator = FaceDiscriminator()
    expected = 0
    for inputs, outputs in ((3, 64), (64, 128), (128, 256), (256, 512)):
        expected += 16 * inputs * outputs + outputs + (2 * outputs if inputs > 3 else 0)
    expected += 512 + 1
    assert sum(p.numel() for p in discriminator.parameters()) == expected == 2_758_849
    with torch.no_grad():
        verdict, maps = discriminator(noise(1, 3, 224, 224))
        assert verdict.shape == (1, 1, 22, 22)
        assert [tuple(m.shape[1:]) for m in maps] == [(64, 110, 110), (128, 53, 53), (256, 25, 25), (512, 22, 22)]
        assert discriminator(noise(1, 3, 256, 256))[0].shape == (1, 1, 26, 26)
    for weight in (discriminator.blocks[1].conv.weight, discriminator.verdict.weight):
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_discriminator_without_spectral_norm_is_the_written_out_one():
    discriminator = FaceDiscriminator(width=2, blocks=2, widest=6, spectral=False)
    pixels = noise(2, 3, 20, 20)
    first, second = (block.conv for block in discriminator.blocks)
    assert (first.out_channels, second.out_channels) == (4, 6)
    with torch.no_grad():
        maps = F.avg_pool2d(F.leaky_relu(F.conv2d(pixels, first.weight, first.bias), 0.2), 2)
        deep = F.conv2d(maps, second.weight, second.bias)
        deep = (deep - deep.mean((2, 3), True)) / (deep.var((2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        deep = F.leaky_relu(deep, 0.2)
        verdict, found = discriminator(pixels)
        torch.testing.assert_close(found, [maps, deep], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(verdict, discriminator.verdict(deep), atol=1e-5, rtol=1e-4)


def test_feature_matching_sums_the_means_of_blocks():
    made, real = [torch.tensor([1.0, 3.0]), torch.tensor([[5.0]])], [torch.tensor([0.0, 0.0]), torch.tensor([[1.0]])]
    assert feature_matching(made, real, (1.0, 0.5)).item() == 2 + 0.5 * 4


def test_mouths_are_cut_at_their_boxes():
    pixels = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).view(2, 3, 8, 8)
    boxes = torch.tensor([[1, 2, 5, 6], [0, 0, 0, 0]])
    crops = mouth_crops(pixels, boxes, 4)
    assert torch.equal(crops, pixels[:1, :, 2:6, 1:5])
    beyond = torch.tensor([[-3.0, -1.0, 2.2, 1.9], [20.0, 20.0, 30.0, 30.0]])
    assert torch.equal(mouth_crops(pixels, beyond, 2), pixels[:1, :, :2, :2])
    wide = mouth_crops(pixels[:1], torch.tensor([[0, 0, 2, 1]]), 4)
    assert wide[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert mouth_crops(pixels, torch.zeros(2, 4)).shape == (0, 3, 256, 256)


# --- the objective


def example(frames=2):
    """Real pictures are black; the made ones are 0.5 brighter in the lower half, their latents 0.1 off."""
    pixels = torch.full((1, frames, 3, 256, 256), -1.0)
    made = pixels.clone()
    made[..., 128:, :] += 0.5
    latents = torch.zeros(1, frames, 4, 32, 32)
    target = Target(pixels, torch.tensor([[[100, 150, 160, 190]] * frames]), latents)
    return target, Made(made.requires_grad_(True), (latents + 0.1).requires_grad_(True))


def test_l1_terms_and_their_weighted_sum():
    target, made = example()
    settings = LossSettings(pixels=3.0, lower_pixels=2.0, latents=1.0)
    loss, terms = Objective(settings, SMALL, LossNets(), CPU).generator_step(target, made, 0)
    assert {name: round(value.item(), 6) for name, value in terms.items()} == {
        "pixels": 0.25,
        "lower_pixels": 0.5,
        "latents": 0.1,
    }
    assert loss.item() == pytest.approx(3 * 0.25 + 2 * 0.5 + 0.1)
    loss.backward()
    each = 1 / made.pixels.numel()
    assert made.pixels.grad[0, 0, 0, 200, 7].item() == pytest.approx(3 * each + 2 * 2 * each)
    assert made.pixels.grad[0, 0, 0, 10, 7].item() == 0
    assert not any(value.requires_grad for value in terms.values())


def test_perceptual_term_is_the_loss_at_224_pixels(vgg):
    target, made = example(1)
    objective = Objective(LossSettings(perceptual=0.01, scales=(1.0,)), SMALL, LossNets(vgg=vgg), CPU)
    loss, terms = objective.generator_step(target, made, 0)
    shown = (F.interpolate(p[0], (224, 224), mode="bilinear") for p in (made.pixels, target.pixels))
    expected = VggPyramidLoss(vgg, (1.0,), (1.0,) * 5)(*shown).item()
    assert terms["perceptual"].item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(0.01 * expected)


def test_lpips_term_is_of_the_lower_half(tmp_path):
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    net = load_lpips(tmp_path / "alexnet.pth")
    target, made = example(1)
    objective = Objective(LossSettings(lpips=2.0), SMALL, LossNets(lpips=net), CPU)
    loss, terms = objective.generator_step(target, made, 0)
    expected = net(made.pixels[0, :, :, 128:], target.pixels[0, :, :, 128:]).item()
    assert expected > 0 and terms["lpips"].item() == pytest.approx(expected)
    loss.backward()
    assert made.pixels.grad[..., 128:, :].abs().sum() > 0 and made.pixels.grad[..., :128, :].abs().sum() == 0
    assert all(p.grad is None for p in net.parameters())


GAN = LossSettings(adversarial=0.1, mouth_adversarial=0.2, adversarial_from=5, feature_matching=(1.0, 2.0, 3.0, 4.0))


def test_adversarial_terms_start_late_and_feature_matching_at_once():
    """The generator's side sees 224 pixels, the discriminators 256; the mouth's see the box, enlarged."""
    torch.manual_seed(0)
    objective = Objective(GAN, SMALL, LossNets(), CPU)
    target, made = example(1)
    early, terms = objective.generator_step(target, made, 4)
    assert set(terms) == {"face_features", "mouth_features"}
    loss, terms = objective.generator_step(target, made, 5)
    assert set(terms) == {"face_features", "mouth_features", "face_adversarial", "mouth_adversarial"}
    views = {name: (made.pixels[0], target.pixels[0]) for name in ("face", "mouth")}
    enlarged = (F.interpolate(p[:, :, 150:190, 100:160], (256, 256), mode="bilinear") for p in views["mouth"])
    views["mouth"] = tuple(enlarged)
    expected = {}
    with torch.no_grad():
        for name, pair in views.items():
            fake, real = (objective.discriminators[name](F.interpolate(p, (224, 224), mode="bilinear")) for p in pair)
            expected[f"{name}_adversarial"] = ((1 - fake[0]) ** 2).mean().item()
            means = [(a - b).abs().mean().item() for a, b in zip(fake[1], real[1], strict=True)]
            expected[f"{name}_features"] = sum((k + 1) * mean for k, mean in enumerate(means))
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    features = expected["face_features"] + expected["mouth_features"]
    assert early.item() == pytest.approx(features, rel=1e-4)
    adversarial = 0.1 * expected["face_adversarial"] + 0.2 * expected["mouth_adversarial"]
    assert loss.item() == pytest.approx(features + adversarial, rel=1e-4)
    loss.backward()
    assert made.pixels.grad.abs().sum() > 0
    discriminators = objective.discriminators.values()
    assert all(p.grad is None and p.requires_grad for d in discriminators for p in d.parameters())


def test_discriminators_learn_from_256_pixels_and_leave_the_generator_alone():
    torch.manual_seed(0)
    objective = Objective(GAN, SMALL, LossNets(), CPU)
    target, made = example(1)
    assert objective.discriminator_step(target, made, 4) == (None, {})
    loss, terms = objective.discriminator_step(target, made, 5)
    face = objective.discriminators["face"]
    with torch.no_grad():
        real, fake = face(target.pixels[0])[0], face(made.pixels[0])[0]
    assert real.shape == (1, 1, 26, 26)
    assert terms["face_discriminator"].item() == pytest.approx(((1 - real) ** 2 + fake**2).mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(sum(value.item() for value in terms.values()), rel=1e-5) and len(terms) == 2
    loss.backward()
    assert made.pixels.grad is None
    assert all(p.grad is not None for d in objective.discriminators.values() for p in d.parameters())


def test_frames_without_a_mouth_have_no_mouth_loss():
    objective = Objective(replace(GAN, adversarial=0.0), SMALL, LossNets(), CPU)
    target, made = example()
    nobody = replace(target, mouths=torch.zeros(1, 2, 4))
    assert list(objective.discriminators) == ["mouth"]
    assert objective.discriminator_step(nobody, made, 9) == (None, {})
    loss, terms = objective.generator_step(nobody, made, 9)
    loss.backward()
    assert loss.item() == 0 and terms == {} and made.pixels.grad.abs().max() == 0
    with_pixels = Objective(replace(GAN, pixels=1.0), SMALL, LossNets(), CPU)
    assert "mouth_features" not in with_pixels.generator_step(nobody, made, 9)[1]


def test_made_frames_are_compared_with_their_own():
    pixels = torch.arange(6.0).view(1, 6, 1, 1, 1).expand(1, 6, 3, 256, 256)
    latents = torch.zeros(1, 2, 4, 32, 32)
    made = Made(torch.full((1, 2, 3, 256, 256), 3.0), latents, start=3)
    target = Target(pixels, torch.zeros(1, 6, 4))
    loss, _ = Objective(LossSettings(pixels=1.0), SMALL, LossNets(), CPU).generator_step(target, made, 0)
    assert loss.item() == (0 + 1) / 2


def test_only_the_sync_loss_leaves_frames_out():
    draw = np.random.default_rng(0)
    everything = Objective(LossSettings(pixels=1.0, backward_frames=4), SMALL, LossNets(), CPU)
    assert everything.window(16, draw) == slice(0, 16)
    some = Objective(LossSettings(pixels=1.0, sync=0.05, backward_frames=4), SMALL, LossNets(), CPU)
    drawn = [some.window(16, draw) for _ in range(300)]
    assert {window.start for window in drawn} == set(range(13)) and all(w.stop - w.start == 4 for w in drawn)


def test_settings_that_train_nothing_or_do_not_fit_are_refused():
    with pytest.raises(MuseTalkError, match="No loss is switched on"):
        Objective(LossSettings(), SMALL, LossNets(), CPU)
    with pytest.raises(MuseTalkError, match="feature_matching has 4 weights for a discriminator of 3 blocks"):
        Objective(GAN, replace(SMALL, blocks=3), LossNets(), CPU)
    with pytest.raises(MuseTalkError, match=r"loss sync is -0\.5"):
        LossSettings(sync=-0.5)
    with pytest.raises(MuseTalkError, match="backward_frames is 17"):
        LossSettings(backward_frames=17)


@pytest.mark.parametrize(
    ("loss", "file"),
    [
        ("perceptual", "training/vgg19-dcbb9e9d.pth"),
        ("lpips", "evaluation/alexnet-owt-7be5be79.pth"),
        ("sync", "syncnet/latentsync_syncnet.pt or syncnet/stable_syncnet.pt"),
    ],
)
def test_absent_weights_are_named_with_the_way_to_do_without(tmp_path, loss, file):
    folders = ModelFolders({"musetalk": [tmp_path]})
    with pytest.raises(MissingWeightsError) as caught:
        load_loss_nets(LossSettings(**{loss: 1.0}), folders, CPU)
    message = str(caught.value)
    assert file in message and str(tmp_path) in message and f"set {loss} to 0" in message and "\n" not in message


def test_only_the_networks_of_losses_that_are_on_are_loaded(tmp_path):
    (tmp_path / "training").mkdir()
    write_narrow_vgg(tmp_path / "training" / "vgg19-dcbb9e9d.pth")
    nets = load_loss_nets(LossSettings(perceptual=0.01), ModelFolders({"musetalk": [tmp_path]}), CPU)
    assert isinstance(nets.vgg, Vgg19) and nets.lpips is None and nets.syncnet is None
