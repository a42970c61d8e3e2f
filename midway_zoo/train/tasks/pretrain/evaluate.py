"""Read-outs during pretraining: nearest neighbours on labelled images, and label propagation through a clip."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from midway_zoo.checks import field_range
from midway_zoo.errors import ConfigError
from midway_zoo.inference.folders import frame_files
from midway_zoo.inference.image_files import read_image, read_labels
from midway_zoo.inference.images import resize, to_tensor
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import Backbone, load_backbone
from midway_zoo.readouts.masks import sequence_scores
from midway_zoo.readouts.neighbours import accuracy, knn_votes
from midway_zoo.readouts.propagation import PropagationOptions, propagate_labels

KNN_ERROR, CLIP_ERROR = "knn_error", "clip_error"
_BATCH = 32


@dataclass
class EvalConfig:
    """Evaluations of the teacher when a checkpoint is written, by the first process while the others wait."""

    knn_root: str | None = None
    """Folder with train/CLASS/IMAGE and val/CLASS/IMAGE, for the error of nearest neighbours."""
    clip_root: str | None = None
    """Folder with frames/ and masks/, one label picture (0 is background) per frame: for 1 - J&F of labels
    propagated from the first frame."""
    every: int | None = field_range(None, above=0)
    """Steps between measurements, a multiple of save_every; null: at every checkpoint."""
    neighbours: int = field_range(20, at_least=1)
    images: int = field_range(2000, at_least=1)
    """Largest number of images from either folder, evenly spread."""
    side: int = field_range(480, at_least=1)
    """Shorter side in pixels that frames of the clip are resized to."""


class Evaluation:
    """The evaluations of a pretraining run.

    Args:
        config: what to evaluate.
        save_every: steps between checkpoints of the run.

    Raises:
        ConfigError: if there is no such data, or ``every`` falls between checkpoints.
    """

    def __init__(self, config: EvalConfig, save_every: int) -> None:
        self.config = config
        if config.every is not None and config.every % save_every:
            raise ConfigError(f"eval.every={config.every} must be a multiple of save_every={save_every}.")
        self.train: ImageFolder | None = None
        self.val: ImageFolder | None = None
        if config.knn_root:
            self.train, self.val = _labelled(config)
        self.frames, self.masks = _clip(Path(config.clip_root)) if config.clip_root else ([], [])

    @property
    def best_by(self) -> str | None:
        """Name of the figure that marks the best checkpoint: that of the neighbours if both are measured."""
        return KNN_ERROR if self.train is not None else CLIP_ERROR if self.frames else None

    @torch.no_grad()
    def __call__(self, network: MidwayNetwork, step: int) -> dict[str, float]:
        """Figures of the network's teacher after ``step`` steps, lower is better; empty if no evaluation is due."""
        if self.best_by is None or (self.config.every is not None and step % self.config.every):
            return {}
        encoder = network.target_encoder if network.target_encoder is not None else network.encoder
        backbone = load_backbone(encoder).to(network.device)
        figures = {}
        if self.train is not None and self.val is not None:
            figures[KNN_ERROR] = 1 - self._knn(backbone, self.train, self.val)
        if self.frames:
            figures[CLIP_ERROR] = 1 - self._carried(backbone)
        return figures

    def _knn(self, backbone: Backbone, train: ImageFolder, val: ImageFolder) -> float:
        k = self.config.neighbours
        (bank, labels), (queries, expected) = (_features(backbone, part, self.config.images) for part in (train, val))
        votes = knn_votes(bank, labels, queries, num_classes=len(train.classes), k=[k])
        return accuracy(votes[k], expected, top=(1,))["top1"]

    def _carried(self, backbone: Backbone) -> float:
        truth = [torch.from_numpy(read_labels(path).astype(np.int64)) for path in self.masks]
        options = PropagationOptions(side=self.config.side)
        found = propagate_labels(backbone, (read_image(path) for path in self.frames), truth[0], options=options)
        scores = sequence_scores(found, truth, int(truth[0].max()))
        return float(np.mean([(score["J"] + score["F"]) / 2 for score in scores.values()]))


def _labelled(config: EvalConfig) -> tuple[ImageFolder, ImageFolder]:
    root = Path(config.knn_root or "")
    try:
        train, val = (ImageFolder(root / name, loader=Path) for name in ("train", "val"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"eval.knn_root={root}: train/CLASS/IMAGE and val/CLASS/IMAGE are expected ({error})."
        ) from error
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))[:3]
        raise ConfigError(f"eval.knn_root={root}: train and val have other classes ({', '.join(odd)}).")
    return train, val


def _clip(root: Path) -> tuple[list[Path], list[Path]]:
    folders = [root / "frames", root / "masks"]
    found = [[folder / name for name in frame_files(folder)] if folder.is_dir() else [] for folder in folders]
    if len(found[0]) != len(found[1]) or len(found[0]) < 3:
        raise ConfigError(
            f"eval.clip_root={root}: three or more images in frames/ and as many in masks/ are expected, there are "
            f"{len(found[0])} and {len(found[1])}."
        )
    if not read_labels(found[1][0]).any():
        raise ConfigError(f"eval.clip_root={root}: {found[1][0].name} marks no object.")
    return found[0], found[1]


def _features(backbone: Backbone, folder: ImageFolder, most: int) -> tuple[Tensor, Tensor]:
    """Class tokens (N, D) and labels (N,) of images at the encoder's own size."""
    chosen = np.unique(np.linspace(0, len(folder) - 1, min(most, len(folder))).round().astype(int))
    device = backbone.get_buffer("mean").device
    parts = (_batch(backbone, [folder.samples[i][0] for i in part]).to(device) for part in _parts(chosen))
    features = torch.cat([backbone.tokens(images)[0][0].float() for images in parts])
    return features, torch.tensor([folder.targets[i] for i in chosen], device=device)


def _parts(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Iterator[list[int]]:
    for first in range(0, len(numbers), _BATCH):
        yield numbers[first : first + _BATCH].tolist()


def _batch(backbone: Backbone, paths: list[str]) -> Tensor:
    """(B, 3, H, W) in [0, 1]."""
    return torch.stack([resize(to_tensor(read_image(Path(path))), backbone.img_size) for path in paths])
