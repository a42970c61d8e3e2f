"""Classification of noise by brightness, by a linear layer on a frozen encoder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import field_range
from midway_zoo.config import MidwayConfig
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.checkpoints import Checkpoint
from midway_zoo.train.config import RunConfig
from midway_zoo.train.optim import parameter_groups
from midway_zoo.train.task import Hyperparameters, Task

NETWORK = MidwayConfig(encoder="midway_nano", embed_dim=24, num_heads=3, depth=4, feature_blocks=(0, 1, 2, 3),
                       patch_size=8, grid=(2, 2), dynamics=False)  # fmt: skip


@dataclass
class ToyConfig(RunConfig):
    task: str = field_range("toy", choices=("toy",))
    batch_size: int = field_range(4, at_least=1)
    precision: str = field_range("no", choices=("no",))
    lr: float = field_range(0.1, above=0)


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = MidwayNetwork(NETWORK).requires_grad_(False)
        self.head = nn.Linear(3, 2)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        logits = self.head(batch["images"].mean((2, 3)))
        hits = logits.detach().argmax(1) == batch["labels"]
        return {"loss": F.cross_entropy(logits, batch["labels"]), "top1": hits.float().mean()}


class ToyTask(Task[ToyConfig]):
    name = "toy"
    unit = "images"
    shown = ("top1",)
    best_by = "error"
    model: ToyModel

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.total_steps, self.steps_per_epoch = 20, 10
        torch.manual_seed(config.seed)
        self.model = ToyModel()

    def batches(self, first_step: int, last_step: int, *, rank: int, world: int) -> Iterable[Any]:
        for step in range(first_step, last_step):
            labels = torch.arange(self.config.batch_size) % 2
            noise = torch.rand(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(step))
            yield {"images": noise + labels[:, None, None, None], "labels": labels}

    def to_inputs(self, batch: Any, step: int) -> Any:
        return batch

    def hyperparameters(self, step: int) -> Hyperparameters:
        return Hyperparameters(lr=self.config.lr, weight_decay=0.0)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameter_groups([self.model]))

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        return {"error": 1 / step}

    def describe(self) -> dict[str, Any]:
        return {"network": NETWORK.to_dict()}

    @classmethod
    def export_files(cls, checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
        tensors = {key: value for key, value in checkpoint.model().items() if key.startswith("head.")}
        return {"head.safetensors": (tensors, {"classes": ["dark", "bright"]})}

    @classmethod
    def export_as(cls, layout: str, checkpoint: Checkpoint, out: Path, *, overwrite: bool) -> Path:
        out.write_text(f"step {checkpoint.step}\n")
        return out
