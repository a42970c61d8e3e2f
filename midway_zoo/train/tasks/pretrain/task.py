"""Midway pretraining as a task of the generic loop."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from midway_zoo.models.layers import Gate
from midway_zoo.train.checkpoints import Checkpoint, latest_checkpoint
from midway_zoo.train.data.loading import FailureCounter, StepBatches
from midway_zoo.train.optim import clip_each, cosine, parameter_groups
from midway_zoo.train.task import Hyperparameters, Task
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.data import pair_source
from midway_zoo.train.tasks.pretrain.evaluate import Evaluation
from midway_zoo.train.tasks.pretrain.losses import DINOHead
from midway_zoo.train.tasks.pretrain.model import PretrainModel, compiled_views, normalised_views
from midway_zoo.train.tasks.pretrain.monitor import Health, draw_pictures
from midway_zoo.train.tasks.pretrain.weights import RENAMED, export_released, initialise

logger = logging.getLogger(__name__)
_FEW_STEPS = 100
_DYNAMICS_WEIGHT_DECAY = 0.01  # AdamW's default, which the dynamics' group kept in the released runs


class PretrainTask(Task[PretrainConfig]):
    """Cross-frame DINO and latent dynamics on pairs of video frames (paper section 3)."""

    name = "pretrain"
    shown = ("dino", "dynamics", "momentum")
    renamed = RENAMED
    # Behaviour of earlier versions, before these options existed.
    assumed: ClassVar[Mapping[str, Any]] = {
        "optim.dynamics_weight_decay": "scheduled",
        "network.resample": "timm",
        "network.freeze": [],
    }
    model: PretrainModel

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        config.check()
        self.source = pair_source(config)
        pairs = config.epochs * (self.source.pairs_per_epoch or 0)
        self.total_steps = config.schedule_steps or max(1, round(pairs / config.batch_size))
        self.steps_per_epoch = self.total_steps / config.epochs
        self.failures = FailureCounter(config.data.max_failure_share)
        torch.manual_seed(config.seed)
        self.model = PretrainModel(config)
        if config.init_from is not None and latest_checkpoint(Path(config.out)) is None:
            initialise(self.model, config.init_from)
        if self.total_steps < _FEW_STEPS:
            logger.warning(
                "the schedule has %d step(s) only: an epoch is %s pairs here, a step %d. Raise epochs, set "
                "schedule_steps, or data.starts=all if there are few, long videos.",
                *(self.total_steps, self.source.pairs_per_epoch or "no", config.batch_size),
            )
        self.evaluation = Evaluation(config.eval, config.save_every)
        self.best_by = self.evaluation.best_by
        self.health_check = Health(config.head.out, self.warmup_steps)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return min(self.total_steps, round(self.config.optim.warmup_epochs * self.steps_per_epoch))

    def identity(self) -> dict[str, Any]:
        config, facts = self.config, {"network.name": self.config.network.name, "data": self.source.fingerprint}
        shapes: dict[str, Any] = {
            "network": self.model.network.config.to_dict(),
            "head": {key: value for key, value in asdict(config.head).items() if key != "product"},
            "objective.dino_weight": config.objective.dino_weight,
            "optim.betas": config.optim.betas,
            "optim.dynamics_weight_decay": config.optim.dynamics_weight_decay,
            "network.resample": config.network.resample,
            "network.freeze": config.network.freeze,
            "views": asdict(config.views),
        }
        if config.data.source == "videos":
            keys = ("min_seconds", "max_seconds", "repeats", "starts", "frames_fps", "decode_short_side")
            shapes |= {f"data.{key}": getattr(config.data, key) for key in keys}
        return super().identity() | facts | json.loads(json.dumps(shapes))  # JSON has no tuples

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        steps = StepBatches(first_step, self.config.batch_size, rank, world, last_step=last_step)
        return self.source.batches(steps, self.model.network.device)

    def to_inputs(self, batch: Any, step: int) -> dict[str, Tensor]:
        # Compiled with the step, except on a CPU, where the plain code skips operations that a view does not need.
        compiled = self.config.compile and batch["globals"].device.type != "cpu"
        views = compiled_views()(_tensors(batch)) if compiled else normalised_views(batch)
        if self.config.objective.teacher_temperature_start is not None:
            views["teacher_temperature"] = torch.tensor(
                self.teacher_temperature(step), device=self.model.network.device
            )
        return views

    def teacher_temperature(self, step: int) -> float:
        """The teacher's temperature of the invariance objective."""
        objective = self.config.objective
        start, end = objective.teacher_temperature_start, objective.teacher_temperature
        rise = objective.teacher_temperature_epochs * self.steps_per_epoch
        return end if start is None or step >= rise else start + (end - start) * step / rise

    def hyperparameters(self, step: int) -> Hyperparameters:
        optim, total, batch = self.config.optim, self.total_steps, self.config.batch_size
        base = optim.base_lr * batch / 256
        horizon = total * (batch if optim.ema_horizon == "released" else 1)
        return Hyperparameters(
            lr=cosine(step, total, base, optim.min_lr, warmup=self.warmup_steps),
            weight_decay=cosine(step, total, optim.weight_decay, optim.weight_decay_end),
            momentum=cosine(step, horizon, optim.ema_momentum, optim.ema_momentum_end),
        )

    def optimizer(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.model.student)
        if self.model.network.dynamics is not None:
            released = self.config.optim.dynamics_weight_decay == "released"
            constant = _DYNAMICS_WEIGHT_DECAY if released else None
            groups += parameter_groups([self.model.network.dynamics], weight_decay=constant)
        beta1, beta2 = self.config.optim.betas
        # Accelerate moves the parameters afterwards; fused kernels exist for both CPU and CUDA.
        return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), fused=True)

    def shards(self) -> Iterable[nn.Module]:
        network = self.model.network
        encoders = [encoder for encoder in (network.encoder, network.target_encoder) if encoder is not None]
        by_parts = {encoder.blocks[-1] for encoder in encoders}  # encode_cls does not call their forward
        units = (module for module in self.model.modules() if isinstance(module, Block | Gate | DINOHead))
        return [unit for unit in units if unit not in by_parts]

    def observe(self, batch: Any) -> None:
        self.failures.update(batch.pop("failures"), pairs=len(batch["index"]))

    def before_update(self, step: int) -> None:
        if self.config.optim.clip is not None:
            clipped = (parameter for module in self.model.student for parameter in module.parameters())
            clip_each(clipped, self.config.optim.clip)
        head = self.model.head
        if head is not None and step < self.config.optim.freeze_last_layer_epochs * self.steps_per_epoch:
            for parameter in head.last_layer.parameters():
                parameter.grad = None  # without a gradient, neither moments nor weight decay change it

    def after_update(self, step: int) -> None:
        momentum = self.hyperparameters(step).momentum
        assert momentum is not None
        self.model.update_averages(momentum)
        if self.model.dino is not None:
            self.model.dino.update_center()

    def health(self, values: Mapping[str, float], step: int) -> str | None:
        return self.health_check(values, step)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        return self.evaluation(self.model.network, step)

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        return draw_pictures(self.model.network, normalised_views(batch))

    def describe(self) -> dict[str, Any]:
        return {"network": self.model.network.config.to_dict(), "steps_per_epoch": self.steps_per_epoch}

    @classmethod
    def export_as(cls, layout: str, checkpoint: Checkpoint, out: Path, *, overwrite: bool) -> Path:
        if layout != "released":
            return super().export_as(layout, checkpoint, out, overwrite=overwrite)
        return export_released(checkpoint, out, overwrite=overwrite)

    def state_dict(self) -> dict[str, Any]:
        return {"failures": self.failures.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.failures.load_state_dict(state["failures"])


def _tensors(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What :func:`normalised_views` reads: anything else that changes would cause recompilation."""
    return {key: batch[key] for key in ("dynamics", "globals", "locals", "photometric")}
