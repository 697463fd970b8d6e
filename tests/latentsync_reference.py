"""Makes tests/data/latentsync_syncnet_golden.json from the published code, github.com/bytedance/LatentSync:

    python tests/latentsync_reference.py CLONE

It needs einops and diffusers. The network is latentsync/models/stable_syncnet.py's with fewer channels.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from syncnet_reference import fill

from musetalk_core.nets.latentsync_syncnet import Encoder

GOLDEN = Path(__file__).with_name("data") / "latentsync_syncnet_golden.json"
AUDIO_WIDTHS, VISUAL_WIDTHS = (32, 32, 32, 32, 64, 64, 96), (32, 32, 32, 64, 64, 32, 64, 96)
FORMS = {"plain": ((), ()), "attentive": ((3, 4), (4, 5))}  # blocks with attention, audio's and visual's


def encoders(name: str) -> tuple[Encoder, Encoder]:
    """A variant's halves as ours are told."""
    audio, visual = FORMS[name]
    return (
        Encoder(AUDIO_WIDTHS, tuple(k in audio for k in range(7))),
        Encoder(VISUAL_WIDTHS, tuple(k in visual for k in range(8))),
    )


def mouths() -> torch.Tensor:
    """(2,48,128,256) in [-1,1], smooth: noise alone looks alike to every network."""
    coarse = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 48, 8, 16)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (128, 256), mode="bilinear")


def mel() -> torch.Tensor:
    """(2,1,80,52)."""
    coarse = torch.from_numpy(np.random.default_rng(2).uniform(-4, 4, (2, 1, 10, 13)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (80, 52), mode="bilinear")


def main(clone: Path) -> None:
    sys.path.insert(0, str(clone))
    from latentsync.models.stable_syncnet import StableSyncNet

    golden = {}
    for name in FORMS:
        audio, visual = encoders(name)
        half = {"dropout": 0.0}
        net = StableSyncNet(
            {
                "audio_encoder": half
                | {
                    "in_channels": 1,
                    "block_out_channels": list(audio.widths),
                    "downsample_factors": [[2, 1], 2, 2, 1, 2, 2, [2, 3]],
                    "attn_blocks": [int(on) for on in audio.attention],
                },
                "visual_encoder": half
                | {
                    "in_channels": 48,
                    "block_out_channels": list(visual.widths),
                    "downsample_factors": [[1, 2], 2, 2, 2, 2, 2, 2, 2],
                    "attn_blocks": [int(on) for on in visual.attention],
                },
            }
        )
        net.load_state_dict(fill(net.state_dict()))
        with torch.no_grad():
            seen, heard = net(mouths(), mel())
        shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
        golden[name] = {"shapes": shapes, "seen": rounded(seen), "heard": rounded(heard)}
    GOLDEN.write_text(json.dumps(golden), encoding="utf-8")


def rounded(embeddings: torch.Tensor) -> list[list[float]]:
    return [[round(value, 6) for value in row] for row in embeddings.tolist()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
