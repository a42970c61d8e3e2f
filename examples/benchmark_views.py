"""Side by side in one run on one core: the 22 views of a pair by this package and by a plain PIL pipeline.

    python examples/benchmark_views.py [VIDEO] [--rounds 40]

Like is compared with like. "Cut" is drawing, cutting and resizing, all that a CPU core pays when the photometric
operations run on an accelerator; "cut and photometry" ends with normalised tensors, both on the core. The PIL
pipeline is the usual one of DINO-style training. All see the same frames, in turn; without VIDEO they are generated
at 960 x 540. Absolute times depend on the machine; they are the thread's own, so that other work on it counts for
little.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T  # noqa: N812

from midway_zoo.inference.video import read_video
from midway_zoo.train.data.photometric import augment
from midway_zoo.train.data.views import ViewSampler, ViewsConfig, random_boxes

Pair = tuple[np.ndarray, np.ndarray]
Corners = tuple[int, int, int, int]


class PilViews:
    """The same recipe written with PIL and torchvision's transforms on PIL images."""

    def __init__(self, config: ViewsConfig) -> None:
        self.config = config
        self.jitter = T.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
        self.tensor = T.Compose([T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    def cut(self, source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> list[tuple[Image.Image, int]]:
        """Views and their kinds."""
        config, frames = self.config, (Image.fromarray(source), Image.fromarray(target))
        box = self._box(frames[0], config.dynamics_area, rng)
        views = [(self._cut(frame, box, 224, False), kind) for kind, frame in enumerate(frames)]
        box = self._box(frames[0], config.initial_area, rng)
        initial = [frame.crop(box) for frame in frames]
        for kind in range(2):
            box, flip = self._box(initial[0], config.global_area, rng), rng.random() < 0.5
            views += [(self._cut(crop, box, 224, flip), kind) for crop in initial]
        for crop, _ in itertools.product(initial, range(config.local_crops)):
            box, flip = self._box(crop, config.local_area, rng), rng.random() < 0.5
            views.append((self._cut(crop, box, 96, flip), 2))
        return views

    def __call__(self, source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> list[Tensor]:
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
        if rng.random() < config.grey_p:
            image = image.convert("L").convert("RGB")
        if rng.random() < config.blur_p[kind]:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*config.blur_radius)))
        if rng.random() < config.solarise_p[kind]:
            image = ImageOps.solarize(image)
        return self.tensor(image)


def generated(number: int) -> list[Pair]:
    """Pairs of smooth moving patterns with texture."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (number, 3, 36, 64)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (560, 980), mode="bicubic").clamp(0, 255)
    frames = (0.8 * smooth + 0.2 * 255 * torch.rand(smooth.shape)).byte().permute(0, 2, 3, 1).numpy()
    return [(frame[:540, :960].copy(), frame[8:548, 12:972].copy()) for frame in frames]


def from_video(path: str, number: int) -> list[Pair]:
    """Pairs half a second apart."""
    frames = itertools.islice(read_video(path, fps=2), number + 1)
    images = [frame.image.permute(1, 2, 0).contiguous().numpy() for frame in frames]
    return list(itertools.pairwise(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = from_video(options.video, 8) if options.video else generated(8)
    config = ViewsConfig()
    sampler, reference, rng = ViewSampler(config), PilViews(config), np.random.default_rng(0)

    def cut(source: np.ndarray, target: np.ndarray) -> dict[str, Tensor]:
        return sampler(torch.from_numpy(source).permute(2, 0, 1), torch.from_numpy(target).permute(2, 0, 1), rng)

    def everything(source: np.ndarray, target: np.ndarray) -> list[Tensor]:
        views = cut(source, target)
        groups = [views[name] for name in ("dynamics", "globals", "locals")]
        parameters = views["photometric"].split([len(group) for group in groups])
        return [augment(group, theirs) for group, theirs in zip(groups, parameters, strict=True)]

    runs: dict[str, tuple[Callable[[np.ndarray, np.ndarray], object], Callable[[np.ndarray, np.ndarray], object]]] = {
        "cut": (cut, lambda source, target: reference.cut(source, target, rng)),
        "cut and photometry": (everything, lambda source, target: reference(source, target, rng)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for index in range(-3, options.rounds):  # the first three warm up
        for name, both in runs.items():
            ours, theirs = (seconds(run, pairs[index % len(pairs)]) for run in both)
            if index >= 0:
                times[name].append((ours, theirs))

    height, width = pairs[0][0].shape[:2]
    print(f"torch {torch.__version__}, one core, {width} x {height}, {options.rounds} rounds, 22 views of a pair")
    print(f"{'':<20}{'ms/pair':>9}{'PIL':>9}{'ratio':>8}")
    for name, measured in times.items():
        ours, theirs = (1e3 * statistics.median(column) for column in zip(*measured, strict=True))
        ratio = statistics.median(pil / mine for mine, pil in measured)
        print(f"{name:<20}{ours:>9.2f}{theirs:>9.2f}{ratio:>8.1f}")


def seconds(run: Callable[[np.ndarray, np.ndarray], object], pair: Pair) -> float:
    """Time of this thread."""
    start = time.thread_time()
    run(*pair)
    return time.thread_time() - start


if __name__ == "__main__":
    main()
