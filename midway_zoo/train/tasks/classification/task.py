"""Classification as a task of the generic loop."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.backbone import TIMM, BackboneLike, load_backbone
from midway_zoo.readouts.classifier import BACKBONE, HEAD, Classifier, ClassifierConfig, describe_classifier
from midway_zoo.readouts.feature_cache import EvalImages
from midway_zoo.readouts.image_folder import split_images
from midway_zoo.readouts.neighbours import accuracy
from midway_zoo.train.checkpoints import Checkpoint
from midway_zoo.train.data.loading import StepBatches, make_loader
from midway_zoo.train.data.photometric import augment, denormalise
from midway_zoo.train.optim import cosine, layer_groups, parameter_groups
from midway_zoo.train.task import Hyperparameters, Task
from midway_zoo.train.tasks.classification.config import ClassificationConfig
from midway_zoo.train.tasks.classification.data import LabelledCrops
from midway_zoo.train.weights import network_from


class ClassificationModel(Classifier):
    """A :class:`Classifier` with its loss.

    Args:
        backbone: see :class:`Classifier`.
        config: likewise.
        finetune: train the encoder too; a frozen one stays in evaluation mode.
        drop_path: stochastic depth of its last block, decreasing towards the first.
        smoothing: label smoothing.
    """

    def __init__(
        self, backbone: BackboneLike, config: ClassifierConfig, *, finetune: bool, drop_path: float, smoothing: float
    ) -> None:
        super().__init__(backbone, config)
        self.finetune, self.smoothing = finetune, smoothing
        for part in (self.network, self.vit):
            if part is not None:
                part.eval().requires_grad_(False)
        self.encoder.requires_grad_(finetune)
        if finetune:
            for index, block in enumerate(self.encoder.blocks):
                for name in ("drop_path1", "drop_path2"):
                    rate = drop_path * index / max(1, self.depth - 1)
                    setattr(block, name, _drop_path(rate))

    def train(self, mode: bool = True) -> "ClassificationModel":
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in (self.network, self.vit):
            if part is not None:
                part.eval()
        if self.finetune:
            self.encoder.train(mode)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "loss" (cross-entropy) and "top1" of "images" (B, 3, H, W), normalised, and "labels" (B,)."""
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            features = self.features(batch["images"])
        logits = self.head(features).float()
        loss = F.cross_entropy(logits, batch["labels"], label_smoothing=self.smoothing)
        return {"loss": loss, "top1": (logits.detach().argmax(1) == batch["labels"]).float().mean()}


def _drop_path(rate: float) -> torch.nn.Module:
    return DropPath(rate) if rate else torch.nn.Identity()


class ClassificationTask(Task[ClassificationConfig]):
    """A linear probe or fine-tuning. "validation" of a checkpoint's state.json holds "top1", "top5" and "error", shares
    in [0, 1]."""

    name = "classification"
    unit = "images"
    shown = ("top1",)
    best_by = "error"
    model: ClassificationModel

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__(config)
        config.check()
        data = config.data
        assert data.root is not None  # checked
        self.images, self.held_out = split_images(data.root, val_share=data.val_share, seed=data.split_seed)
        self.steps_per_epoch = len(self.images) / config.batch_size
        self.total_steps = config.schedule_steps or max(1, round(config.epochs * self.steps_per_epoch))
        torch.manual_seed(config.seed)
        backbone = load_backbone(_backbone(config))
        described = ClassifierConfig(
            names=self.images.classes,
            crop=min(backbone.img_size) if data.crop is None else data.crop,
            blocks=config.features.blocks,
            average=config.features.average,
        )
        self.model = ClassificationModel(
            backbone,
            described,
            finetune=config.network.finetune,
            drop_path=config.network.drop_path,
            smoothing=config.optim.smoothing,
        )
        self.crops = LabelledCrops(data, self.images, described.crop, config.seed)

    def identity(self) -> dict[str, Any]:
        facts = f"{len(self.images)} images of {len(self.images.classes)} classes from {self.images.files[0].name}"
        return super().identity() | {"init_from": self.config.init_from, "data": facts}

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        steps = StepBatches(first_step, self.config.batch_size, rank, world, last_step=last_step)
        return make_loader(self.crops, steps, default_collate, num_workers=self.config.num_workers)

    def to_inputs(self, batch: Any, step: int) -> dict[str, Tensor]:
        images = denormalise(augment(batch["image"], batch["photometric"]))
        return {"images": self.model.normalise(images), "labels": batch["label"]}

    def hyperparameters(self, step: int) -> Hyperparameters:
        optim = self.config.optim
        scale = self.config.batch_size / 256
        warmup = min(round(optim.warmup_epochs * self.steps_per_epoch), self.total_steps)
        lr = cosine(step, self.total_steps, optim.base_lr * scale, optim.min_lr, warmup=warmup)
        return Hyperparameters(lr=lr, weight_decay=optim.weight_decay)

    def optimizer(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        groups = parameter_groups([self.model.head])
        if self.config.network.finetune:
            groups += layer_groups(self.model.encoder, optim.layer_decay)
        if optim.name == "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=optim.momentum)
        return torch.optim.AdamW(groups, lr=0.0, betas=(optim.betas[0], optim.betas[1]))

    @torch.no_grad()
    def validate(self, step: int, folder: Path) -> dict[str, float]:
        model, held = self.model, self.held_out
        device = model.head.weight.device
        loader = DataLoader(
            EvalImages(held.files, model.config.transform()),
            batch_size=min(self.config.batch_size, 64),
            num_workers=self.config.num_workers,
        )
        scores = [
            model.logits(model.normalise(images.to(device)))
            for images in tqdm(loader, desc="validation", leave=False, disable=None)
        ]
        top = (1, 5) if len(held.classes) > 5 else (1,)
        found = accuracy(torch.cat(scores).float(), held.tensor(), top)
        return {**found, "error": 1 - found["top1"]}

    def describe(self) -> dict[str, Any]:
        network = self.model.network
        return {
            "network": None if network is None else network.config.to_dict(),
            "steps_per_epoch": self.steps_per_epoch,
            "classification": describe_classifier(self.model),
        }

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        state, described = checkpoint.model(), checkpoint.state()["classification"]
        files = {HEAD: ({key: value for key, value in state.items() if key.startswith("head.")}, described)}
        if described["backbone"]:
            tensors = {key.removeprefix("vit."): value for key, value in state.items() if key.startswith("vit.")}
            files[BACKBONE] = tensors, {"timm": described["backbone"]}
        return files


def _backbone(config: ClassificationConfig) -> BackboneLike:
    source, name = config.init_from, config.network.name
    if (source or name).startswith(TIMM):
        if config.network.overrides:
            raise ConfigError("network.overrides are fields of MidwayConfig, which a ViT of timm does not have.")
        return load_backbone(source or name, pretrained=source is not None)
    if source is not None:
        return network_from(source, paired=False)
    return MidwayNetwork(override(architecture_config(name), config.network.overrides))
