"""Linear segmentation as a task of the generic loop."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from midway_zoo.config import architecture_config, override
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.scenes import class_names
from midway_zoo.train.checkpoints import Checkpoint
from midway_zoo.train.data.loading import StepBatches, make_loader
from midway_zoo.train.data.photometric import augment
from midway_zoo.train.data.scene_pairs import scene_batches, scenes_fingerprint
from midway_zoo.train.optim import parameter_groups, poly
from midway_zoo.train.task import Hyperparameters, Task
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig
from midway_zoo.train.tasks.segmentation.data import LabelledFiles, LabelledScenes
from midway_zoo.train.tasks.segmentation.evaluate import validate
from midway_zoo.train.tasks.segmentation.model import HEAD, SegmentationModel
from midway_zoo.train.weights import network_from

STANDARDISED, STANDARDISED_AT_ONCE = 64, 16
"""Training images by which features are standardised."""


class SegmentationTask(Task[SegmentationConfig]):
    """A 1x1 convolution on frozen features, as the paper's linear read-out (section 4.1).

    "validation" of a checkpoint's state.json holds mIoU, mAcc and aAcc.
    """

    name = "segmentation"
    unit = "images"
    shown = ("accuracy",)
    model: SegmentationModel

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__(config)
        config.check()
        self.files = None if config.data.source == "scenes" else LabelledFiles(config.data, config.seed)
        epoch = len(self.files.files) / config.batch_size if self.files else 0
        self.total_steps = config.schedule_steps or max(1, round(config.epochs * epoch))
        self.steps_per_epoch = epoch or self.total_steps / config.epochs
        torch.manual_seed(config.seed)
        self.model = SegmentationModel(_network(config), config.features, config.num_classes)

    def identity(self) -> dict[str, Any]:
        data = self.config.data
        if self.files is None:
            facts: Any = f"scenes {scenes_fingerprint(data.scenes)}"
        else:
            facts = f"{len(self.files.files)} files from {self.files.files[0][0].stem}"
        return super().identity() | {"init_from": self.config.init_from, "data": facts}

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        config = self.config
        steps = StepBatches(first_step, config.batch_size, rank, world, last_step=last_step)
        if first_step == 0:
            self._standardise()
        if self.files is not None:
            return make_loader(self.files, steps, default_collate, num_workers=config.num_workers)
        return scene_batches(self._scenes(), steps, num_workers=config.num_workers)

    def _scenes(self) -> LabelledScenes:
        return LabelledScenes(self.config.data, self.config.seed, self.model.mean.device)

    def _standardise(self) -> None:
        """By the first training images, the same ones in every process whatever its share of a batch."""
        device = self.model.mean.device
        files, scenes = self.files, self._scenes()

        def images(first: int) -> Tensor:
            numbers = range(first, first + STANDARDISED_AT_ONCE)
            batch = default_collate([files[n] for n in numbers]) if files is not None else scenes.__getitems__(numbers)
            return augment(batch["image"].to(device), batch["photometric"].to(device))

        self.model.standardise(images(first) for first in range(0, STANDARDISED, STANDARDISED_AT_ONCE))

    def to_inputs(self, batch: Any, step: int) -> dict[str, Tensor]:
        return {"images": augment(batch["image"], batch["photometric"]), "labels": batch["labels"].long()}

    def hyperparameters(self, step: int) -> Hyperparameters:
        optim = self.config.optim
        warmup = min(optim.warmup_steps, self.total_steps)
        lr = poly(step, self.total_steps, optim.lr, power=optim.power, warmup=warmup)
        return Hyperparameters(lr=lr, weight_decay=optim.weight_decay)

    def optimizer(self) -> torch.optim.Optimizer:
        beta1, beta2 = self.config.optim.betas
        groups = parameter_groups([self.model.head])
        return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2))

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        metrics = validate(self.model, self.config)
        return {} if metrics is None else metrics.compute()

    def describe(self) -> dict[str, Any]:
        head = {"features": asdict(self.config.features), "classes": self.config.num_classes, "names": self._names()}
        return {
            "network": self.model.network.config.to_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "segmentation": head,
        }

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        tensors = {key: value for key, value in checkpoint.model().items() if not key.startswith("network.")}
        return {HEAD: (tensors, checkpoint.state()["segmentation"])}

    def _names(self) -> list[str] | None:
        scenes = self.config.data.scenes
        return None if self.files else class_names(scenes.num_classes, procedural=scenes.procedural)


def _network(config: SegmentationConfig) -> MidwayNetwork:
    if config.init_from is not None:
        return network_from(config.init_from, paired=False)
    return MidwayNetwork(override(architecture_config(config.network.name), config.network.overrides))
