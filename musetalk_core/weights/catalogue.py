"""The published weight files this project knows: source, size, SHA-256, licence and accepted places."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import MuseTalkError

Candidate = tuple[str, str]


@dataclass(frozen=True)
class WeightFile:
    """One file of an entry.

    path: where it lies below the "musetalk" model folder, in upstream's layout. repo, revision, name: its place on
    the Hugging Face hub, pinned to a commit. size: bytes. sha256: lower-case hex.
    """

    path: str
    repo: str
    revision: str
    name: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        """Public https address of exactly this revision."""
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.name}"


@dataclass(frozen=True)
class WeightEntry:
    """One network's weights.

    files: what a download brings; the first is the weights, others are small configurations that this project does
    not need but other tools that share the folder do. candidates: (model folder key, path below it) in order of
    search; the first is files[0].
    """

    id: str
    role: str
    title: str
    files: tuple[WeightFile, ...]
    also_accepted: tuple[Candidate, ...]
    licence: str
    licence_url: str

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every place where the weights may lie, most wanted first."""
        return (("musetalk", self.files[0].path), *self.also_accepted)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def _below(folder: str, *names: str) -> tuple[Candidate, ...]:
    return tuple(("musetalk", str(PurePosixPath(folder, name))) for name in names)


_MUSETALK = ("TMElyralab/MuseTalk", "3ef28bc5cff08c90ad8178a25f1b570cd800170f")
_SD_VAE = ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493")
_WHISPER = ("openai/whisper-tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af")
_MUSETALK_JSON = "5b6923aee04d71692e0e9846c471e0a4ea07a4f686d39545e472bd4ba17e1b47"
_MUSETALK_LICENCE = (
    "CreativeML Open RAIL-M (model card); the authors allow any purpose, also commercial (MuseTalk README)"
)

UNET_V15 = WeightEntry(
    id="musetalk-v1.5-unet",
    role="unet",
    title="MuseTalk 1.5 UNet",
    files=(
        WeightFile(
            "musetalkV15/unet.pth",
            *_MUSETALK,
            "musetalkV15/unet.pth",
            3_400_074_924,
            "7ebf6c98c181e20838e4c0054e96e944ac60d5d692cc01db42839fe11b787007",
        ),
        WeightFile("musetalkV15/musetalk.json", *_MUSETALK, "musetalkV15/musetalk.json", 748, _MUSETALK_JSON),
    ),
    also_accepted=_below("musetalkV15", "unet.safetensors", "unet.bin"),
    licence=_MUSETALK_LICENCE,
    licence_url="https://huggingface.co/TMElyralab/MuseTalk",
)

UNET_V10 = WeightEntry(
    id="musetalk-v1.0-unet",
    role="unet",
    title="MuseTalk 1.0 UNet",
    files=(
        WeightFile(
            "musetalk/pytorch_model.bin",
            *_MUSETALK,
            "musetalk/pytorch_model.bin",
            3_400_076_549,
            "0ee7d5ea03ea75d8dca50ea7a76df791e90633687a135c4a69393abfc0475ffe",
        ),
        WeightFile("musetalk/musetalk.json", *_MUSETALK, "musetalk/musetalk.json", 748, _MUSETALK_JSON),
    ),
    also_accepted=(
        *_below("musetalk", "pytorch_model.safetensors", "pytorch_model.pth"),
        *_below("", "pytorch_model.bin", "pytorch_model.safetensors"),
    ),
    licence=_MUSETALK_LICENCE,
    licence_url="https://huggingface.co/TMElyralab/MuseTalk",
)

