"""Retrieval of clips by motion: an index of motion latents on disk, queried with a pair of frames."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.latents import centred
from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.errors import InputError, MidwayZooError, MissingFileError
from midway_zoo.files import write_safetensors
from midway_zoo.inference.batches import inference
from midway_zoo.inference.clips import encoded_pairs
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.folders import frame_files, is_image, natural_key
from midway_zoo.inference.frames import open_frames
from midway_zoo.inference.images import Images, Size, count, iterate
from midway_zoo.inference.perturbation import match_level
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import METADATA_KEY, stand_in
from midway_zoo.results import ShapeRepr
from midway_zoo.storage import state_digest
from midway_zoo.weights.registry import Model, resolve_network

_logger = logging.getLogger(__name__)

By: TypeAlias = Literal["motion", "appearance"]
VIDEOS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
_FORMAT = 1


@dataclass(frozen=True, repr=False, eq=False)
class MotionIndex(ShapeRepr):
    """Motion and appearance of P pairs of frames of C clips."""

    clips: list[str]
    """Names of the clips, relative to ``root``."""
    motion: Tensor
    """(P, M * C) float32: motion latents of the level given in ``options``."""
    appearance: Tensor
    """(P, D) float32: class tokens of the pairs' sources, as a baseline without motion."""
    clip: Tensor
    """(P,) int64: number of the pair's clip."""
    frame: Tensor
    """(P,) int64: index of the pair's source among the frames taken from its clip."""
    seconds: Tensor
    """(P,) float64: presentation time of the source; NaN if frames have none."""
    weights: str
    """SHA-256 of the network's weights: latents of another network cannot be compared with these."""
    options: dict[str, Any] = field(default_factory=dict)
    """How pairs were taken and encoded: "stride", "fps", "gap", "size", "level"."""
    root: str = ""
    """The folder of the clips."""
    stamps: list[str] = field(default_factory=list)
    """Size and modification time of each clip's files, to detect changes."""

    def __len__(self) -> int:
        return len(self.motion)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index as safetensors.

        Raises:
            OutputExistsError: if the file exists and ``overwrite`` is false.
        """
        tensors = {name: getattr(self, name) for name in ("motion", "appearance", "clip", "frame", "seconds")}
        names = ("clips", "weights", "options", "root", "stamps")
        facts = {"index": _FORMAT, **{name: getattr(self, name) for name in names}}
        write_safetensors(Path(path), tensors, facts, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "MotionIndex":
        """Read an index.

        Raises:
            MissingFileError: if there is none.
            InputError: if the file is not an index of motion, or is damaged.
        """
        if not Path(path).is_file():
            raise MissingFileError(f"there is no index {path}; make one with `midway-zoo analyse index`.")
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, ValueError) as error:
            problem = stand_in(Path(path)) or f"cannot be read as an index: {error}. Make it again."
            raise InputError(f"{path} {problem}") from error
        if not isinstance(facts, dict) or facts.pop("index", None) != _FORMAT:
            raise InputError(f"{path} is not an index of motion; make one with `midway-zoo analyse index`.")
        facts.pop("midway_zoo", None)
        try:
            found = cls(**tensors, **facts)
            whole = {"stride", "fps", "gap", "size", "level"} <= found.options.keys() and found._is_whole()
        except (TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path} is damaged ({error}). Make the index again.") from error
        if not whole:
            raise InputError(f"{path} is damaged: its parts do not fit together. Make the index again.")
        return found

    def _is_whole(self) -> bool:
        pairs, clips = len(self.motion), len(self.clips)
        parts = (self.appearance, self.clip, self.frame, self.seconds)
        numbers = self.clip.aminmax()
        return (
            all(len(part) == pairs for part in parts)
            and len(self.stamps) == clips
            and int(numbers.min) >= 0
            and int(numbers.max) < clips
        )

    def pair_of(self, match: "Match") -> tuple[Tensor, Tensor] | None:
        """Source and target (3, H, W) of a match, read from its clip; None if the clip is gone or has become
        shorter."""
        path = Path(self.root) / match.clip
        taken = _Taken(**{name: value for name, value in self.options.items() if name != "size"}).of(path)
        try:
            frames = islice(open_frames(path, stride=taken.stride, fps=taken.fps), match.frame, None, taken.gap)
            source, target = (frame.image for frame in islice(frames, 2))
        except (MidwayZooError, ValueError):  # the clip is gone, or too short to unpack two frames
            return None
        return source, target


@dataclass(frozen=True)
class Match:
    """A clip that matches a query, with its best pair."""

    clip: str
    score: float
    """Cosine in [-1, 1]."""
    frame: int
    """Index of the pair's source among the frames taken from the clip."""
    seconds: float | None
    """Presentation time of that source; None if frames have none."""


