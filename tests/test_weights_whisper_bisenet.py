"""Whisper's encoder from transformers and OpenAI files, and the BiSeNet checkpoint."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.weights.layouts import whisper_config
from musetalk_core.weights.models import load_bisenet, load_whisper

torch.set_num_threads(1)
State = dict[str, torch.Tensor]
WIDTH, LAYERS, POSITIONS = 128, 2, 20


def make_whisper(heads: int = WIDTH // 64) -> WhisperForConditionalGeneration:
    torch.manual_seed(5)
    config = WhisperConfig(
        vocab_size=50,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=1,
        encoder_attention_heads=heads,
        decoder_attention_heads=2,
        encoder_ffn_dim=256,
        decoder_ffn_dim=64,
        max_source_positions=POSITIONS,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config).train(False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.normal_(0.5 if "norm.weight" in name else 0, 0.1)
        model.model.encoder.embed_positions.weight.copy_(sinusoids(POSITIONS, WIDTH))
    return model


def sinusoids(length: int, channels: int) -> torch.Tensor:
    """Whisper paper's positions: sines in the first half, cosines in the second, base 10000."""
    rates = 10000 ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels // 2 - 1))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def openai_state(model: WhisperForConditionalGeneration) -> State:
    """The encoder under the module names of openai/whisper's model.py, written out by hand."""
    encoder = model.model.encoder.state_dict()
    state = {"encoder.positional_embedding": encoder["embed_positions.weight"]}
    for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        state[f"encoder.{name}"] = encoder[name]
    for leaf in ("weight", "bias"):
        state[f"encoder.ln_post.{leaf}"] = encoder[f"layer_norm.{leaf}"]
        for layer in range(LAYERS):
            there, here = f"encoder.blocks.{layer}", f"layers.{layer}"
            state[f"{there}.attn.query.{leaf}"] = encoder[f"{here}.self_attn.q_proj.{leaf}"]
            if leaf == "weight":
                state[f"{there}.attn.key.{leaf}"] = encoder[f"{here}.self_attn.k_proj.{leaf}"]
            state[f"{there}.attn.value.{leaf}"] = encoder[f"{here}.self_attn.v_proj.{leaf}"]
            state[f"{there}.attn.out.{leaf}"] = encoder[f"{here}.self_attn.out_proj.{leaf}"]
            state[f"{there}.attn_ln.{leaf}"] = encoder[f"{here}.self_attn_layer_norm.{leaf}"]
            state[f"{there}.mlp.0.{leaf}"] = encoder[f"{here}.fc1.{leaf}"]
            state[f"{there}.mlp.2.{leaf}"] = encoder[f"{here}.fc2.{leaf}"]
            state[f"{there}.mlp_ln.{leaf}"] = encoder[f"{here}.final_layer_norm.{leaf}"]
    decoder = {"decoder.token_embedding.weight": torch.zeros(50, WIDTH), "decoder.positional_embedding": torch.zeros(8)}
    return {name: tensor.clone() for name, tensor in (state | decoder).items()}