VAE = WeightEntry(
    id="sd-vae-ft-mse",
    role="vae",
    title="Stable Diffusion VAE ft-mse",
    files=(
        WeightFile(
            "sd-vae/diffusion_pytorch_model.safetensors",
            *_SD_VAE,
            "diffusion_pytorch_model.safetensors",
            334_643_276,
            "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        ),
        WeightFile(
            "sd-vae/config.json",
            *_SD_VAE,
            "config.json",
            547,
            "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
        ),
    ),
    also_accepted=(
        *_below("sd-vae", "diffusion_pytorch_model.bin"),
        *_below("sd-vae-ft-mse", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "vae-ft-mse-840000-ema-pruned.safetensors"),
        ("vae", "vae-ft-mse-840000-ema-pruned.ckpt"),
        ("vae", "sd-vae-ft-mse.safetensors"),
    ),
    licence="MIT",
    licence_url="https://huggingface.co/stabilityai/sd-vae-ft-mse",
)

WHISPER = WeightEntry(
    id="whisper-tiny",
    role="whisper",
    title="Whisper tiny",
    files=(
        WeightFile(
            "whisper/model.safetensors",
            *_WHISPER,
            "model.safetensors",
            151_061_672,
            "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
        ),
        WeightFile(
            "whisper/config.json",
            *_WHISPER,
            "config.json",
            1_983,
            "ffdccec4f3211f4c63310f2b7098f309fe70f3952cedc5e4d11e43f5b2379b98",
        ),
        WeightFile(
            "whisper/preprocessor_config.json",
            *_WHISPER,
            "preprocessor_config.json",
            184_990,
            "9b5cd03a36fbb8a627c64d98a5b5b126ead95a77720723944487311f0110b666",
        ),
    ),
    also_accepted=(
        *_below("whisper", "pytorch_model.bin", "tiny.pt"),
        *_below("whisper-tiny", "model.safetensors", "pytorch_model.bin"),
    ),
    licence="Apache-2.0 (model card); OpenAI's Whisper itself is MIT",
    licence_url="https://huggingface.co/openai/whisper-tiny",
)

BISENET = WeightEntry(
    id="bisenet",
    role="bisenet",
    title="BiSeNet face parsing",
    files=(
        WeightFile(
            "face-parse-bisent/79999_iter.pth",
            "ManyOtherFunctions/face-parse-bisent",
            "0073b233a5a3c4b1377d4dbf49245017938a72b5",
            "79999_iter.pth",
            53_289_463,
            "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        ),
    ),
    also_accepted=(
        *_below("face-parse-bisent", "79999_iter.safetensors"),
        *_below("face-parse-bisenet", "79999_iter.pth"),
    ),
    licence="MIT (code); trained on CelebAMask-HQ, whose terms are for non-commercial research",
    licence_url="https://github.com/zllrunning/face-parsing.PyTorch",
)

DWPOSE = WeightEntry(
    id="dwpose",
    role="dwpose",
    title="DWPose whole-body points",
    files=(
        WeightFile(
            "dwpose/dw-ll_ucoco_384.pth",
            "yzd-v/DWPose",
            "1a7144101628d69ee7a3768d1ee3a094070dc388",
            "dw-ll_ucoco_384.pth",
            406_878_486,
            "0d9408b13cd863c4e95a149dd31232f88f2a12aa6cf8964ed74d7d97748c7a07",
        ),
    ),
    also_accepted=(),
    licence="Apache-2.0",
    licence_url="https://huggingface.co/yzd-v/DWPose",
)

S3FD = WeightEntry(
    id="s3fd",
    role="s3fd",
    title="S3FD face detector",
    files=(
        WeightFile(
            "s3fd/s3fd-619a316812.pth",
            "ByteDance/LatentSync",
            "405eda8eab9f65c1a6e0c292a5dee5a08089e2ae",
            "auxiliary/s3fd-619a316812.pth",
            89_843_225,
            "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543",
        ),
    ),
    also_accepted=(("musetalk", "auxiliary/s3fd-619a316812.pth"),),
    licence="BSD-3-Clause (face-alignment)",
    licence_url="https://github.com/1adrianb/face-alignment",
)

SYNCNET = WeightEntry(
    id="syncnet",
    role="syncnet",
    title="SyncNet v2, for the evaluation",
    files=(
        WeightFile(
            "syncnet/syncnet_v2.model",
            "ByteDance/LatentSync",
            "405eda8eab9f65c1a6e0c292a5dee5a08089e2ae",
            "auxiliary/syncnet_v2.model",
            54_573_114,
            "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        ),
    ),
    also_accepted=(("musetalk", "auxiliary/syncnet_v2.model"),),
    licence="MIT (code); no licence is stated for the weights: research use",
    licence_url="https://github.com/joonson/syncnet_python",
)

WEIGHTS: tuple[WeightEntry, ...] = (UNET_V15, UNET_V10, VAE, WHISPER, BISENET, DWPOSE, S3FD, SYNCNET)

GROUPS: dict[str, tuple[WeightEntry, ...]] = {
    "v1.5": (UNET_V15, VAE, WHISPER, BISENET),
    "v1.0": (UNET_V10, VAE, WHISPER, BISENET),
    "faces": (DWPOSE, S3FD),
    "all": WEIGHTS,
}


def find_entry(entry_id: str) -> WeightEntry:
    """The entry with this id; raises MuseTalkError that lists the ids."""
    for entry in WEIGHTS:
        if entry.id == entry_id:
            return entry
    raise MuseTalkError(f"No weights are called {entry_id!r}; known are {', '.join(e.id for e in WEIGHTS)}.")


def select(names: list[str]) -> list[WeightEntry]:
    """Entries of ids and group names (v1.5, v1.0, faces, all), each once, in the order asked.

    Raises MuseTalkError for a name that is neither.
    """
    chosen: dict[str, WeightEntry] = {}
    for name in names:
        for entry in GROUPS.get(name) or (find_entry(name),):
            chosen[entry.id] = entry
    return list(chosen.values())