def find_clips(root: str | Path) -> list[Path]:
    """Videos below a folder, and folders of frames (a folder with two images or more), in natural order.

    Raises:
        MissingFileError: if there is no such folder, or nothing in it.
    """
    top = Path(root)
    if not top.is_dir():
        raise MissingFileError(f"there is no folder {top}.")
    found = [path for path in top.rglob("*") if path.suffix.lower() in VIDEOS and path.is_file()]
    folders = {path.parent for path in top.rglob("*") if is_image(path.name) and path.suffix.lower() not in VIDEOS}
    found += [folder for folder in folders if len(frame_files(folder)) > 1]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(top).parts)]
    if not visible:
        raise MissingFileError(f"{top} holds neither videos ({', '.join(VIDEOS)}) nor folders of frames.")
    return sorted(visible, key=lambda path: natural_key(str(path.relative_to(top))))


def index_clips(
    model: Model,
    root: str | Path,
    *,
    stride: int = 1,
    fps: float | None = None,
    gap: int = 1,
    size: Size = None,
    level: int | None = None,
    batch_size: int = 8,
    known: MotionIndex | None = None,
) -> MotionIndex:
    """Motion latents of every clip of a folder.

    Args:
        model: a network or a pretrained name.
        root: searched for clips; see :func:`find_clips`. Clips that cannot be read are skipped with a warning.
        stride, fps, gap, size, batch_size: as in :func:`~midway_zoo.infer_motion_latents`. ``fps`` does not
            apply to folders of frames, which have no times.
        level: level whose motion latent is kept, 2, 1 or 0; None for the highest that the network has, which costs
            least; with the model of this package the levels differ by little, and
            :func:`~midway_zoo.analysis.retrieval_truth` measures which one is best with any other.
        known: an earlier index; unchanged clips are taken from it if weights and options are the same.

    Raises:
        MissingFileError: if there are no clips.
        InputError: if none of them can be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    taken = _Taken(stride, fps, gap, size, match_level(network, level))
    check_integer("batch_size", batch_size, 1)
    check_integer("gap", gap, 1)
    digest = state_digest(network)
    options = json.loads(json.dumps(asdict(taken)))  # as :meth:`MotionIndex.load` gives it, with a list for a size
    before = known if known is not None and (known.weights, known.options) == (digest, options) else None
    parts: list[_Clip] = []
    for path in bar(find_clips(root), unit=" clips"):
        name, stamp = str(path.relative_to(root)), _stamp(path)
        kept = _known(before, name, stamp)
        try:
            parts.append(kept or _read(network, path, name, stamp, taken, batch_size))
        except MidwayZooError as error:
            _logger.warning("%s is left out: %s", path, error)
    if not parts:
        raise InputError(f"no clip in {root} could be used; the warnings above say why.")
    number = torch.cat([torch.full((len(part.motion),), index) for index, part in enumerate(parts)])
    return MotionIndex(
        clips=[part.name for part in parts],
        motion=torch.cat([part.motion for part in parts]),
        appearance=torch.cat([part.appearance for part in parts]),
        clip=number,
        frame=torch.cat([torch.arange(len(part.motion)) for part in parts]),
        seconds=torch.cat([part.seconds for part in parts]),
        weights=digest,
        options=options,
        root=str(root),
        stamps=[part.stamp for part in parts],
    )


def find_motion(
    model: Model,
    index: MotionIndex,
    source: Images,
    target: Images,
    *,
    by: By = "motion",
    top: int = 5,
    size: Size = None,
) -> list[Match]:
    """Find the clips that move like a pair of frames.

    Args:
        model: the network that the index was made with.
        index: result of :func:`index_clips`.
        source: one image.
        target: one image of the same size, as many frames later as the ``gap`` of the index.
        by: "motion" compares motion latents by their cosine, centred at the mean of the index; "appearance" does the
            same with the class tokens of the sources.
        top: largest number of clips to return.
        size: as in :func:`~midway_zoo.extract_features`; None for that of the index.

    Returns:
        The matches, best first, one per clip.

    Raises:
        InputError: for images or arguments that cannot be used, or an index made with other weights.
    """
    network = resolve_network(model)
    check_integer("top", top, 1)
    if by not in ("motion", "appearance"):
        raise InputError(f'by={by!r}: "motion" or "appearance" is expected.')
    if state_digest(network) != index.weights:
        raise InputError(
            f"the index was made with other weights (SHA-256 {index.weights[:12]}...); make it again with this model."
        )
    if count(source) != 1 or count(target) != 1:
        raise InputError(f"{count(source)} sources, {count(target)} targets: a query is one pair, one image each.")
    images = [next(iterate(source)), next(iterate(target))]
    if size is None:
        kept = index.options.get("size")
        size = (kept[0], kept[1]) if isinstance(kept, list) else kept
    ((motion, appearance, _),) = _pairs(network, images, _Taken(size=size, level=index.options["level"]), 2)
    asked, stored = (motion, index.motion) if by == "motion" else (appearance, index.appearance)
    return list(_best(index, cosines(asked, stored)[0], top))


def cosines(asked: Tensor, stored: Tensor) -> Tensor:
    """(q, P) cosines of queries (q, width) with stored vectors (P, width), centred at the mean of the latter."""
    mean = stored.mean(dim=0) if len(stored) > 2 else torch.zeros(stored.shape[1])
    ours, theirs = (F.normalize(centred(one, mean), dim=1) for one in (asked, stored))
    return (ours @ theirs.T).clamp(-1, 1)


def _best(index: MotionIndex, scores: Tensor, top: int) -> Iterable[Match]:
    seen: set[int] = set()
    for place in scores.argsort(descending=True).tolist():
        clip = int(index.clip[place])
        if clip not in seen:
            seen.add(clip)
            seconds = float(index.seconds[place])
            yield Match(
                index.clips[clip],
                float(scores[place]),
                int(index.frame[place]),
                None if seconds != seconds else seconds,
            )
            if len(seen) == top:
                return


@dataclass(frozen=True)
class _Taken:
    """How pairs are taken from a clip and encoded."""

    stride: int = 1
    fps: float | None = None
    gap: int = 1
    size: Size = None
    level: int = 0

    def of(self, path: Path) -> "_Taken":
        """The same for one clip: without ``fps`` for a folder, whose frames have no times."""
        return replace(self, fps=None) if path.is_dir() else self


@dataclass(frozen=True)
class _Clip:
    """What the index keeps of a clip."""

    name: str
    stamp: str
    motion: Tensor
    appearance: Tensor
    seconds: Tensor


def _read(
    network: MidwayNetwork,
    path: Path,
    name: str,
    stamp: str,
    taken: _Taken,
    batch_size: int,
) -> _Clip:
    parts = list(_pairs(network, path, taken.of(path), batch_size))
    motion, appearance, seconds = (torch.cat(column) for column in zip(*parts, strict=True))
    return _Clip(name, stamp, motion, appearance, seconds)


def _pairs(
    network: MidwayNetwork,
    clip: "Path | Sequence[Any]",
    taken: _Taken,
    batch_size: int,
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Latents (p, M * C), class tokens (p, D) and seconds (p,) of a clip's pairs, a batch at a time."""

    def encode(images: Tensor) -> EncodedFrames:
        return EncodedFrames(network, images).encoded()

    frames = open_frames(clip, stride=taken.stride, fps=taken.fps)
    for pairs in encoded_pairs(network, frames, taken.size, batch_size, encode, gap=taken.gap):
        with inference(network):
            first = pairs.source.tokens()
            second = pairs.target.tokens(target=True)
            out = network.require_dynamics().motion_latents(first, second, pairs.source.grid, level=taken.level)
        latents = out.motion_latents[taken.level]
        times = torch.full((len(latents),), torch.nan, dtype=torch.float64)
        if pairs.pts_seconds is not None:
            times = pairs.pts_seconds[:, 0]
        yield latents.flatten(1).float().cpu(), first[-1][:, 0].float().cpu(), times


def _stamp(path: Path) -> str:
    names = [path / name for name in frame_files(path)] if path.is_dir() else [path]
    states = [one.stat() for one in names]
    return f"{len(names)} {sum(one.st_size for one in states)} {max(one.st_mtime_ns for one in states)}"


def _known(before: MotionIndex | None, name: str, stamp: str) -> _Clip | None:
    if before is None or name not in before.clips:
        return None
    number = before.clips.index(name)
    if number >= len(before.stamps) or before.stamps[number] != stamp:
        return None
    rows = before.clip == number
    return _Clip(name, stamp, before.motion[rows], before.appearance[rows], before.seconds[rows])
