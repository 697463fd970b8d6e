"""`weights list|check|download|convert`, model folders, install.py and the requirement files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from musetalk_core.__main__ import main
from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.nets.s3fd import S3FD
from musetalk_core.weights.catalogue import WEIGHTS, select
from musetalk_core.weights.convert import convert
from musetalk_core.weights.folders import ModelFolders, default_models_dir

ROOT = Path(__file__).resolve().parents[1]


def tiny_unet_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=8, block_out_channels=(32, 32, 32, 32), cross_attention_dim=384, attention_head_dim=8
    ).state_dict()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def comfyui(folder: Path) -> Path:
    touch(folder / "folder_paths.py")
    (folder / "custom_nodes").mkdir()
    (folder / "models").mkdir()
    return folder


def test_upstreams_layout(tmp_path: Path) -> None:
    """Every place of upstream's v1.0 and v1.5 READMEs, in a plain models folder."""
    folders = ModelFolders.default(tmp_path)
    places = {
        "musetalk-v1.5-unet": ["musetalkV15/unet.pth"],
        "musetalk-v1.0-unet": ["musetalk/pytorch_model.bin"],
        "sd-vae-ft-mse": ["sd-vae/diffusion_pytorch_model.bin", "sd-vae-ft-mse/diffusion_pytorch_model.bin"],
        "whisper-tiny": ["whisper/pytorch_model.bin", "whisper/tiny.pt"],
        "bisenet": ["face-parse-bisent/79999_iter.pth"],
        "dwpose": ["dwpose/dw-ll_ucoco_384.pth"],
    }
    for entry_id, names in places.items():
        for name in names:
            path = touch(tmp_path / name)
            assert folders.find(entry_id) == path
            path.unlink()


