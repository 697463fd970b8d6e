"""LatentSync's SyncNet against the published code's numbers, its files, and the sync loss by hand."""

import json
import math

import pytest
import torch
from latentsync_reference import FORMS, GOLDEN, mel, mouths
from syncnet_reference import fill

from musetalk_core.errors import MuseTalkError
from musetalk_core.nets.latentsync_syncnet import ATTENTIVE, PLAIN, LatentSyncNet
from musetalk_core.training.sync import likeness_loss, sync_loss
from musetalk_core.weights.models import load_latentsync_syncnet


def golden(name):
    return json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def write_narrow(path, name):
    """A file as published, with few channels: {"state_dict": ...} beside a step."""
    shapes = golden(name)["shapes"]
    torch.save({"state_dict": fill({key: torch.empty(shape) for key, shape in shapes.items()}), "global_step": 7}, path)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return load_latentsync_syncnet(write_narrow(tmp_path_factory.mktemp("syncnet") / "narrow.pt", "plain"))


@pytest.mark.parametrize(("form", "tensors", "millions"), [(PLAIN, 178, 371.8), (ATTENTIVE, 266, 401.3)])
def test_published_forms_have_their_tensors_and_embeddings(form, tensors, millions):
    with torch.device("meta"):
        net = LatentSyncNet(*form)
        assert net.hear(torch.empty(2, 1, 80, 52)).shape == (2, 2048)
        assert net.see(torch.empty(2, 48, 128, 256)).shape == (2, 2048)
    assert len(net.state_dict()) == tensors
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", FORMS)
def test_a_file_gives_the_published_codes_embeddings(tmp_path, name):
    """Attention and widths are read off the file; the loaded network has no gradients of its own."""
    net = load_latentsync_syncnet(write_narrow(tmp_path / "net.pt", name))
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == golden(name)["shapes"]
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    with torch.no_grad():
        found = {"seen": net.see(mouths()), "heard": net.hear(mel())}
    for key, embeddings in found.items():
        expected = torch.tensor(golden(name)[key])
        assert (expected[0] - expected[1]).abs().max() > 0.01
        torch.testing.assert_close(embeddings, expected, atol=5e-6, rtol=0)


def test_other_files_are_named(tmp_path):
    torch.save({"netcnnaud.0.weight": torch.zeros(1), "netcnnlip.0.weight": torch.zeros(1)}, tmp_path / "v2.pt")
    with pytest.raises(MuseTalkError, match=r"v2\.pt holds a SyncNet v2, not a LatentSync SyncNet"):
        load_latentsync_syncnet(tmp_path / "v2.pt")
    state = torch.load(write_narrow(tmp_path / "cut.pt", "plain"), weights_only=True)["state_dict"]
    kept = {name: tensor for name, tensor in state.items() if "visual_encoder.down_blocks.7." not in name}
    torch.save({"state_dict": kept}, tmp_path / "cut.pt")
    with pytest.raises(MuseTalkError, match=r"cut\.pt has an architecture that cannot be built"):
        load_latentsync_syncnet(tmp_path / "cut.pt")


def test_likeness_loss_is_minus_the_logarithm_of_the_cosine():
    sound, sight = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.6, 0.8], [2.0, 0.0]])
    assert likeness_loss(sound, sight).item() == pytest.approx(-(math.log(0.6) + math.log(1.0)) / 2)
    opposite = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    loss = likeness_loss(sound[:1], opposite)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-6)) and opposite.grad.abs().max() == 0


def test_sync_loss_puts_made_frames_among_the_real_ones(net):
    """SyncNet sees the lower halves, colours together, in order; the expected stack is made by hand."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(1, 16, 3, 256, 256, generator=generator) * 2 - 1
    made = (torch.rand(1, 2, 3, 256, 256, generator=generator) * 2 - 1).requires_grad_(True)
    sound = mel()[:1]
    loss = sync_loss(net, made, real, 5, sound)
    stack = torch.empty(1, 48, 128, 256)
    for frame in range(16):
        source = made[0, frame - 5] if frame in (5, 6) else real[0, frame]
        stack[0, 3 * frame : 3 * frame + 3] = source.detach()[:, 128:]
    with torch.no_grad():
        cosine = (net.hear(sound)[0] * net.see(stack)[0]).sum()
    assert loss.item() == pytest.approx(-math.log(cosine), rel=1e-4)
    loss.backward()
    assert made.grad[..., 128:, :].abs().max() > 0 and made.grad[..., :128, :].abs().max() == 0
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 3, 256, 256), (1, 16, 3, 128, 128)])
def test_sync_loss_wants_16_frames_of_256_pixels(net, shape):
    frames = torch.zeros(shape)
    with pytest.raises(MuseTalkError, match="set frames to 16, or sync to 0"):
        sync_loss(net, frames, frames, 0, mel()[:1])
