"""The module that pretraining optimises: student, teacher, dynamics, heads, and their losses in one forward."""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from midway_zoo.models.layers import Mlp
from midway_zoo.models.network import MidwayNetwork, build_encoder
from midway_zoo.train.alignment import align
from midway_zoo.train.optim import ema_update, paired_parameters
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.head import DINOHead
from midway_zoo.train.tasks.pretrain.objective import combine_levels, dino_loss, dynamics_losses


class PretrainModel(nn.Module):
    """Student and teacher of a Midway network with the pretraining objective.

    ``network.encoder`` is the student and ``network.target_encoder`` the EMA teacher; the dynamics hold their own
    EMA target side.
    """

    center: Tensor
    center_sum: Tensor
    center_count: Tensor

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        architecture = config.midway_config()
        self.objective = config.objective
        self.network = MidwayNetwork(architecture)
        if self.network.dynamics is not None and config.network.dynamics_init == "aligned":
            align(self.network.dynamics)
        self._use_drop_path(config.network.drop_path)
        self.network.encoder.set_grad_checkpointing(config.network.grad_checkpointing)
        for module in self.network.modules():
            if isinstance(module, Mlp):
                module.recompute = config.network.mlp_recompute
        head = config.head
        self.head: DINOHead | None = None
        self.teacher_head: DINOHead | None = None
        if config.objective.dino_weight > 0:
            args = (architecture.embed_dim, head.hidden, head.bottleneck, head.out)
            self.head = DINOHead(*args, norm_last_layer=head.norm_last_layer)
            self.teacher_head = DINOHead(*args, norm_last_layer=True)
            self.teacher_head.load_state_dict(self.head.state_dict())
            self.teacher_head.requires_grad_(False)
        prototypes = head.out if self.head is not None else 0
        self.register_buffer("center", torch.zeros(1, prototypes))
        # Sums over the micro-batches of one step: always zero between steps, so not part of a checkpoint.
        self.register_buffer("center_sum", torch.zeros(1, prototypes), persistent=False)
        self.register_buffer("center_count", torch.zeros(()), persistent=False)

    def _use_drop_path(self, rate: float) -> None:
        student = build_encoder(self.network.config, drop_path_rate=rate, mlp_layer=Mlp)
        student.load_state_dict(self.network.encoder.state_dict())
        self.network.encoder = student

    def averaged(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """(EMA copy, original) modules."""
        network = self.network
        yield cast(nn.Module, network.target_encoder), network.encoder
        if self.head is not None and self.teacher_head is not None:
            yield self.teacher_head, self.head
        if network.dynamics is not None:
            yield network.dynamics.target_embed, network.dynamics.source_embed
            yield network.dynamics.target_backward, network.dynamics.source_backward

    def clipped_parameters(self) -> Iterator[nn.Parameter]:
        """Those whose gradients are clipped: student encoder and head."""
        yield from self.network.encoder.parameters()
        if self.head is not None:
            yield from self.head.parameters()

    def last_layer_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the head's last layer."""
        if self.head is not None:
            yield from self.head.last_layer.parameters()

    def forward(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of B pairs.

        Args:
            views: normalised views, see :func:`~midway_zoo.train.tasks.pretrain.batch.normalised_views`: "dynamics"
                (2, B, 3, S, S), source and target; "globals" (4, B, 3, G, G), order x1, x2, y1, y2; "locals"
                (2 * n, B, 3, L, L), those of the source first, or absent; "teacher_temperature" (), or absent where
                it is the configuration's.

        Returns:
            Scalars: "loss" and its parts ("invariance", "dynamics", "dynamics_LEVEL"); without gradient, for health:
            "teacher_entropy" in nats, "center_norm", "cls_std" and "token_std" (standard deviation of the teacher's
            normed class tokens and patch tokens over the batch, mean over channels) and "gate_LEVEL", the mean gate.
        """
        results: dict[str, Tensor] = {}
        total: Tensor | None = None
        if self.head is not None:
            results |= self._invariance(views)
            total = self.objective.dino_weight * results["invariance"]
        if self.network.dynamics is not None:
            levels, health = self._dynamics(views["dynamics"])
            combined = combine_levels(levels, self.objective.dynamics_weights, self.objective.dynamics_reduction)
            results |= {f"dynamics_{level}": loss for level, loss in levels.items()} | health
            results["dynamics"] = combined
            total = combined if total is None else total + combined
        return {"loss": cast(Tensor, total)} | results

    @torch.no_grad()
    def teacher_logits(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """(4, B, 3, G, G) -> logits (4, B, K) and class tokens (4 * B, D)."""
        cls = self.network.encode_cls(views.flatten(0, 1), target=True)
        head = cast(DINOHead, self.teacher_head)
        return head(cls).unflatten(0, views.shape[:2]), cls

    def student_logits(self, views: Mapping[str, Tensor]) -> Tensor:
        """Global and local views -> (V, B, K)."""
        groups = [views[key] for key in ("globals", "locals") if key in views and len(views[key])]
        cls = [self.network.encode_cls(group.flatten(0, 1)) for group in groups]
        head = cast(DINOHead, self.head)
        return head(torch.cat(cls)).unflatten(0, (-1, groups[0].shape[1]))

    def _invariance(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        teacher, cls = self.teacher_logits(views["globals"])
        loss, entropy = dino_loss(
            self.student_logits(views),
            teacher,
            self.center,
            student_temperature=self.objective.student_temperature,
            teacher_temperature=views.get("teacher_temperature", self.objective.teacher_temperature),
        )
        if self.training:
            self.center_sum += teacher.flatten(0, 1).float().mean(0, keepdim=True)
            self.center_count += 1
        return {
            "invariance": loss,
            "teacher_entropy": entropy,
            "center_norm": self.center.norm(),
            "cls_std": cls.float().std(0).mean(),
        }

    def _dynamics(self, frames: Tensor) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        """Both directions of each pair in one batch, [a -> b; b -> a]."""
        source, target = frames.flatten(0, 1), frames.flip(0).flatten(0, 1)
        output = self.network(source, target, return_gates=True, predictions_only=True)
        health = {"token_std": output.targets[max(output.targets)].detach().float().flatten(0, 1).std(0).mean()}
        for level, gates in (output.gates or {}).items():
            if gates:
                health[f"gate_{level}"] = torch.stack([gate.detach().float().mean() for gate in gates]).mean()
        return dynamics_losses(output), health

    @torch.no_grad()
    def update_averages(self, momentum: float) -> None:
        """Move every EMA copy towards its original."""
        averages, values = zip(*paired_parameters(self.averaged()), strict=True)
        ema_update(averages, values, momentum)

    @torch.no_grad()
    def update_center(self) -> None:
        """After the step: center <- 0.9 center + 0.1 mean of the step's teacher logits over all processes."""
        if self.head is None:
            return
        batch = cast(Tensor, reduce(self.center_sum / self.center_count.clamp(min=1), "mean"))
        self.center.lerp_(batch, 1 - self.objective.center_momentum)
        self.center_sum.zero_()
        self.center_count.zero_()
