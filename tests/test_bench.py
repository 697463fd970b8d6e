"""The bench: the plain way and ours do the same work, each stage runs, and the figures follow from the times."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_portrait, write_audio, write_video

from musetalk_core.__main__ import main
from musetalk_core.bench.baseline import BATCH, paste
from musetalk_core.bench.fast import Fast
from musetalk_core.bench.machine import machine, peak_memory
from musetalk_core.bench.networks import random_bisenet
from musetalk_core.bench.report import checks, markdown, plot, stage_figures, whole_figures
from musetalk_core.bench.stages import GFLOP, fast_stages
from musetalk_core.engine import choose_dtype, has_fast_bf16
from musetalk_core.face_parsing import FaceParser

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def fast():
    return Fast(CPU, torch.bfloat16)


@pytest.fixture
def files(tmp_path):
    video = write_video(tmp_path / "person.mp4", moving_portrait(10))
    return video, write_audio(tmp_path / "sound.wav", 1)


def test_the_true_architecture(fast):
    """Parameters as published: 850 M for the UNet, 84 M for the autoencoder."""
    count = sum(parameter.numel() for parameter in fast.generator._unet.parameters())
    assert count == 849_947_844
    assert sum(parameter.numel() for parameter in fast.codec._vae.parameters()) == 49_490_199 + 34_163_664


def test_every_stage_makes_what_it_says(fast):
    stages = fast_stages(fast)
    assert set(stages) == {"encode", "unet", "decode", "blend", "s3fd", "tracker"}
    assert set(GFLOP) == set(stages) - {"tracker"}
    masked, reference = stages["encode"][0]()
    assert masked.shape == reference.shape == (BATCH, 4, 32, 32) and stages["encode"][1] == BATCH
    assert stages["unet"][0]().shape == (BATCH, 4, 32, 32)
    assert stages["decode"][0]().shape == (BATCH, 256, 256, 3)
    blended = stages["blend"][0]()
    assert blended.shape == (720, 1280, 3) and blended.dtype == torch.uint8


def test_the_plain_way_pastes_the_lower_half():
    """The plain way on one face: the pasted frame differs from the source in the box's lower half and nowhere else."""
    frame = np.full((200, 200, 3), 100, np.uint8)
    parser = FaceParser(random_bisenet(CPU), CPU)
    pasted = paste(frame, np.full((256, 256, 3), 200, np.uint8), np.float32([60, 50, 140, 150]), parser)
    changed = np.argwhere((pasted != frame).any(-1))
    assert len(changed) and pasted[120, 100, 0] == 200
    assert changed.min(0)[0] >= 90 and changed.max(0)[0] < 165, "the blur reaches over the box's lower edge"


def test_whole_command(files, tmp_path, capsys):
    """All three ways in processes of their own make a frame; the result holds their figures."""
    video, audio = files
    result = tmp_path / "result.json"
    arguments = ["whole", "--video", str(video), "--audio", str(audio), "--frames", "1", "--rounds", "1"]
    main(["bench", *arguments, "--threads", "1", "--result", str(result)])
    made = json.loads(result.read_text())
    whole = made["whole"]
    assert set(whole["ms"]) == {"baseline", "fast", "fast_s3fd"} and min(whole["ms"].values()) > 0
    assert whole["ratio"]["fast"] == pytest.approx(whole["ms"]["baseline"] / whole["ms"]["fast"], abs=0.01)
    # The plain way's 850 M + 84 M parameters alone are 3.5 GiB in float32.
    assert whole["memory"]["baseline"]["host_mib"] > 3500
    assert made["machine"]["torch"] == torch.__version__ and made["machine"]["threads"] == 1
    assert {check["name"] for check in made["checks"]} >= {"end to end against baseline"}
    assert "end to end against baseline" in capsys.readouterr().out
    assert result.with_suffix(".md").read_text().startswith("| end to end |")


def stage_round(scale):
    plain = {"encode": 3000, "unet": 1000, "decode": 3000, "blend": 300, "s3fd": 4000}
    ours = {"encode": 600, "unet": 400, "decode": 600, "blend": 100, "s3fd": 2000, "tracker": 50}
    peaks = {"bfloat16": {"convolution": 2000.0 * scale, "matrix": 1000.0}}
    memory = {"host_mib": 7000.0 * scale}

    def times(values):
        return {name: [ms * scale, ms * scale] for name, ms in values.items()}

    return {
        "baseline": {"stages": times(plain), "memory": memory},
        "fast": {"stages": times(ours), "memory": {"host_mib": 3000.0}, "peaks": peaks},
    }


