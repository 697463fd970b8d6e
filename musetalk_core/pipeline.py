"""The one loop: frames in, lip-synced frames out, batch by batch, in bounded memory."""

import logging
from collections import OrderedDict, abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from .ahead import read_ahead
from .audio_features import TokenSource
from .batches import BatchSize, batch_frames, shrinking_batches
from .blending import Masker, check_own_mask, composite, faded
from .errors import MuseTalkError
from .execution import Execution
from .faces.geometry import crop_face, fit_face
from .faces.locator import FaceLocator
from .faces.track import FaceTrack
from .generator import Generator
from .latents import Codec, decode_faces, encode_crops
from .media.source import FrameSource
from .report import Report
from .settings import LipSyncSettings
from .silence import GatedTokens
from .timeline import shows_again, source_index

log = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Models:
    """The networks of a run, each already on its device.

    codec encodes crops; decode_codec (the same, or a faster one) decodes generated latents; locator finds the
    face; masker says where it is blended in. compiled: generator and decoder run fast in one shape only.
    """

    codec: Codec
    decode_codec: Codec
    generator: Generator
    locator: FaceLocator
    masker: Masker
    compiled: bool = False

    @property
    def execution(self) -> Execution:
        """How the loop runs with these networks."""
        return Execution.on(self.decode_codec.device, self.compiled)


@dataclass(frozen=True)
class PreparedFrame:
    """Everything about a source frame that does not depend on the audio.

    box: (4,) float32 x1 y1 x2 y2 or None without a face; masked, reference: (4,h,w) float32 latents on the CPU;
    mask: (box height, box width) uint8; reason: why there is no face, "" with one; angle: of the box, in radians.
    """

    box: np.ndarray | None = None
    masked: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    mask: np.ndarray | None = None
    reason: str = ""
    angle: float = 0.0

    @property
    def nbytes(self) -> int:
        tensors = sum(t.numel() * t.element_size() for t in (self.masked, self.reference) if t is not None)
        return 256 + tensors + (0 if self.mask is None else self.mask.nbytes)


# Gives the prepared frames of a batch of pictures, from the pictures and their indices in the source.
Prepare = Callable[[Sequence[torch.Tensor], Sequence[int]], list[PreparedFrame]]


class PreparedFrames:
    """Prepared source frames by index; beyond the limit in bytes the least recently used leave, all but one."""

    def __init__(self, limit: int) -> None:
        self._frames: OrderedDict[int, PreparedFrame] = OrderedDict()
        self._limit = limit
        self._size = 0

    def get(self, index: int) -> PreparedFrame | None:
        """The frame, now the most recently used, or None."""
        if index in self._frames:
            self._frames.move_to_end(index)
        return self._frames.get(index)

    def add(self, index: int, frame: PreparedFrame) -> None:
        """Keep a frame whose index is not kept yet."""
        self._frames[index] = frame
        self._size += frame.nbytes
        while self._size > self._limit and len(self._frames) > 1:
            self._size -= self._frames.popitem(last=False)[1].nbytes


def lip_sync(
    source: FrameSource,
    tokens: TokenSource,
    frames: int,
    models: Models,
    settings: LipSyncSettings,
    report: Report | None = None,
    track: FaceTrack | None = None,
    own_mask: torch.Tensor | None = None,
    execution: Execution | None = None,
    first: int = 0,
) -> abc.Generator[torch.Tensor, None, None]:
    """Yield exactly `frames` lip-synced frames (H,W,3) in the source's dtype, at tokens.fps; of them, those from
    `first` on.

    Output frame i shows source frame source_index(i) with the mouth of tokens i. Frames without a face, or whose
    result is not finite, are yielded as they came. A source frame that comes back later is located, encoded and
    parsed once while it stays in the cache. track: the faces of all source frames, when known, instead of
    models.locator. own_mask: a user's mask (1,H,W), or one for every source frame, floating 0..1, that the blend
    masks are multiplied with. execution: other than the models' own. Memory: one batch of frames, four with overlap,
    and CACHE_BYTES. Close the generator when it is left early, which ends its threads. Raises MuseTalkError when no
    frame has a face, unless settings.allow_no_face.
    """
    report = Report() if report is None else report
    if track is not None:
        track.check(len(source), source.size)
    if own_mask is not None:
        check_own_mask(own_mask, len(source), source.size)
    again = shows_again(frames, len(source), source.fps, tokens.fps, settings.mode)
    kept = PreparedFrames(CACHE_BYTES if again else 0)
    size = BatchSize(batch_frames(settings.batch_size, models.codec.device, models.codec.dtype))
    execution = models.execution if execution is None else execution

    def prepare(batch: Sequence[torch.Tensor], indices: Sequence[int]) -> list[PreparedFrame]:
        return _prepare(batch, indices, kept, models, size, track, own_mask)

    makers = models.generator, models.decode_codec
    return speak(source, tokens, frames, *makers, settings, prepare, report, execution, first)


