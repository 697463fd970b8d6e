"""SyncNet v2: one embedding for 0.2 s of a face, one for 0.2 s of sound, near each other when they belong together.

Chung and Zisserman 2016, "Out of time: automated lip sync in the wild". Module names are the keys of the published
checkpoint `syncnet_v2.model`: netcnnaud, netfcaud, netcnnlip, netfclip.
"""

from torch import Tensor, nn

WIDTH = 1024
FACE_SIZE = 224  # pixels
FACE_FRAMES = 5  # frames at 25/s that one embedding sees
AUDIO_STEPS = 20  # MFCC rows at 100/s that one embedding hears
COEFFICIENTS = 13


def _norm_relu(norm: nn.Module) -> list[nn.Module]:
    return [norm, nn.ReLU(inplace=True)]


def _audio(inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=padding), *_norm_relu(nn.BatchNorm2d(outputs))]


def _face(
    inputs: int, outputs: int, kernel: tuple[int, int, int] = (1, 3, 3), stride: int = 1, padding: int = 1
) -> list[nn.Module]:
    steps = (1, stride, stride)
    convolution = nn.Conv3d(inputs, outputs, kernel, stride=steps, padding=(0, padding, padding))
    return [convolution, *_norm_relu(nn.BatchNorm3d(outputs))]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))


class SyncNet(nn.Module):
    """Both halves of the network; distances between their embeddings are LSE-D's."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_audio(1, 64),
            nn.MaxPool2d(1, 1),
            *_audio(64, 192),
            nn.MaxPool2d(3, (1, 2)),
            *_audio(192, 384),
            *_audio(384, 256),
            *_audio(256, 256),
            nn.MaxPool2d(3, 2),
            *_audio(256, 512, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netcnnlip = nn.Sequential(
            *_face(3, 96, (FACE_FRAMES, 7, 7), 2, 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_face(96, 256, (1, 5, 5), 2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_face(256, 256),
            *_face(256, 256),
            *_face(256, 256),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_face(256, 512, (1, 6, 6), padding=0),
        )
        self.netfclip = _head()

    def hear(self, mfcc: Tensor) -> Tensor:
        """Windows (B,1,13,20) of MFCC, rows at 100/s along the last axis -> embeddings (B,1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def see(self, faces: Tensor) -> Tensor:
        """Faces (T,3,224,224), BGR in 0..255, at 25/s -> embeddings (T-4,1024), one for every 5 frames in a row.

        Only the first layer looks along time, so a whole run gives what its windows give one by one.
        """
        maps = self.netcnnlip(faces.transpose(0, 1)[None])  # (1,512,T-4,1,1)
        return self.netfclip(maps[0, :, :, 0, 0].T)