def test_figures_of_stages_by_hand():
    """Two rounds, the second twice as slow: medians lie between, 1.5 times the first."""
    figures = stage_figures([stage_round(1), stage_round(2)])
    assert figures["ms"]["fast"]["decode"] == 900 and figures["ratio"]["decode"] == 5.0
    assert figures["ratio"]["unet_and_decode"] == 4.0
    assert figures["frames_per_second_unet_and_decode"]["fast"] == pytest.approx(1000 / 1500, abs=0.005)
    assert figures["gflops"]["unet"] == pytest.approx(177.8 / 0.6, abs=0.1)
    assert figures["share_of_peak"]["unet"] == pytest.approx(177.8 / 0.6 / 4000, abs=0.001)
    assert figures["memory"]["baseline"]["host_mib"] == 14000


def test_figures_of_the_whole_by_hand_and_what_must_hold():
    def one(baseline, fast, searched):
        values = {"baseline": (baseline, 7000.0), "fast": (fast, 4000.0), "fast_s3fd": (searched, 4100.0)}
        return {way: {"ms": ms, "memory": {"host_mib": mib}} for way, (ms, mib) in values.items()}

    figures = whole_figures([one(9000, 2000, 4000), one(9000, 3000, 6000), one(8000, 2000, 5000)])
    assert figures["ms"] == {"baseline": 9000, "fast": 2000, "fast_s3fd": 5000}
    assert figures["ratio"] == {"fast": 4.0, "fast_s3fd": 1.6} and figures["memory_share"]["fast"] == 0.571
    accuracy = {"bf16": {"encoder": 40.0, "unet": 41.0, "decoder": 42.9, "all": 38.0}}
    results = {"stages": stage_figures([stage_round(1)]), "whole": figures, "accuracy": accuracy}
    verdicts = {check.name: check.passed for check in checks(results, gpu=False)}
    assert verdicts["end to end against baseline"] and verdicts["UNet + decode against baseline"]
    assert verdicts["end to end with S3FD in both"] is False and verdicts["bf16 decoder, dB"] is False
    assert verdicts["bf16 all, dB"] and verdicts["bf16 unet, dB"] is None
    assert verdicts["peak resident memory of baseline's"]
    assert "| decode | 3000 | 600 | 5 | 1037 | 0.518 |" in markdown(results)
    assert plot(results).count("<rect") == 1 + 5 + 5 + 6 and "11300 ms" in plot(results) and "1750 ms" in plot(results)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "There is no part 'speed'"),
        (["whole"], "give --video FILE and --audio FILE"),
        (["stages", "--rounds", "0"], "--rounds is 0"),
        (["stages", "--precision", "fp16", "--device", "cpu"], "fp16 on a CPU"),
    ],
)
def test_refusals(arguments, sentence, capsys):
    assert main(["bench", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_a_clip_too_short(files, capsys):
    video, audio = map(str, files)
    assert main(["bench", "whole", "--video", video, "--audio", audio, "--frames", "11"]) == 1
    assert "gives 10 frames and 11 are asked for" in capsys.readouterr().err


def test_machine_and_memory():
    facts = machine(CPU)
    assert facts["cores"] >= 1 and facts["cpu"]
    # The kernel keeps the same figure in two places; the second also knows a parent's, and is counted now and then.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 100 < peak_memory(CPU)["host_mib"] <= peak * 1.05


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells a CPU's instructions there")
def test_auto_precision_follows_the_cpu():
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    there = "avx512_bf16" in flags or "amx_tile" in flags
    assert has_fast_bf16() == there
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if there else torch.float32)


def test_kept_memory_stays_with_the_process(tmp_path):
    """After 1 GiB is freed the process still has it, and without the call it has not: in processes of their own."""
    code = (
        "import sys\nfrom pathlib import Path\nimport torch\n"
        "from musetalk_core.host_memory import keep_freed_memory\n"
        "kept = sys.argv[1] == 'keep' and keep_freed_memory()\n"
        "x = torch.ones(2**28)\ndel x\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(kept, status.split('VmRSS:')[1].split()[0])"
    )
    found = {}
    for word in ("keep", "give"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=True)
        kept, resident = done.stdout.split()
        found[word] = int(resident) / 2**20
        assert (kept == "True") == (word == "keep")
    assert found["keep"] > 1 > found["give"]