def test_comfyuis_folders_and_extra_paths(tmp_path: Path) -> None:
    root = comfyui(tmp_path / "ComfyUI")
    (root / "extra_model_paths.yaml").write_text(
        f"a111:\n  base_path: {tmp_path}/other\n  vae: VAE\n  musetalk: |\n    lips\n    lips2\nempty:\n"
        "relative:\n  musetalk: near\n"
    )
    folders = ModelFolders.default(root / "models")
    assert folders.download_folder == root / "models" / "musetalk"
    with pytest.raises(MissingWeightsError):
        folders.find("musetalk-v1.5-unet")
    for place in ("near", f"{tmp_path}/other/lips2", f"{tmp_path}/other/lips", "models/musetalk"):
        path = touch(root / place / "musetalkV15" / "unet.pth")
        assert folders.find("musetalk-v1.5-unet") == path
    vae = touch(tmp_path / "other" / "VAE" / "vae-ft-mse-840000-ema-pruned.safetensors")
    assert folders.find("sd-vae-ft-mse") == vae
    own = touch(root / "models" / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors")
    assert folders.find("sd-vae-ft-mse") == own
    assert folders.find_named("vae", own.name) == own.resolve()
    with pytest.raises(MissingWeightsError, match="no vae model"):
        folders.find_named("vae", "../../folder_paths.py")
    (root / "extra_model_paths.yaml").write_text("mine:\n  base_path: big\n  is_default: true\n  musetalk: disk\n")
    assert ModelFolders.default(root / "models").download_folder == root / "big" / "disk"
    (root / "extra_model_paths.yaml").write_text("a: [")
    with pytest.raises(MuseTalkError, match="not valid YAML"):
        ModelFolders.default(root / "models")


def test_default_models_directory(tmp_path: Path) -> None:
    root = comfyui(tmp_path / "ComfyUI")
    assert default_models_dir(root / "custom_nodes" / "musetalk-suite") == root / "models"
    assert default_models_dir(tmp_path / "somewhere") == Path("models")


def test_missing_names_file_folder_and_a_command_that_works(tmp_path: Path) -> None:
    """The command in the message parses and downloads to the folder in the message."""
    for models in (tmp_path / "plain", comfyui(tmp_path / "ComfyUI") / "models"):
        folders = ModelFolders.default(models)
        for entry in WEIGHTS:
            with pytest.raises(MissingWeightsError) as caught:
                folders.find(entry.id)
            found = re.search(r"no (\S+) in (\S+); get it with `python -m musetalk_core (.*)`", str(caught.value))
            assert found and found[1] == entry.files[0].path and Path(found[2]) == folders.download_folder
            action, name, entry_id, option, value = found[3].split()
            assert (action, name, entry_id, option) == ("weights", "download", entry.id, "--models")
            assert ModelFolders.default(Path(value)).download_folder == folders.download_folder


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "--models", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for entry in WEIGHTS:
        assert entry.licence in printed
        for file in entry.files:
            assert file.url in printed and str(file.size) in printed and file.sha256 in printed
    assert str(tmp_path) in printed


def test_check_present_missing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet = tmp_path / "musetalkV15" / "unet.pth"
    unet.parent.mkdir()
    torch.save(tiny_unet_state(), unet)
    assert main(["weights", "check", "musetalk-v1.5-unet", "--hash", "--models", str(tmp_path)]) == 0
    assert f"at {unet}" in (printed := capsys.readouterr().out) and "present (not the published file" in printed
    wrong = tmp_path / "face-parse-bisent" / "79999_iter.pth"
    wrong.parent.mkdir()
    torch.save(tiny_unet_state(), wrong)
    assert main(["weights", "check", "--models", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["present", "missing:", "missing:", "wrong:"]
    assert "79999_iter.pth holds a UNet of cross-attention width 384 with 8 input channels" in lines[3]
    assert main(["weights", "check", "nonsense", "--models", str(tmp_path)]) == 1
    assert "known are musetalk-v1.5-unet" in capsys.readouterr().err


def test_check_of_a_file_of_the_published_size_by_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same size, other content: only --hash tells."""
    path = tmp_path / "s3fd" / "s3fd-619a316812.pth"
    path.parent.mkdir()
    torch.save(S3FD().half().state_dict(), path, _use_new_zipfile_serialization=False)
    with path.open("r+b") as stream:  # torch's older format may be followed by anything
        stream.truncate(89_843_225)
    assert main(["weights", "check", "s3fd", "--models", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("present: s3fd")
    assert main(["weights", "check", "s3fd", "--hash", "--models", str(tmp_path)]) == 0
    assert "SHA-256 differs" in capsys.readouterr().out


def test_download_shows_the_licence_and_asks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "musetalk_core", "weights", "download", "v1.5", "--models", str(tmp_path)]
    child = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert child.returncode == 1 and "--yes" in child.stderr and "Traceback" not in child.stderr
    for entry in select(["v1.5"]):
        assert entry.licence in child.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "precision"), [("x.safetensors", None), ("x.safetensors", "fp16"), ("x.bin", "bf16")]
)
def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, precision: str | None) -> None:
    state = tiny_unet_state()
    state["twin"] = state["conv_out.weight"]  # shared storage, which safetensors alone refuses
    torch.save(state, tmp_path / "unet.pth")
    option = ["--precision", precision] if precision else []
    assert main(["weights", "convert", str(tmp_path / "unet.pth"), str(tmp_path / target), *option]) == 0
    dtype = {None: torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    path = tmp_path / target
    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert found.keys() == state.keys()
    assert all(found[name].dtype == dtype and torch.equal(found[name], state[name].to(dtype)) for name in state)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["unet.pth", target])
    assert f"{len(state)} tensors" in capsys.readouterr().out
    assert main(["weights", "convert", str(tmp_path / "unet.pth"), str(path), *option]) == 1
    assert "exists" in capsys.readouterr().err
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_convert_onto_itself_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.tensor([1.0, 70000.0])}, path)
    with pytest.raises(MuseTalkError, match="'w' has values too large"):
        convert(path, tmp_path / "y.safetensors", "fp16")
    with pytest.raises(MuseTalkError, match="no known weight format"):
        convert(path, tmp_path / "y.onnx")
    with pytest.raises(MuseTalkError, match="cannot be written"):
        convert(path, tmp_path / "no folder" / "y.pth")
    convert(path, path, "bf16", overwrite=True)
    assert torch.load(path, weights_only=True)["w"].dtype == torch.bfloat16
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_requirements_match_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1])
    lines = (ROOT / "requirements.txt").read_text().split()
    assert sorted(lines) == sorted(dependencies) and len(lines) == 10
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in lines)
    assert 'requires-python = ">=3.10"' in project and "OLDEST_PYTHON = (3, 10)" in (ROOT / "install.py").read_text()


def install(pack: Path, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """-I: as in an embedded Python, the script's folder is not on the import path."""
    command = [sys.executable, "-I", str(pack / "install.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_install_says_what_is_there(tmp_path: Path) -> None:
    child = install(ROOT, cwd=tmp_path)
    assert child.returncode == 0 and not child.stderr, child.stdout
    assert "every requirement" in child.stdout and "weights download v1.5" in child.stdout
    assert list(tmp_path.iterdir()) == []


def test_install_says_what_is_missing_or_old(tmp_path: Path) -> None:
    pack = comfyui(tmp_path / "ComfyUI") / "custom_nodes" / "musetalk-suite"
    pack.mkdir()
    shutil.copy(ROOT / "install.py", pack)
    (pack / "requirements.txt").write_text("numpy>=1.25\nno_such_package_x>=2\nsafetensors>=99.1\n")
    child = install(pack, cwd=tmp_path)
    assert child.returncode == 1 and not child.stderr
    assert "no_such_package_x is not installed" in child.stdout and "numpy" not in child.stdout
    assert re.search(r"safetensors \d\S* is too old; 99.1 or newer is needed", child.stdout)
    assert "pip install -r" in child.stdout
    (pack / "requirements.txt").write_text("numpy\n")
    child = install(pack, cwd=tmp_path)
    assert child.returncode == 0 and str(tmp_path / "ComfyUI" / "models" / "musetalk") in child.stdout


def test_install_forwards_commands(tmp_path: Path) -> None:
    child = install(ROOT, "weights", "check", "whisper-tiny", "--models", str(tmp_path), cwd=tmp_path)
    assert child.returncode == 1 and child.stdout.startswith("missing: whisper-tiny"), child.stderr
