"""The model of pretraining: student, teacher, dynamics, heads, and their losses in one forward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from midway_zoo.models.layers import Mlp
from midway_zoo.models.network import MidwayNetwork, build_encoder
from midway_zoo.train.alignment import initialise_dynamics
from midway_zoo.train.data.photometric import augment
from midway_zoo.train.losses import DynamicsLoss
from midway_zoo.train.optim import ema_update, freeze, paired_parameters
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.losses import DINOHead, DINOLoss


class PretrainModel(nn.Module):
    """Student and teacher of a Midway network with the pretraining losses.

    ``network.encoder`` is the student and ``network.target_encoder`` the EMA teacher; the dynamics hold their own
    EMA target side. :attr:`averages` lists the averages and their originals.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        architecture, objective = config.midway_config(), config.objective
        self.dino_weight = objective.dino_weight
        self.dynamics_dino_weight = objective.dynamics_dino_weight
        self.resample = config.network.resample
        self.network = MidwayNetwork(architecture)
        initialise_dynamics(self.network, config.network.dynamics_init)
        self._use_drop_path(config.network.drop_path)
        self.network.encoder.set_grad_checkpointing(config.network.grad_checkpointing)
        for module in self.network.modules():
            if isinstance(module, Mlp):
                module.recompute = config.network.mlp_recompute
        self.head: DINOHead | None = None
        self.teacher_head: DINOHead | None = None
        self.dino: DINOLoss | None = None
        if objective.dino_weight > 0:
            head = config.head
            args = (architecture.embed_dim, head.hidden, head.bottleneck, head.out)
            fast = head.product == "autocast"
            self.head = DINOHead(*args, norm_last_layer=head.norm_last_layer, autocast=fast)
            self.teacher_head = DINOHead(*args, norm_last_layer=True, autocast=fast).requires_grad_(False)
            self.dino = DINOLoss(
                head.out,
                student_temperature=objective.student_temperature,
                teacher_temperature=objective.teacher_temperature,
                center_momentum=objective.center_momentum,
            )
        self.dynamics_loss = DynamicsLoss(objective.dynamics_weights, objective.dynamics_reduction)
        for average, original in self.averages:
            average.load_state_dict(original.state_dict())
        freeze(self.network, config.network.freeze)

    def _use_drop_path(self, rate: float) -> None:
        student = build_encoder(self.network.config, drop_path_rate=rate, mlp_layer=Mlp)
        student.load_state_dict(self.network.encoder.state_dict())
        self.network.encoder = student

    @property
    def averages(self) -> list[tuple[nn.Module, nn.Module]]:
        """(EMA copy, original): every module that is an average of another."""
        network = self.network
        pairs: list[tuple[nn.Module, nn.Module]] = [(cast(nn.Module, network.target_encoder), network.encoder)]
        if self.head is not None and self.teacher_head is not None:
            pairs.append((self.teacher_head, self.head))
        if network.dynamics is not None:
            pairs.append((network.dynamics.target_embed, network.dynamics.source_embed))
            pairs.append((network.dynamics.target_backward, network.dynamics.source_backward))
        return pairs

    @property
    def student(self) -> list[nn.Module]:
        """The student's encoder and projection head: everything that is trained beside the dynamics."""
        return [self.network.encoder, *([self.head] if self.head is not None else [])]

    def forward(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of B pairs.

        Args:
            views: normalised views, see :func:`normalised_views`: "dynamics" (2, B, 3, S, S), source and target;
                "globals" (4, B, 3, G, G), order x1, x2, y1, y2; "locals" (2 * n, B, 3, L, L), those of the source
                first, or absent; "teacher_temperature" (), or absent for the configuration's.

        Returns:
            Scalars: "loss" and its parts ("dino", "dino_crops", "dynamics", "dynamics_LEVEL"); without gradient,
            for health: "teacher_entropy" in nats, "center_norm", "cls_std" and "token_std" (standard deviation of the
            teacher's normalised class tokens and patch tokens over the batch, mean over channels) and "gate_LEVEL", the
            mean gate.
        """
        seen = self._see(views)
        results: dict[str, Tensor] = {}
        terms: list[Tensor] = []
        if self.dino is not None:
            results |= self._dino(self.dino, seen, views)
            terms.append(self.dino_weight * results["dino"])
            if self.dynamics_dino_weight:
                results["dino_crops"] = self._dino_of_crops(self.dino, seen, views)
                terms.append(self.dynamics_dino_weight * results["dino_crops"])
        if self.network.dynamics is not None:
            results |= self._dynamics(seen)
            terms.append(results["dynamics"])
        return {"loss": torch.stack(terms).sum()} | results

    def _see(self, views: Mapping[str, Tensor]) -> "_Seen":
        """Encode all views with both encoders, in as few passes as their sizes allow."""
        network, seen = self.network, _Seen()
        wanted: dict[str, Tensor] = {}
        if network.dynamics is not None:  # both directions of each pair in one batch, [a -> b; b -> a]
            frames = views["dynamics"]
            wanted = {"source": frames.flatten(0, 1), "target": frames.flip(0).flatten(0, 1)}
            seen.grid = network.grid_of(wanted["source"])
        boxes = views["globals"].flatten(0, 1) if self.dino is not None else None
        if boxes is not None and wanted and network.grid_of(boxes) == seen.grid == network.config.grid:
            seen.source, cls = network.encode_with_cls(wanted["source"], boxes)
            with torch.no_grad():
                seen.target, seen.teacher_cls = network.encode_with_cls(wanted["target"], boxes, target=True)
            seen.student_cls.append(cls)
        else:
            if wanted:
                seen.source = network.encode(wanted["source"])
                with torch.no_grad():
                    seen.target = network.encode(wanted["target"], target=True)
            if boxes is not None:
                seen.student_cls.append(self._student_cls(boxes))
                with torch.no_grad():
                    seen.teacher_cls = network.encode_cls(boxes, target=True)
        if self.dino is not None and len(views.get("locals", ())):
            seen.student_cls.append(self._student_cls(views["locals"].flatten(0, 1)))
        return seen

    def _logits(self, seen: "_Seen", pairs: int) -> tuple[Tensor, Tensor]:
        """(V, B, K) of the student, global views first, and (4, B, K) of the teacher."""
        with torch.no_grad():
            teacher = cast(DINOHead, self.teacher_head)(seen.teacher_cls)
        student = cast(DINOHead, self.head)(torch.cat(seen.student_cls))
        return student.unflatten(0, (-1, pairs)), teacher.unflatten(0, (-1, pairs))

    def _student_cls(self, images: Tensor) -> Tensor:
        """Class tokens (N, D), with the position table at the views' size as ``network.resample`` says."""
        grid, native = self.network.grid_of(images), self.network.config.grid
        if self.resample == "timm" or grid == native:
            return self.network.encode_cls(images)
        table = resample_as_released(self.network.encoder.pos_embed, native, grid)
        replaced = {"network.encoder.pos_embed": table}
        with _table_of(self.network.encoder, grid):
            return cast(Tensor, functional_call(_StudentCls(self.network), replaced, (images,)))

    def _dino(self, loss: DINOLoss, seen: "_Seen", views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        student, teacher = self._logits(seen, views["globals"].shape[1])
        value, entropy = loss(student, teacher, views.get("teacher_temperature"))
        return {
            "dino": value,
            "teacher_entropy": entropy,
            "center_norm": loss.center.norm(),
            "cls_std": seen.teacher_cls.float().std(0).mean(),
        }

    def _dino_of_crops(self, loss: DINOLoss, seen: "_Seen", views: Mapping[str, Tensor]) -> Tensor:
        """DINO across the frames of the dynamics crops; their last tokens, [a; b] and [b; a], are available already."""
        student = cast(DINOHead, self.head)(seen.source[-1][:, 0]).unflatten(0, (2, -1))
        with torch.no_grad():
            teacher = cast(DINOHead, self.teacher_head)(seen.target[-1][:, 0]).unflatten(0, (2, -1))
        # The teacher's first half belongs to the other frame than the student's, so corresponding entries are compared.
        value, _ = loss(student, teacher, views.get("teacher_temperature"), torch.eye(2, device=student.device))
        return value

    def _dynamics(self, seen: "_Seen") -> dict[str, Tensor]:
        dynamics = self.network.require_dynamics()
        output = dynamics(seen.source, seen.target, seen.grid, return_gates=True, predictions_only=True)
        total, levels = self.dynamics_loss(output.predictions, output.targets)
        values = {f"dynamics_{level}": loss for level, loss in levels.items()}
        values["token_std"] = output.targets[max(output.targets)].detach().float().flatten(0, 1).std(0).mean()
        for level, gates in (output.gates or {}).items():
            if gates:
                values[f"gate_{level}"] = torch.stack([gate.detach().float().mean() for gate in gates]).mean()
        return values | {"dynamics": total}

    @torch.no_grad()
    def update_averages(self, momentum: float) -> None:
        """Move every EMA copy towards its original."""
        averages, values = zip(*paired_parameters(self.averages), strict=True)
        ema_update(averages, values, momentum)


@dataclass
class _Seen:
    """Tokens of one batch, by student and teacher."""

    source: list[Tensor] = field(default_factory=list)
    """Four levels of the student's tokens of the dynamics crops, both directions; none without dynamics."""
    target: list[Tensor] = field(default_factory=list)
    """The teacher's, of the other frame's crops."""
    grid: tuple[int, int] = (0, 0)
    """Of the dynamics crops."""
    student_cls: list[Tensor] = field(default_factory=list)
    """Class tokens of the global views and, if there are any, the local ones, (views * B, D) each."""
    teacher_cls: Tensor = field(default_factory=lambda: torch.empty(0))
    """(4 * B, D)"""


class _StudentCls(nn.Module):
    """``encode_cls`` as a module's forward, whose parameters can be replaced for one call."""

    def __init__(self, network: MidwayNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode_cls(images)


@contextmanager
def _table_of(encoder: nn.Module, grid: tuple[int, int]) -> Iterator[None]:
    """Within the context timm takes the position table as one of this grid, and does not resample it for such views."""
    patches: Any = encoder.patch_embed
    native = patches.grid_size
    patches.grid_size = grid
    try:
        yield
    finally:
        patches.grid_size = native


def resample_as_released(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A position table as the released runs resampled it for views of another size.

    Bicubic without antialiasing, by the scale factor (places + 0.1) / native places, which is DINO's and makes
    the steps slightly too small; timm's resampling (``network.resample: timm``) has antialiasing and the exact factor.

    Args:
        table: (1, 1 + N, D), the class token's row first.
        native: rows and columns of its places.
        grid: rows and columns of the result.

    Returns:
        (1, 1 + rows * columns, D).
    """
    prefix, places = table[:, :1], table[:, 1:]
    image = places.float().transpose(1, 2).unflatten(2, native)
    factors = [(wanted + 0.1) / own for wanted, own in zip(grid, native, strict=True)]
    resampled = F.interpolate(image, scale_factor=factors, mode="bicubic", align_corners=False)
    return torch.cat([prefix, resampled.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


@torch.no_grad()
def normalised_views(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From a batch of the data loader to the views that the model takes: photometric augmentation and normalisation.

    Args:
        batch: "dynamics" (B, 2, 3, S, S), "globals" (B, 4, 3, G, G), "locals" (B, 2 * n, 3, L, L) uint8, and
            "photometric" (B, V, K) with the parameters of all V = 2 + 4 + 2 * n views in that order.

    Returns:
        Float tensors (views, B, 3, H, W), normalised with ImageNet's mean and standard deviation.
    """
    first, results = 0, {}
    for key in ("dynamics", "globals", "locals"):
        views = batch[key]
        count = views.shape[1]
        if count:
            params = batch["photometric"][:, first : first + count]
            images = augment(views.transpose(0, 1).flatten(0, 1), params.transpose(0, 1).flatten(0, 1))
            results[key] = images.unflatten(0, (count, -1))
        first += count
    return results


@cache
def compiled_views(backend: str = "inductor") -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """:func:`normalised_views`, compiled: for accelerators, where its many small operations are limited by memory."""
    return torch.compile(normalised_views, fullgraph=True, dynamic=False, backend=backend)
