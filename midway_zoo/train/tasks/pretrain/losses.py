"""Cross-frame DINO, the other loss of Midway pretraining beside the dynamics' (paper section 3)."""

from typing import cast

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import weight_norm

GLOBAL_VIEWS = 4
"""x1, x2 of the source frame and y1, y2 of the target frame."""


class DINOHead(nn.Module):
    """Class token (N, D) -> logits (N, K): three-layer MLP, L2 normalisation, weight-normalised linear.

    The projection head of DINO (Caron et al., 2021).

    Args:
        dim: width D of the class token.
        hidden: width of the MLP's two hidden layers.
        bottleneck: width that is normalised.
        out: number K of prototypes.
        norm_last_layer: freeze the last layer's gains at 1.
        autocast: take the product with the prototypes in autocast's precision.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        bottleneck: int,
        out: int,
        *,
        norm_last_layer: bool = False,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = weight_norm(nn.Linear(bottleneck, out, bias=False))
        gain = self.last_layer.parametrizations.weight.original0
        nn.init.ones_(gain)
        gain.requires_grad_(not norm_last_layer)

    def forward(self, cls: Tensor) -> Tensor:
        """Logits in float32 unless ``autocast`` is set: sharpening by 1 / 0.04 amplifies the errors of bfloat16."""
        x = self.mlp(cls)
        if self.autocast:
            return cast(Tensor, self.last_layer(F.normalize(x.float(), dim=-1, eps=1e-12)))
        with torch.autocast(x.device.type, enabled=False):
            return self.last_layer(F.normalize(x.float(), dim=-1, eps=1e-12))


class DINOLoss(nn.Module):
    """Cross-entropy between centred, sharpened teacher views and student views, over all counted pairs at once.

    Args:
        prototypes: K.
        student_temperature: 0.1 in the released runs.
        teacher_temperature: 0.04 in the released runs.
        center_momentum: momentum of the center, 0.9 in the released runs.
    """

    center: Tensor
    center_sum: Tensor
    center_count: Tensor

    def __init__(
        self,
        prototypes: int,
        *,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(1, prototypes))
        # Sums over the micro-batches of one step: always zero between steps, so not part of a checkpoint.
        self.register_buffer("center_sum", torch.zeros(1, prototypes), persistent=False)
        self.register_buffer("center_count", torch.zeros(()), persistent=False)

    def forward(
        self, student: Tensor, teacher: Tensor, temperature: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Loss of one (micro-)batch; in training the teacher's logits are summed for :meth:`update_center`.

        Args:
            student: logits (V, B, K), global views first.
            teacher: logits (Q, B, K), of the 4 global views unless ``mask`` is given; no gradient flows into it.
            temperature: (), of the teacher, if it follows a schedule; None for the configuration's.
            mask: (Q, V), 1 where a pair of views counts and 0 elsewhere; None: :func:`pair_mask`.

        Returns:
            The mean over pairs of views and the batch, a scalar; and the mean entropy of the teacher's
            distributions in nats (log K at most), which reveals a collapse.
        """
        student, teacher = student.float(), teacher.detach().float()
        sharpness = self.teacher_temperature if temperature is None else temperature
        targets = F.softmax((teacher - self.center) / sharpness, dim=-1)
        scaled = student / self.student_temperature
        # -sum_k p log softmax(s) = logsumexp(s) - p . s, since p sums to one: no (V, B, K) log-softmax per pair.
        dots = torch.bmm(targets.transpose(0, 1), scaled.permute(1, 2, 0))  # (B, Q, V)
        terms = torch.logsumexp(scaled, dim=-1).transpose(0, 1)[:, None] - dots
        mask = pair_mask(student.shape[0], student.device) if mask is None else mask
        loss = (terms.mean(0) * mask).sum() / mask.sum()
        entropy = -torch.xlogy(targets, targets).sum(-1).mean()
        if self.training:
            self.center_sum += teacher.flatten(0, 1).mean(0, keepdim=True)
            self.center_count += 1
        return loss, entropy.detach()

    @torch.no_grad()
    def update_center(self) -> None:
        """Update after a step: center <- 0.9 center + 0.1 mean of the step's teacher logits over all processes."""
        batch = cast(Tensor, reduce(self.center_sum / self.center_count.clamp(min=1), "mean"))
        self.center.lerp_(batch, 1 - self.center_momentum)
        self.center_sum.zero_()
        self.center_count.zero_()


def pair_mask(views: int, device: torch.device | None = None) -> Tensor:
    """Which (teacher view q, student view v) pairs count: (4, views) float of 0 and 1.

    A view is not compared with itself, nor a global view with the same box of the other frame.
    """
    mask = torch.ones(GLOBAL_VIEWS, views, device=device)
    for q in range(GLOBAL_VIEWS):
        mask[q, q] = 0
        mask[q, (q + 2) % GLOBAL_VIEWS] = 0
    return mask
