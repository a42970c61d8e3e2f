"""Flow fine-tuning as a task of the generic loop."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate.utils import reduce
from torch import Tensor

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.batches import normaliser
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.alignment import initialise_dynamics
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.data.flow_pairs import FlowPairs, flow_pairs
from midway_zoo.train.data.loading import FailureCounter, Sample, StepBatches, collate, make_loader
from midway_zoo.train.optim import cosine, parameter_groups
from midway_zoo.train.task import Hyperparameters, Task
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.head_start import PAIRS, whiten
from midway_zoo.train.tasks.flow.model import FlowModel, initialise, valid_pixels
from midway_zoo.train.tasks.flow.validation import validation_of
from midway_zoo.visualize import flow_to_image

logger = logging.getLogger(__name__)
_LATER = ("resizing", "still_p", "letterbox_p", "warp_p", "max_warp")  # settings of augmentation that came later


class FlowTask(Task[FlowConfig]):
    """Optical flow from the dynamics of a pretrained network (paper section 4.2, appendix B.4)."""

    name = "flow"
    shown = ("epe",)
    best_by = "epe"
    assumed: ClassVar[Mapping[str, Any]] = {
        "data.augment.resizing": "independent",
        "data.augment.still_p": 0.0,
        "data.augment.letterbox_p": 0.0,
        "data.augment.warp_p": 0.0,
        "data.augment.max_warp": 8.0,
        "network.freeze": [],
        "dynamics_weight": 0.0,
    }
    model: FlowModel

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config)
        config.check()
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        self.dataset = flow_pairs(config.data, config.seed)
        self.validation = validation_of(config)
        pairs = config.epochs * config.data.epoch_pairs
        self.total_steps = config.schedule_steps or max(1, round(pairs / config.batch_size))
        self.steps_per_epoch = self.total_steps / config.epochs
        self.failures = FailureCounter(config.data.max_failure_share)
        torch.manual_seed(config.seed)
        network = MidwayNetwork(config.midway_config())
        network.require_dynamics()
        initialise_dynamics(network, config.network.dynamics_init)
        self.model = FlowModel(
            network,
            frozen=config.frozen,
            freeze_parts=config.network.freeze,
            dynamics_weight=config.dynamics_weight,
        )
        if latest_checkpoint(Path(config.out)) is None:
            self._begin(network)

    def _begin(self, network: MidwayNetwork) -> None:
        """Load the weights of ``init_from``, and initialise a head that is not among them."""
        config, has_head = self.config, False
        if config.init_from is not None:
            has_head = initialise(network, config.init_from, config.initial)
            if config.network.dynamics_init == "aligned" and config.initial == "full":
                logger.info("network.dynamics_init=aligned has no effect: dynamics are those of init_from")
        if config.network.head_init == "whitened" and has_head:
            logger.info("network.head_init=whitened has no effect: the flow head is that of init_from")
        elif config.network.head_init == "whitened":
            # The same in every process, since all use the first pairs.
            steps = ceil(PAIRS / config.batch_size)
            whiten(network, map(self._frames, self.batches(0, steps, rank=0, world=1)), pairs=PAIRS)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return min(self.total_steps, round(self.config.optim.warmup_epochs * self.steps_per_epoch))

    def identity(self) -> dict[str, Any]:
        data = self.config.data
        augment = asdict(data.augment)
        facts: dict[str, Any] = {
            "network.name": self.config.network.name,
            "frozen": self.config.frozen,
            "network.freeze": self.config.network.freeze,
            "dynamics_weight": self.config.dynamics_weight,
            "data.source": data.source,
            "data.crop": list(data.crop),
            # One key each, since earlier runs lack some of them.
            **{f"data.augment.{key}": augment.pop(key) for key in _LATER},
            "data.augment": augment,
        }
        if isinstance(self.dataset, FlowPairs):
            facts["data.parts"] = [f"{repeats} x {files.title}, {len(files)} pairs" for files, repeats in self._parts()]
        else:
            facts["data.scenes"] = {key: _plain(value) for key, value in asdict(data.scenes).items()}
        return super().identity() | facts

    def _parts(self) -> Iterable[tuple[Any, int]]:
        return cast(FlowPairs, self.dataset).stream.parts

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        steps = StepBatches(first_step, self.config.batch_size, rank, world, last_step=last_step)
        return make_loader(self.dataset, steps, flow_batch, num_workers=self.config.num_workers)

    def observe(self, batch: Any) -> None:
        self.failures.update(batch.pop("failures"), pairs=len(batch["index"]))

    def to_inputs(self, batch: Any, step: int) -> dict[str, Tensor]:
        flow = batch["flow"]
        # Average per micro-batch, so that sparse flow has the same weight however a step is split.
        pixels = torch.full((), batch["pixels"] / self.config.accumulate, device=flow.device)
        return self._frames(batch) | {"flow": flow, "pixels": cast(Tensor, reduce(pixels, "mean"))}

    @torch.no_grad()
    def _frames(self, batch: Any) -> dict[str, Tensor]:
        normalise = normaliser(self.model.network)
        return {name: normalise(batch[name].float() / 255) for name in ("source", "target")}

    def hyperparameters(self, step: int) -> Hyperparameters:
        optim = self.config.optim
        lr = cosine(step, self.total_steps, optim.lr, 0.0, warmup=self.warmup_steps)
        return Hyperparameters(lr=lr, weight_decay=optim.weight_decay)

    def optimizer(self) -> torch.optim.Optimizer:
        groups = parameter_groups([self.model])
        beta1, beta2 = self.config.optim.betas
        return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), fused=True)

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        if self.validation is None:
            return {}
        try:
            return self.validation(self.model.network)
        except (InputError, MissingFileError) as error:  # the training so far must be saved in any case
            logger.error("step %d could not be validated and cannot be the best: %s", step, error)
            return {}

    def pictures(self, batch: Any) -> dict[str, Tensor]:
        frames = self._frames({name: batch[name][:1] for name in ("source", "target")})
        found = self.model.network.flow(frames["source"], frames["target"])[0, :2]
        return {"flow": draw_pictures(batch["source"][0], batch["target"][0], batch["flow"][0], found)}

    def describe(self) -> dict[str, Any]:
        return {"network": self.model.network.config.to_dict(), "steps_per_epoch": self.steps_per_epoch}

    def state_dict(self) -> dict[str, Any]:
        return {"failures": self.failures.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.failures.load_state_dict(state["failures"])


def flow_batch(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch with its number of valid pixels in "pixels", counted by the workers to avoid waiting for the device."""
    batch = collate(samples)
    return {**batch, "pixels": int(valid_pixels(batch["flow"]).sum())}


def _plain(value: Any) -> Any:
    """The value as it is after a round trip through JSON."""
    return list(value) if isinstance(value, tuple) else value


def draw_pictures(source: Tensor, target: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """Source and target above true and predicted flow, uint8 (3, 2 * H, 2 * W).

    Args:
        source: uint8 (3, H, W).
        target: as ``source``.
        truth: (2, H, W) in pixels, NaN where invalid; its longest vector has full saturation in both pictures.
        found: (2, H, W).
    """
    length = torch.linalg.vector_norm(truth.float(), dim=0)
    longest = max(float(length.nan_to_num(0, 0, 0).max()), 1.0)
    flows = [flow_to_image(flow.float().cpu(), max_flow=longest) for flow in (truth, found)]
    frames = torch.cat([source.cpu(), target.cpu()], dim=2)
    return torch.cat([frames, torch.cat(flows, dim=2)], dim=1)
