"""Images and labels for segmentation: rendered scenes, or folders of images and masks."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.errors import ConfigError, DataError, InputError, MissingFileError
from midway_zoo.inference.folders import is_image
from midway_zoo.inference.images import read_image, read_labels
from midway_zoo.scenes import SceneGenerator
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.loading import Sample
from midway_zoo.train.data.photometric import UNIFORMS, ViewKind, draw_parameters, photometric_parameters
from midway_zoo.train.data.scene_pairs import RenderedBatches
from midway_zoo.train.tasks.segmentation.config import IGNORE, SegmentationDataConfig

# What is trained on, what is validated on, and what pretraining sees have nothing in common.
_TRAIN, _HELD_OUT, _AUGMENT = 0x7365676D << 32, 0x68656C64 << 32, 0x61756720 << 32
_ORDER, _CROP = 1, 2
_TRIES = 10


class LabelledScenes(RenderedBatches):
    """First frames of scenes, and their labels; image ``k`` is a pure function of the seed and k."""

    def __init__(self, config: SegmentationDataConfig, seed: int, device: str | torch.device = "cpu") -> None:
        self.config = config
        self._seed = seed
        self._generator = SceneGenerator(config.scenes, seed ^ _TRAIN, device)
        self.device = self._generator.device

    def __getitems__(self, numbers: Sequence[int]) -> Sample:
        """Batch of "image" uint8 (B, 3, H, W), "labels" uint8 (B, H, W), "photometric" and "index"."""
        index = torch.tensor(list(numbers))
        images, labels = _first_frames(self._generator, numbers)
        draws = Draws(self._seed ^ _AUGMENT, index.numpy())
        flipped = torch.from_numpy(draws.uniform(1) < self.config.flip_p).to(self.device)
        uniform = draws.uniform(UNIFORMS).T
        photometric = photometric_parameters(
            self.config.photometric.for_views(), [ViewKind.LOCAL] * len(index), uniform
        )
        return {
            "image": torch.where(flipped[..., None, None], images.flip(-1), images),
            "labels": torch.where(flipped[..., None], labels.flip(-1), labels),
            "photometric": torch.from_numpy(photometric).to(self.device),
            "index": index,
        }


def held_out_scenes(
    config: SegmentationDataConfig, device: torch.device, *, batch_size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of uint8 images (B, 3, H, W) and labels (B, H, W) that no run trains on, the same for every seed."""
    generator = SceneGenerator(config.scenes, _HELD_OUT, device)
    for first in range(0, config.val_scenes, batch_size):
        yield _first_frames(generator, range(first, min(first + batch_size, config.val_scenes)))


def _first_frames(generator: SceneGenerator, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    batch = generator.render(numbers)
    return (batch.frames[:, 0] * 255).round().to(torch.uint8), batch.labels[:, 0].to(torch.uint8)


def find_files(root: str | Path) -> list[tuple[Path, Path]]:
    """(image, mask) below ``root/images`` and ``root/masks``, of the stems that both have, in their order.

    Raises:
        MissingFileError: if a folder is missing.
        DataError: if nothing belongs together, or a stem is there twice.
    """
    found: list[dict[str, Path]] = []
    for name in ("images", "masks"):
        folder = Path(root) / name
        if not folder.is_dir():
            raise MissingFileError(f"there is no folder {folder}: {root} must hold images/ and masks/.")
        files: dict[str, Path] = {}
        for path in sorted(path for path in folder.rglob("*") if is_image(path.name)):
            if path.stem in files:
                raise DataError(f"{path} and {files[path.stem]} have the same stem: masks are found by stem.")
            files[path.stem] = path
        found.append(files)
    images, masks = found
    stems = sorted(images.keys() & masks.keys())
    if not stems:
        raise DataError(f"no image of {len(images)} below {root}/images has a mask of its stem below {root}/masks.")
    return [(images[stem], masks[stem]) for stem in stems]


def read_pair(image: Path, mask: Path, classes: int) -> tuple[Image.Image, Image.Image]:
    """An RGB image and its mask of class ids (mode L), both upright by their EXIF orientation.

    Raises:
        InputError: if one is not readable, their sizes differ, or the mask has other values than classes and 255.
    """
    picture = Image.fromarray(read_image(image).permute(1, 2, 0).numpy())
    labels = read_labels(mask)
    if (labels.shape[1], labels.shape[0]) != picture.size:
        raise InputError(f"{mask} has shape {labels.shape}: one channel of {image}'s size {picture.size} is expected.")
    wrong = (labels >= classes) & (labels != IGNORE)
    if wrong.any():
        raise InputError(f"{mask} has the value {labels[wrong][0]}: 0 to {classes - 1}, or {IGNORE}, is expected.")
    return picture, Image.fromarray(labels.astype(np.uint8))


class LabelledFiles(Dataset[Sample]):
    """Augmented crops of images of a folder; sample ``k`` is a pure function of the seed and k.

    Each pass over the folder has an order of its own.
    """

    def __init__(self, config: SegmentationDataConfig, seed: int) -> None:
        if config.root is None or config.classes is None:
            raise ConfigError("data.root and data.classes have to be given.")
        self.config, self.classes = config, config.classes
        self.files = find_files(config.root)
        self._seed = seed

    def __getitem__(self, number: int) -> Sample:
        """ "image" uint8 (3, S, S), "labels" uint8 (S, S), "photometric" float32 (11,) and "index"."""
        order = _order(self._seed, number // len(self.files), len(self.files))
        image_file, mask_file = self.files[int(order[number % len(order)])]
        picture, mask = read_pair(image_file, mask_file, self.classes)
        rng = np.random.default_rng([self._seed, _CROP, number])
        image, labels = random_crop(picture, mask, self.config, rng)
        photometric = draw_parameters(self.config.photometric.for_views(), [ViewKind.LOCAL], rng)[0]
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "labels": torch.from_numpy(labels),
            "photometric": torch.from_numpy(photometric),
            "index": torch.tensor(number),
        }


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(length)


def random_crop(
    picture: Image.Image, mask: Image.Image, config: SegmentationDataConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Scaled, cropped and flipped: (S, S, 3) and (S, S); what lies outside of the image is black and ignored."""
    side = config.crop
    ratio = side * rng.uniform(*config.scale) / min(picture.size)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    image = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    labels = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
    lacking = max(0, side - size[1]), max(0, side - size[0])
    if any(lacking):
        image = np.pad(image, ((0, lacking[0]), (0, lacking[1]), (0, 0)))
        labels = np.pad(labels, ((0, lacking[0]), (0, lacking[1])), constant_values=IGNORE)
    for _ in range(_TRIES):
        top, left = (int(rng.integers(length - side + 1)) for length in labels.shape)
        window = slice(top, top + side), slice(left, left + side)
        counts = np.bincount(labels[window].ravel(), minlength=IGNORE + 1)[:IGNORE]
        if 0 < counts.max() <= config.max_class_share * counts.sum():
            break
    step = -1 if rng.random() < config.flip_p else 1
    return np.ascontiguousarray(image[window][:, ::step]), np.ascontiguousarray(labels[window][:, ::step])
