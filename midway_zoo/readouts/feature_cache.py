"""Class tokens of many images, computed once and cached on disk; interrupted runs are resumed."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from midway_zoo.bars import bar
from midway_zoo.errors import InputError
from midway_zoo.files import make_folder, write_safetensors
from midway_zoo.inference.image_files import scaled_size
from midway_zoo.inference.images import ImageLike, resize, to_tensor
from midway_zoo.reading import METADATA_KEY
from midway_zoo.readouts.backbone import Backbone

_logger = logging.getLogger(__name__)

SHARD = 1024
"""Images per file, which bounds what an interruption loses."""


@dataclass(frozen=True)
class EvalTransform:
    """Evaluation transform, as in DINO: resize the shorter side (bicubic), then crop the centre."""

    resize: int = 256
    """Shorter side in pixels."""
    crop: int = 224
    """Side of the square in pixels; a multiple of the patch."""

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise InputError(f"crop={self.crop} and resize={self.resize}: 1 <= crop <= resize is expected.")

    def __call__(self, given: ImageLike) -> Tensor:
        """float32 (3, crop, crop) in [0, 1] of any single image."""
        image = to_tensor(given)
        image = resize(image, scaled_size(image.shape[1], image.shape[2], self.resize, enlarge=True))
        top, left = ((length - self.crop) // 2 for length in image.shape[1:])
        return image[:, top : top + self.crop, left : left + self.crop].contiguous()

    @classmethod
    def of(cls, backbone: Backbone, size: int | None = None) -> "EvalTransform":
        """The transform for a backbone's native size, or for another side in pixels, resizing to 8 / 7 of it (256 for
        224).

        Raises:
            InputError: for a side that is not a multiple of the patch.
        """
        side = min(backbone.img_size) if size is None else size
        if side < 1 or side % backbone.patch_size:
            raise InputError(f"size={side} does not fit patches of {backbone.patch_size} pixels; take a multiple.")
        return cls(round(side * 8 / 7), side)


def default_cache() -> Path:
    """Folder of cached features: ``MIDWAY_ZOO_FEATURES``, by default ``~/.cache/midway_zoo/features``."""
    told = os.environ.get("MIDWAY_ZOO_FEATURES")
    return (
        Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midway_zoo/features"
    )


def cached_features(
    backbone: Backbone,
    files: Sequence[Path],
    root: Path,
    *,
    transform: EvalTransform,
    cache: Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Tensor:
    """Class tokens of the last block of image files.

    They are cached in ``CACHE/<weights and transform>/<files>.safetensors``, :data:`SHARD` images each, and read from
    there if weights, transform and files (names below ``root``, sizes, modification times) are the same. Damaged and
    outdated files are computed again. An interrupted call resumes at the first missing shard, and two calls at once do
    no harm.

    Args:
        backbone: the network that computes the features.
        files: images, of any size.
        root: folder that names are relative to, so that the cache stays valid if the data set is moved as a whole.
        transform: transform of the images.
        cache: folder; None for :func:`default_cache`.
        batch_size: images per forward pass.
        num_workers: processes that read images; 0 reads in this one.

    Returns:
        (N, D) float32, on the CPU, in the order of ``files``.

    Raises:
        InputError: if an image cannot be read.
        MissingFileError: if one is gone.
    """
    keys = {"weights": backbone.digest(), "transform": asdict(transform), "features": "cls of the last block"}
    name = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:32]
    folder = (default_cache() if cache is None else Path(cache)) / name
    make_folder(folder)
    found = []
    parts = [files[first : first + SHARD] for first in range(0, len(files), SHARD)]
    with bar(total=len(files), unit=" images", desc="features") as shown:
        for part in parts:
            listing = _listing(part, root)
            path = folder / f"{listing[:32]}.safetensors"
            wanted = {**keys, "files": listing}
            features = _read(path, wanted, len(part), backbone.dim)
            if features is None:
                features = torch.cat(list(_computed(backbone, part, transform, batch_size, num_workers)))
                write_safetensors(path, {"features": features}, wanted, overwrite=True)
            found.append(features)
            shown.update(len(part))
    return torch.cat(found) if found else torch.empty(0, backbone.dim)


def _listing(files: Sequence[Path], root: Path) -> str:
    """Digest of names, sizes and modification times."""
    digest, top = hashlib.sha256(), f"{root}{os.sep}"
    for path in files:
        status = os.stat(path)  # noqa: PTH116 (a method of Path is slow for a million files)
        digest.update(os.fsencode(os.fspath(path).removeprefix(top)))
        digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _read(path: Path, wanted: dict[str, Any], count: int, dim: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[METADATA_KEY])
            features: Tensor = file.get_tensor("features")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        _logger.warning("%s is damaged and computed again (%s)", path, error)
        return None
    good = said == wanted and features.shape == (count, dim) and features.dtype == torch.float32
    return features if good and bool(features.isfinite().all()) else None


class EvalImages(Dataset[Tensor]):
    """Transformed images, (3, crop, crop) in [0, 1]."""

    def __init__(self, files: Sequence[Path], transform: EvalTransform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.files[index])


@torch.inference_mode()
def _computed(
    backbone: Backbone, files: Sequence[Path], transform: EvalTransform, batch_size: int, num_workers: int
) -> Iterator[Tensor]:
    device = backbone.get_buffer("mean").device
    loader = DataLoader(EvalImages(files, transform), batch_size=batch_size, num_workers=num_workers)
    for images in loader:
        yield backbone.tokens(images.to(device))[0][0].float().cpu()
