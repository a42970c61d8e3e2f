"""Segmentation as a task of the generic loop."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import TIMM, BackboneLike, load_backbone
from midway_zoo.readouts.labelled import CLASSES, Classes, LabelledFiles, find_labelled
from midway_zoo.readouts.segmentation import SegmenterConfig
from midway_zoo.readouts.segmenter_files import BACKBONE, HEAD
from midway_zoo.scenes import class_names
from midway_zoo.train.checkpoints import Checkpoint
from midway_zoo.train.data.loading import StepBatches, make_loader
from midway_zoo.train.data.photometric import augment, denormalise
from midway_zoo.train.data.scene_pairs import scene_batches, scenes_fingerprint
from midway_zoo.train.optim import layer_groups, parameter_groups, poly
from midway_zoo.train.task import Hyperparameters, Task
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig, SegmentationDataConfig
from midway_zoo.train.tasks.segmentation.data import LabelledCrops, LabelledScenes
from midway_zoo.train.tasks.segmentation.evaluate import validate, validation_files
from midway_zoo.train.tasks.segmentation.model import SegmentationModel, backbone_tensors, head_tensors, together
from midway_zoo.train.weights import network_from
from midway_zoo.visualize import labels_overlay

STANDARDISED, STANDARDISED_AT_ONCE = 64, 16
"""Number of training images for the standardisation of features."""


class SegmentationTask(Task[SegmentationConfig]):
    """A linear or UperNet head on a frozen or fine-tuned backbone, as the paper's read-outs (section 4.1).

    "validation" of a checkpoint's state.json holds mIoU, mAcc and aAcc.
    """

    name = "segmentation"
    unit = "images"
    shown = ("accuracy",)
    model: SegmentationModel

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__(config)
        config.check()
        data = config.data
        self.files, self.val_files = _files(data), None
        classes, known = _classes(data, self.files)
        self.crops: LabelledCrops | None = None
        if self.files is not None:
            self.crops = LabelledCrops(data, self.files, classes, config.seed)
            self.val_files = validation_files(data)
        epoch = len(self.files.pairs) / config.batch_size if self.files else 0
        self.total_steps = config.schedule_steps or max(1, round(config.epochs * epoch))
        self.steps_per_epoch = epoch or self.total_steps / config.epochs
        torch.manual_seed(config.seed)
        self.model = together(
            SegmentationModel(
                _backbone(config), _segmenter_config(config, classes, known), auxiliary=config.head.auxiliary
            )
        )
        if config.network.finetune:
            self.model.unfreeze(config.network.drop_path)

    def identity(self) -> dict[str, Any]:
        data = self.config.data
        if self.files is None:
            facts: Any = f"scenes {scenes_fingerprint(data.scenes)}"
        else:
            facts = f"{len(self.files.pairs)} files from {self.files.pairs[0][0].stem}"
        return super().identity() | {"init_from": self.config.init_from, "data": facts}

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        config = self.config
        steps = StepBatches(first_step, config.batch_size, rank, world, last_step=last_step)
        if first_step == 0 and config.features.standardise:
            self._standardise()
        if self.crops is not None:
            return make_loader(self.crops, steps, default_collate, num_workers=config.num_workers)
        return scene_batches(self._scenes(), steps, num_workers=config.num_workers)

    def _scenes(self) -> LabelledScenes:
        return LabelledScenes(self.config.data, self.config.seed, self.model.device)

    def _standardise(self) -> None:
        """Standardise features with the first training images, which are the same in every process."""
        crops, scenes, device = self.crops, self._scenes(), self.model.device

        def images(first: int) -> Tensor:
            numbers = range(first, first + STANDARDISED_AT_ONCE)
            batch = default_collate([crops[n] for n in numbers]) if crops is not None else scenes.__getitems__(numbers)
            return self._seen({key: batch[key].to(device) for key in ("image", "photometric")})

        self.model.standardise(images(first) for first in range(0, STANDARDISED, STANDARDISED_AT_ONCE))

    def _seen(self, batch: Any) -> Tensor:
        """Distort images and normalise them for the backbone, since not every ViT of timm uses ImageNet's
        statistics."""
        return self.model.normalise(denormalise(augment(batch["image"], batch["photometric"])))

    def to_inputs(self, batch: Any, step: int) -> dict[str, Tensor]:
        return {"images": self._seen(batch), "labels": batch["labels"].long()}

    def hyperparameters(self, step: int) -> Hyperparameters:
        optim = self.config.optim
        warmup = min(optim.warmup_steps, self.total_steps)
        lr = poly(step, self.total_steps, optim.lr, power=optim.power, warmup=warmup)
        return Hyperparameters(lr=lr, weight_decay=optim.weight_decay)

    def optimizer(self) -> torch.optim.Optimizer:
        optim, model = self.config.optim, self.model
        heads = [model.head, *([model.auxiliary] if model.auxiliary is not None else [])]
        groups = parameter_groups(heads)
        if self.config.network.finetune:
            groups += layer_groups(model.encoder, optim.layer_decay)
        return torch.optim.AdamW(groups, lr=0.0, betas=(optim.betas[0], optim.betas[1]))

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        metrics = validate(self.model, self.config, self.val_files)
        return {} if metrics is None else metrics.compute()

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        images, palette = batch["image"][:4], self.model.config.palette
        found = self.model.logits(self.model.normalise(images.float() / 255)).argmax(1)
        rows = [
            torch.cat([labels_overlay(image, one, palette=palette) for image, one in zip(images, some, strict=True)], 2)
            for some in (found, batch["labels"][:4])
        ]
        return {"segmentation": torch.cat(rows, dim=1)}

    def describe(self) -> dict[str, Any]:
        network = self.model.network
        return {
            "network": None if network is None else network.config.to_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "segmentation": {
                "segmenter": self.model.config.to_dict(),
                "backbone": self.model.backbone_name if network is None else None,
                "dataset": self.config.data.source,
            },
        }

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        state, described = checkpoint.model(), checkpoint.state()["segmentation"]
        files = {HEAD: (head_tensors(state), described)}
        if described.get("backbone"):
            files[BACKBONE] = backbone_tensors(state), {"timm": described["backbone"]}
        return files


def _files(data: SegmentationDataConfig) -> LabelledFiles | None:
    if data.source == "scenes":
        return None
    return find_labelled(data.source, str(data.root), "train")


def _classes(data: SegmentationDataConfig, files: LabelledFiles | None) -> tuple[int, Classes]:
    """Number of classes, and their names if known; background is one of those of scenes."""
    if files is None:
        names = class_names(data.scenes.num_classes, procedural=data.scenes.procedural)
        return data.scenes.num_classes + 1, Classes(tuple(names))
    known = files.classes
    if data.classes is None and not known.names:
        raise ConfigError(f"pass data.classes=NUMBER, or name the classes in {data.root}/{CLASSES}, one per line.")
    if data.classes is not None and known.names and data.classes != len(known.names):
        raise ConfigError(f"data.classes={data.classes}, but {data.source} at {data.root} has {len(known.names)}.")
    return data.classes or len(known.names), known


def _segmenter_config(config: SegmentationConfig, classes: int, known: Classes) -> SegmenterConfig:
    features, head = config.features, config.head
    return SegmenterConfig(
        classes=classes,
        head=head.kind,
        source=features.source,
        blocks=None if features.blocks is None else tuple(features.blocks),
        levels=None if features.levels is None else tuple(features.levels),
        standardise=features.standardise,
        width=head.width,
        dropout=head.dropout,
        crop=config.data.crop if config.data.source != "scenes" else config.data.scenes.height,
        names=known.names or None,
        palette=known.palette or None,
    )


def _backbone(config: SegmentationConfig) -> BackboneLike:
    source, name = config.init_from, config.network.name
    timm_name = source or name
    if timm_name.startswith(TIMM):
        if config.network.overrides:
            raise ConfigError("network.overrides are fields of MidwayConfig, which a ViT of timm does not have.")
        return load_backbone(timm_name, pretrained=source is not None)
    if source is not None:
        return network_from(source, paired=False)
    return MidwayNetwork(override(architecture_config(name), config.network.overrides))
