"""Where the measures' own weights lie below the model folder "musetalk"; docs/evaluation.md says where to get them."""

MISSING = "weights missing"  # what a figure says without them
ALEXNET = "evaluation/alexnet-owt-7be5be79.pth"
INCEPTION = "evaluation/weights-inception-2015-12-05-6726825d.pth"
FACE_EMBEDDER = "evaluation/w600k_r50.onnx"