def openai_forward(state: State, mel: torch.Tensor, heads: int) -> torch.Tensor:
    """openai/whisper's AudioEncoder, from the paper's description: convolutions, pre-norm blocks, final norm."""
    w = {name.removeprefix("encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    x = F.gelu(F.conv1d(mel, w["conv1.weight"], w["conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))
    x = x.transpose(1, 2) + w["positional_embedding"]

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(value, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, w[f"{name}.weight"], w.get(f"{name}.bias"))

    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        y = norm(f"{block}.attn_ln", x)
        q, k, v = (
            linear(f"{block}.attn.{part}", y).unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(2, 3)) / (WIDTH / heads) ** 0.5
        x = x + linear(f"{block}.attn.out", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = norm(f"{block}.mlp_ln", x)
        x = x + linear(f"{block}.mlp.2", F.gelu(linear(f"{block}.mlp.0", y)))
    return norm("ln_post", x)


def mel() -> torch.Tensor:
    return torch.randn(1, 80, 2 * POSITIONS, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_openai_file_equals_openai_arithmetic(tmp_path: Path) -> None:
    state = openai_state(make_whisper())
    torch.save({"dims": {"n_audio_state": WIDTH, "n_audio_head": 2}, "model_state_dict": state}, tmp_path / "tiny.pt")
    encoder = load_whisper(tmp_path / "tiny.pt")
    assert type(encoder).__name__ == "WhisperEncoder" and not encoder.training
    expected = openai_forward(state, mel(), heads=2)
    assert torch.allclose(encoder(mel()).last_hidden_state, expected, atol=1e-5)


@torch.no_grad()
def test_transformers_layouts_equal_transformers(tmp_path: Path) -> None:
    model = make_whisper()
    expected = torch.stack(model.model.encoder(mel(), output_hidden_states=True).hidden_states)
    assert expected.shape == (LAYERS + 1, 1, POSITIONS, WIDTH)
    model.save_pretrained(tmp_path / "generation")
    WhisperModel.from_pretrained(tmp_path / "generation").save_pretrained(tmp_path / "model")
    (tmp_path / "bin").mkdir()
    torch.save(model.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    encoder_only = {name: tensor.clone() for name, tensor in model.model.encoder.state_dict().items()}
    save_file(encoder_only, tmp_path / "encoder.safetensors")
    for place in ("generation", "generation/model.safetensors", "model", "bin", "encoder.safetensors"):
        encoder = load_whisper(tmp_path / place)
        found = torch.stack(encoder(mel(), output_hidden_states=True).hidden_states)
        assert torch.allclose(found, expected, atol=1e-6), place


@torch.no_grad()
def test_heads_of_a_folder_are_those_it_states(tmp_path: Path) -> None:
    model = make_whisper(heads=4)
    model.save_pretrained(tmp_path)
    found = load_whisper(tmp_path)(mel()).last_hidden_state
    assert torch.allclose(found, model.model.encoder(mel()).last_hidden_state, atol=1e-6)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(MuseTalkError, match="not a Whisper configuration"):
        load_whisper(tmp_path)


def test_whisper_tiny_is_inferred() -> None:
    """openai/whisper-tiny's published configuration: 80 mels, width 384, 4 layers, 6 heads, ffn 1536, 1500 rows."""
    with torch.device("meta"):
        tiny = WhisperModel(WhisperConfig(d_model=384, encoder_layers=4, encoder_ffn_dim=1536, vocab_size=51865))
    config = whisper_config(tiny.encoder.state_dict())
    assert sum(tensor.numel() for tensor in tiny.encoder.state_dict().values()) == 8_208_384
    assert config == {
        "num_mel_bins": 80,
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "max_source_positions": 1500,
    }


def test_whisper_dtype_and_wrong_files(tmp_path: Path) -> None:
    state = openai_state(make_whisper())
    torch.save({"model_state_dict": {name: tensor.half() for name, tensor in state.items()}}, tmp_path / "tiny.pt")
    assert load_whisper(tmp_path / "tiny.pt", torch.bfloat16).conv1.weight.dtype == torch.bfloat16
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match="tiny.pt"):
        load_whisper(tmp_path / "empty")
    torch.save({"cp.resnet.conv1.weight": torch.zeros(2), "ffm.conv1.weight": torch.zeros(2)}, tmp_path / "X.pth")
    with pytest.raises(MuseTalkError, match=r"X.pth holds a BiSeNet face parser, not a Whisper encoder"):
        load_whisper(tmp_path / "X.pth")
    del state["encoder.conv2.bias"]
    torch.save(state, tmp_path / "X.pth")
    with pytest.raises(MuseTalkError, match=r"absent, first 'conv2.bias'"):
        load_whisper(tmp_path / "X.pth")


def conv_bn(state: State, conv: str, bn: str, inputs: int, outputs: int, kernel: int) -> None:
    state[f"{conv}.weight"] = torch.randn(outputs, inputs, kernel, kernel) * 0.05
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        state[f"{bn}.{leaf}"] = torch.rand(outputs) + 0.5


def bisenet_state() -> State:
    """The keys and shapes of 79999_iter.pth, from the published network (zllrunning/face-parsing.PyTorch)."""
    torch.manual_seed(2)
    state: State = {}
    conv_bn(state, "cp.resnet.conv1", "cp.resnet.bn1", 3, 64, 7)
    for layer, (inputs, outputs) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], start=1):
        for block in range(2):
            name = f"cp.resnet.layer{layer}.{block}"
            conv_bn(state, f"{name}.conv1", f"{name}.bn1", outputs if block else inputs, outputs, 3)
            conv_bn(state, f"{name}.conv2", f"{name}.bn2", outputs, outputs, 3)
            if block == 0 and layer > 1:
                conv_bn(state, f"{name}.downsample.0", f"{name}.downsample.1", inputs, outputs, 1)
    for arm, inputs in (("arm16", 256), ("arm32", 512)):
        conv_bn(state, f"cp.{arm}.conv.conv", f"cp.{arm}.conv.bn", inputs, 128, 3)
        conv_bn(state, f"cp.{arm}.conv_atten", f"cp.{arm}.bn_atten", 128, 128, 1)
    for head, inputs, kernel in (("conv_head32", 128, 3), ("conv_head16", 128, 3), ("conv_avg", 512, 1)):
        conv_bn(state, f"cp.{head}.conv", f"cp.{head}.bn", inputs, 128, kernel)
    conv_bn(state, "ffm.convblk.conv", "ffm.convblk.bn", 256, 256, 1)
    state["ffm.conv1.weight"] = torch.randn(64, 256, 1, 1)
    state["ffm.conv2.weight"] = torch.randn(256, 64, 1, 1)
    for name, inputs, middle in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        conv_bn(state, f"{name}.conv.conv", f"{name}.conv.bn", inputs, middle, 3)
        state[f"{name}.conv_out.weight"] = torch.randn(19, middle, 1, 1)
    return state


def test_bisenet_loads_with_and_without_counters(tmp_path: Path) -> None:
    state = bisenet_state()
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(79999)
        for name in state
        if name.endswith("running_mean")
    }
    for content in (state, state | counters):
        torch.save(content, tmp_path / "79999_iter.pth")
        net = load_bisenet(tmp_path / "79999_iter.pth")
        loaded = net.state_dict()
        assert not net.training and all(torch.equal(loaded[name], tensor) for name, tensor in content.items())
        assert loaded.keys() == state.keys() | counters.keys()


def test_bisenet_refuses_others(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(2), "fc.weight": torch.zeros(2)}, tmp_path / "X.pth")
    with pytest.raises(MuseTalkError, match=r"X.pth holds a ResNet classifier, not a BiSeNet face parser"):
        load_bisenet(tmp_path / "X.pth")