def speak(
    source: FrameSource,
    tokens: TokenSource,
    frames: int,
    generator: Generator,
    codec: Codec,
    settings: LipSyncSettings,
    prepare: Prepare,
    report: Report,
    execution: Execution,
    first: int = 0,
) -> abc.Generator[torch.Tensor, None, None]:
    """Yield frames first..frames-1 of a source whose prepared frames `prepare` gives; see lip_sync. codec decodes.

    With execution.overlap frames are read in one thread and the networks run in another, while faces are pasted in the
    caller's.
    """
    batches = _batches(source, tokens, range(first, frames), generator, codec, settings, prepare, execution)
    with read_ahead(batches, 1 if execution.overlap else 0) as made:
        for batch in made:
            for picture, frame, face, weight in zip(
                batch.pictures, batch.prepared, batch.faces, batch.speaking, strict=True
            ):
                yield _finish(picture, frame, face, float(weight), settings.mask.colour_match, report)
            batch.pictures.clear()  # before the next one is read: of large frames that is much
    if report.found + report.silent == 0 and not settings.allow_no_face:
        raise MuseTalkError(report.nothing_found())


@dataclass(frozen=True)
class _Batch:
    """Pictures (H,W,3) and what is pasted into them: faces (256,256,3) or None, speaking: the share (n,), 0..1."""

    pictures: list[torch.Tensor]
    prepared: list[PreparedFrame]
    faces: list[torch.Tensor | None]
    speaking: np.ndarray


def _batches(
    source: FrameSource,
    tokens: TokenSource,
    frames: range,
    generator: Generator,
    codec: Codec,
    settings: LipSyncSettings,
    prepare: Prepare,
    execution: Execution,
) -> abc.Generator[_Batch, None, None]:
    def shown(i: int) -> int:
        return source_index(i, len(source), source.fps, tokens.fps, settings.mode)

    limit = batch_frames(settings.batch_size, codec.device, codec.dtype)
    size = BatchSize(limit, execution.fixed)
    start = frames.start
    with read_ahead(source.read(shown(i) for i in frames), limit if execution.overlap else 0) as pictures:
        while start < frames.stop:
            stop = min(start + size.frames, frames.stop)
            batch = list(islice(pictures, stop - start))
            prepared = prepare(batch, [shown(i) for i in range(start, stop)])
            full = np.ones(stop - start, np.float32)
            speaking = tokens.shown(start, stop) if isinstance(tokens, GatedTokens) else full
            faces = _generate(prepared, tokens.tokens(start, stop), speaking > 0, generator, codec, size)
            yield _Batch(batch, prepared, faces, speaking)
            start = stop


def _prepare(
    pictures: Sequence[torch.Tensor],
    indices: Sequence[int],
    kept: PreparedFrames,
    models: Models,
    size: BatchSize,
    track: FaceTrack | None,
    own_mask: torch.Tensor | None,
) -> list[PreparedFrame]:
    """The prepared frames of a batch, in its order; what is not kept yet is made and kept."""
    here = {index: frame for index in indices if (frame := kept.get(index)) is not None}
    missing = {index: pictures[k] for k, index in enumerate(indices) if index not in here}
    if missing:
        frames = torch.stack(list(missing.values()))
        rows = list(missing)
        faces = models.locator.locate(frames) if track is None else track.select(rows)
        own = own_mask if own_mask is None or len(own_mask) == 1 else own_mask[rows]
        for index, frame in zip(rows, prepare_frames(frames, faces, models, size, own), strict=True):
            kept.add(index, frame)
            here[index] = frame
    return [here[index] for index in indices]


