"""Random crops of labelled images."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from midway_zoo.inference.image_files import read_image
from midway_zoo.readouts.image_folder import LabelledImages
from midway_zoo.train.data.loading import Sample
from midway_zoo.train.data.photometric import ViewKind, draw_parameters
from midway_zoo.train.data.views import random_boxes
from midway_zoo.train.tasks.classification.config import ClassificationDataConfig

_ORDER, _CROP = 1, 2
_TRIES = 10


class LabelledCrops(Dataset[Sample]):
    """Augmented crops; sample ``k`` is a pure function of the seed and k. Each pass has an order of its own."""

    def __init__(self, config: ClassificationDataConfig, images: LabelledImages, crop: int, seed: int) -> None:
        self.config, self.images, self.crop, self._seed = config, images, crop, seed
        self._order: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, number: int) -> Sample:
        """ "image" uint8 (3, S, S), "label" int64, "photometric" float32 (11,) and "index"."""
        epoch, place = divmod(number, len(self.images))
        chosen = int(self._order_of(epoch)[place])
        config, rng = self.config, np.random.default_rng([self._seed, _CROP, number])
        picture = Image.fromarray(read_image(self.images.files[chosen]).permute(1, 2, 0).numpy())
        tries = (rng.random((1, 4)) for _ in range(_TRIES))
        height, width = np.array([float(picture.height)]), np.array([float(picture.width)])
        top, left, tall, wide = random_boxes(height, width, config.area, config.aspect, tries)[0].tolist()
        box = (left, top, left + wide, top + tall)
        cut = picture.resize((self.crop, self.crop), Image.Resampling.BICUBIC, box)
        pixels = np.asarray(cut)[:, :: -1 if rng.random() < config.flip_p else 1]
        photometric = draw_parameters(config.photometric(), [ViewKind.LOCAL], rng)[0]
        return {
            "image": torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous(),
            "label": torch.tensor(self.images.labels[chosen]),
            "photometric": torch.from_numpy(photometric),
            "index": torch.tensor(number),
        }

    def _order_of(self, epoch: int) -> torch.Tensor:
        if self._order is None or self._order[0] != epoch:
            drawn = np.random.default_rng([self._seed, _ORDER, epoch]).permutation(len(self.images))
            self._order = epoch, torch.from_numpy(drawn)
        return self._order[1]
