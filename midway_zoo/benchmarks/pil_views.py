"""The views of a pair as DINO-style training usually makes them, on PIL images: the peer of this package's."""

import itertools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T  # noqa: N812

from midway_zoo.train.data.views import ViewsConfig, random_boxes

Frame = npt.NDArray[np.uint8]
Corners = tuple[int, int, int, int]


class PilViews:
    """The same recipe written with PIL and torchvision's transforms on PIL images."""

    def __init__(self, config: ViewsConfig) -> None:
        self.config = config
        self.jitter = T.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
        self.tensor = T.Compose([T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    def cut(self, source: Frame, target: Frame, rng: np.random.Generator) -> list[tuple[Image.Image, int]]:
        """Views and their kinds, from frames (H, W, 3)."""
        config, frames = self.config, (Image.fromarray(source), Image.fromarray(target))
        box = self._box(frames[0], config.dynamics_area, rng)
        views = [(self._cut(frame, box, config.dynamics_size, False), kind) for kind, frame in enumerate(frames)]
        box = self._box(frames[0], config.initial_area, rng)
        initial = [frame.crop(box) for frame in frames]
        for kind in range(2):
            box, flip = self._box(initial[0], config.global_area, rng), bool(rng.random() < 0.5)
            views += [(self._cut(crop, box, config.global_size, flip), kind) for crop in initial]
        for crop, _ in itertools.product(initial, range(config.local_crops)):
            box, flip = self._box(crop, config.local_area, rng), bool(rng.random() < 0.5)
            views.append((self._cut(crop, box, config.local_size, flip), 2))
        return views

    def __call__(self, source: Frame, target: Frame, rng: np.random.Generator) -> list[Tensor]:
        """Normalised views."""
        return [self._photometric(view, kind, rng) for view, kind in self.cut(source, target, rng)]

    def _box(self, image: Image.Image, area: tuple[float, float], rng: np.random.Generator) -> Corners:
        sides = np.array([image.height]), np.array([image.width])
        tries = (rng.random((1, 4)) for _ in range(10))
        top, left, height, width = random_boxes(*sides, area, self.config.aspect, tries)[0].tolist()
        return left, top, left + width, top + height

    def _cut(self, image: Image.Image, box: Corners, size: int, flip: bool) -> Image.Image:
        view = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        return ImageOps.mirror(view) if flip else view

    def _photometric(self, image: Image.Image, kind: int, rng: np.random.Generator) -> Tensor:
        config = self.config
        if rng.random() < config.jitter_p:
            image = self.jitter(image)
        if rng.random() < config.grayscale_p:
            image = image.convert("L").convert("RGB")
        if rng.random() < config.blur_p[kind]:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*config.blur_radius)))
        if rng.random() < config.solarize_p[kind]:
            image = ImageOps.solarize(image)
        tensor: Tensor = self.tensor(image)
        return tensor