def prepare_frames(
    frames: torch.Tensor, faces: FaceTrack, models: Models, size: BatchSize, own_mask: torch.Tensor | None = None
) -> list[PreparedFrame]:
    """Crop, encode and parse the present faces of frames (B,H,W,3), one PreparedFrame each; own_mask: see Masker.

    size: of the encoder's passes.
    """
    present = np.flatnonzero(faces.present)
    prepared = [PreparedFrame(reason=str(reason)) for reason in faces.reasons]
    if not len(present):
        return prepared
    angles = [float(angle) for angle in faces.angles]
    crops = torch.stack([crop_face(frames[k], faces.boxes[k], angles[k]) for k in present])
    own = own_mask if own_mask is None or len(own_mask) == 1 else own_mask[present]
    masks = models.masker.masks([frames[k] for k in present], faces.select(present), own)

    def encode(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return encode_crops(models.codec, crops[start:stop])

    for start, stop, (masked, reference) in shrinking_batches(encode, len(present), size):
        masked, reference = masked.float().cpu(), reference.float().cpu()
        for row in range(start, stop):
            k = present[row]
            prepared[k] = PreparedFrame(
                faces.boxes[k],
                masked[row - start].clone(),
                reference[row - start].clone(),
                masks[row],
                angle=angles[k],
            )
    return prepared


def _generate(
    prepared: Sequence[PreparedFrame],
    tokens: torch.Tensor,
    shown: np.ndarray,
    generator: Generator,
    codec: Codec,
    size: BatchSize,
) -> list[torch.Tensor | None]:
    """Faces (256,256,3) float32 [0,1] on the CPU for the shown frames (bool) that have one, else None."""
    faces: list[torch.Tensor | None] = [None] * len(prepared)
    rows = [k for k, frame in enumerate(prepared) if frame.box is not None and shown[k]]
    if not rows:
        return faces
    latents = [(prepared[k].masked, prepared[k].reference) for k in rows]
    masked = torch.stack([pair[0] for pair in latents if pair[0] is not None])
    reference = torch.stack([pair[1] for pair in latents if pair[1] is not None])
    tokens = tokens[rows]

    def generate(start: int, stop: int) -> torch.Tensor:
        latents = generator.generate(*(size.filled(rows[start:stop]) for rows in (masked, reference, tokens)))
        return decode_faces(codec, latents)[: stop - start].cpu()

    for start, stop, pixels in shrinking_batches(generate, len(rows), size):
        for k, face in zip(rows[start:stop], pixels, strict=True):
            faces[k] = face
    return faces


def _finish(
    picture: torch.Tensor,
    frame: PreparedFrame,
    face: torch.Tensor | None,
    weight: float,
    colour_match: float,
    report: Report,
) -> torch.Tensor:
    """Blend a face into its frame, `weight` (0..1) of it; the frame itself where there is none or none finite."""
    if frame.box is None or frame.mask is None:
        report.passed(frame.reason)
        return picture
    if face is None:
        report.hushed()
        return picture
    if not torch.isfinite(face).all():
        log.warning("Output frame %d: the networks gave non-finite pixels; the source frame is kept.", report.frames)
        report.kept()
        return picture
    report.made()
    return pasted(picture, frame, face, weight, colour_match)


def pasted(
    picture: torch.Tensor, frame: PreparedFrame, face: torch.Tensor, weight: float, colour_match: float
) -> torch.Tensor:
    """A copy of a source picture with a generated face (256,256,3) in it, `weight` (0..1) of its mask; see composite.

    frame: of this picture, with a face.
    """
    assert frame.box is not None and frame.mask is not None
    mask = faded(frame.mask, weight)
    return composite(picture, fit_face(face, frame.box), frame.box, mask, colour_match, frame.angle)
