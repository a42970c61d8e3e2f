"""The projection head of DINO (Caron et al., 2021), with a weight-normalised last layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import weight_norm


class DINOHead(nn.Module):
    """Class token (N, D) -> logits (N, K): three-layer MLP, L2 normalisation, weight-normalised linear.

    Args:
        dim: width D of the class token.
        hidden: width of the MLP's two hidden layers.
        bottleneck: width that is normalised.
        out: number K of prototypes.
        norm_last_layer: freeze the last layer's gains at 1 (DINO does so for its larger models).
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, out: int, *, norm_last_layer: bool = False) -> None:
        super().__init__()
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
        """Logits in float32 whatever the autocast: sharpened by 1 / 0.04, bfloat16 would lose them."""
        x = self.mlp(cls)
        with torch.autocast(x.device.type, enabled=False):
            return self.last_layer(F.normalize(x.float(), dim=-1, eps=1e-12))
