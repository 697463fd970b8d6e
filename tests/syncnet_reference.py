"""Makes tests/data/syncnet_golden.json from the published code, the package syncnet-python 0.2.3.

In an environment of its own, because the package brings another OpenCV (docs/evaluation.md has the commands):

    python tests/syncnet_reference.py

Its network class is joonson/syncnet_python's.
"""

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).with_name("data") / "syncnet_golden.json"


def fill(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that depend on nothing but the sorted names and the shapes."""
    filled = {}
    for k, name in enumerate(sorted(state)):
        shape, generator = tuple(state[name].shape), np.random.default_rng(k)
        if name.endswith("num_batches_tracked"):
            filled[name] = torch.zeros((), dtype=torch.long)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            filled[name] = torch.from_numpy(generator.uniform(0.5, 1.5, shape).astype(np.float32))
        else:
            scale = 0.1 if len(shape) < 2 else (2 / np.prod(shape[1:])) ** 0.5
            filled[name] = torch.from_numpy((generator.standard_normal(shape) * scale).astype(np.float32))
    return filled


def faces() -> np.ndarray:
    """(6,224,224,3) uint8 RGB."""
    return np.random.default_rng(1).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)


def sound() -> np.ndarray:
    """(8000,) int16: half a second at 16 kHz."""
    return (np.random.default_rng(2).normal(0, 0.1, 8000).clip(-1, 0.99) * 32768).astype(np.int16)


def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Two rows of 40 unlike embeddings."""
    generator = np.random.default_rng(3)
    return generator.standard_normal((40, 16), np.float32), generator.standard_normal((40, 16), np.float32)


def main() -> None:
    import python_speech_features

    package = Path(importlib.util.find_spec("syncnet_python").origin).parent  # not imported: it wants its OpenCV
    spec = importlib.util.spec_from_file_location("reference", package / "SyncNetModel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.S(num_layers_in_fc_layers=1024).train(False)
    net.load_state_dict(fill(net.state_dict()))
    # The other file imports a whole pipeline; the one function is taken out of it.
    tree = ast.parse((package / "SyncNetInstance.py").read_text())
    taken = next(item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == "calc_pdist")
    names = {"torch": torch}
    exec(compile(ast.Module([taken], []), "calc_pdist", "exec"), names)  # noqa: S102
    pixels = torch.from_numpy(faces()[..., ::-1].copy()).float().permute(3, 0, 1, 2)
    rows = python_speech_features.mfcc(sound(), 16000)
    with torch.no_grad():
        lips = net.forward_lip(torch.stack([pixels[:, k : k + 5] for k in range(2)]))
        heard = net.forward_aud(torch.from_numpy(rows[:20].T.copy()).float()[None, None])
    distances = names["calc_pdist"](*map(torch.from_numpy, embeddings()), vshift=10)
    means = torch.stack(distances, 1).mean(1)
    golden = {
        "shapes": {name: list(tensor.shape) for name, tensor in net.state_dict().items()},
        "lips": lips[:, :16].tolist(),
        "lips_norm": lips.norm(dim=1).tolist(),
        "heard": heard[:, :16].tolist(),
        "heard_norm": heard.norm(dim=1).tolist(),
        "mfcc": [[round(value, 9) for value in row] for row in rows[:3].tolist()],
        "mfcc_rows": len(rows),
        "distance": float(means.min()),
        "confidence": float(means.median() - means.min()),
        "offset": 10 - int(means.argmin()),
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
