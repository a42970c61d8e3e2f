"""Images and labels for segmentation: rendered scenes, or crops of labelled files."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from midway_zoo.readouts.labelled import IGNORE, LabelledFiles
from midway_zoo.readouts.segmentation import seen_size
from midway_zoo.scenes import SceneGenerator
from midway_zoo.scenes.draws import Draws
from midway_zoo.train.data.loading import Sample
from midway_zoo.train.data.photometric import UNIFORMS, ViewKind, photometric_parameters
from midway_zoo.train.data.scene_pairs import RenderedBatches
from midway_zoo.train.tasks.segmentation.config import JitterConfig, SegmentationDataConfig

# Scenes for training, for validation and for pretraining are disjoint.
_TRAIN, _HELD_OUT, _AUGMENT = 0x7365676D << 32, 0x68656C64 << 32, 0x61756720 << 32
_ORDER, _CROP = 1, 2
_TRIES = 10
_SWITCHES = 4  # whether each of the four distortions happens


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
        photometric = distortion(self.config.photometric, draws.uniform(UNIFORMS + _SWITCHES).T)
        return {
            "image": torch.where(flipped[..., None, None], images.flip(-1), images),
            "labels": torch.where(flipped[..., None], labels.flip(-1), labels),
            "photometric": torch.from_numpy(photometric).to(self.device),
            "index": index,
        }


def held_out_scenes(
    config: SegmentationDataConfig, device: torch.device, *, batch_size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of uint8 images (B, 3, H, W) and labels (B, H, W) that no run trains on, independent of the seed."""
    generator = SceneGenerator(config.scenes, _HELD_OUT, device)
    for first in range(0, config.val_scenes, batch_size):
        yield _first_frames(generator, range(first, min(first + batch_size, config.val_scenes)))


def _first_frames(generator: SceneGenerator, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    batch = generator.render(numbers)
    return (batch.frames[:, 0] * 255).round().to(torch.uint8), batch.labels[:, 0].to(torch.uint8)


class LabelledCrops(Dataset[Sample]):
    """Augmented crops of labelled images; sample ``k`` is a pure function of the seed and k.

    Each pass over the images has an order of its own.

    Args:
        config: crops and augmentation.
        files: the images.
        classes: K.
        seed: of the run.
    """

    def __init__(self, config: SegmentationDataConfig, files: LabelledFiles, classes: int, seed: int) -> None:
        self.config, self.files, self.classes = config, files, classes
        self._seed = seed

    def __getitem__(self, number: int) -> Sample:
        """ "image" uint8 (3, S, S), "labels" uint8 (S, S), "photometric" float32 (11,) and "index"."""
        pairs = self.files.pairs
        order = _order(self._seed, number // len(pairs), len(pairs))
        picture, mask = self.files.read(int(order[number % len(order)]), self.classes)
        rng = np.random.default_rng([self._seed, _CROP, number])
        whole = Image.fromarray(picture.permute(1, 2, 0).numpy())
        image, labels = random_crop(whole, Image.fromarray(mask.numpy()), self.config, rng)
        photometric = distortion(self.config.photometric, rng.random((UNIFORMS + _SWITCHES, 1)))[0]
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "labels": torch.from_numpy(labels),
            "photometric": torch.from_numpy(photometric),
            "index": torch.tensor(number),
        }


def distortion(config: JitterConfig, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Parameters of photometric distortion for :func:`~midway_zoo.train.data.photometric.augment`.

    Args:
        config: strengths, and the probability of each of brightness, contrast, saturation and hue.
        uniform: (UNIFORMS + 4, N) numbers in [0, 1).

    Returns:
        (N, 11).
    """
    kinds = [ViewKind.LOCAL] * uniform.shape[1]
    parameters = photometric_parameters(config.for_views(), kinds, uniform[:UNIFORMS])
    nothing = np.array([1, 1, 1, 0], np.float32)  # factors, and the shift of hue
    off = config.jitter_p <= uniform[UNIFORMS:].T
    parameters[:, :_SWITCHES] = np.where(off, nothing, parameters[:, :_SWITCHES])
    return parameters


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(length)


def random_crop(
    picture: Image.Image, mask: Image.Image, config: SegmentationDataConfig, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Scaled, cropped and flipped: (S, S, 3) and (S, S); pixels outside the image are black and ignored."""
    side = config.crop
    height, width = seen_size(picture.height, picture.width, None, side)
    ratio = rng.uniform(*config.scale)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
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
