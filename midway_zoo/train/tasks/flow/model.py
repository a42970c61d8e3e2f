"""The model of flow fine-tuning: a network with a flow head, and the loss, the negative log-likelihood of a Laplace
distribution (appendix B.4)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from midway_zoo.errors import ConfigError
from midway_zoo.models.flow_head import error_scale
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.flow_pairs import LONGEST
from midway_zoo.train.losses import DynamicsLoss
from midway_zoo.train.optim import freeze
from midway_zoo.train.weights import load_into, network_from


class FlowModel(nn.Module):
    """A network with the loss of its flow.

    Args:
        network: with a flow head and one encoder.
        frozen: train only the flow head.
        freeze_parts: parts that keep their weights, see :func:`~midway_zoo.train.optim.freeze`.
        dynamics_weight: of pretraining's dynamics loss, which is added to the flow's.
    """

    def __init__(
        self,
        network: MidwayNetwork,
        *,
        frozen: bool = False,
        freeze_parts: Sequence[str] = (),
        dynamics_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.dynamics_weight = dynamics_weight
        self.dynamics_loss = DynamicsLoss([1.0] * len(network.config.levels))
        assert network.flow_head is not None
        # The target side of the dynamics, an average in pretraining, is fine-tuned too.
        network.requires_grad_(not frozen)
        network.flow_head.requires_grad_(True)
        freeze(network, freeze_parts)
        self._freeze_unused()

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of B pairs.

        Args:
            inputs: "source" and "target" (B, 3, H, W), normalised; "flow" (B, 2, H, W); "pixels", see
                :func:`flow_loss`.

        Returns:
            Scalars: those of :func:`flow_loss`; with a ``dynamics_weight`` also "flow", the flow's part of the loss,
            and "dynamics", that of the dynamics before it is weighted.
        """
        network = self.network
        source, target = network.encode_pair(inputs["source"], inputs["target"])
        grid = network.grid_of(inputs["source"])
        dynamics = network.require_dynamics()(source, target, grid)
        results = flow_loss(network.decode_flow(source, dynamics, grid), inputs["flow"], inputs.get("pixels"))
        if self.dynamics_weight:
            flow, (predicted, _) = results["loss"], self.dynamics_loss(dynamics.predictions, dynamics.targets)
            total = flow + self.dynamics_weight * predicted
            results |= {"loss": total, "flow": flow.detach(), "dynamics": predicted.detach()}
        return results

    def _freeze_unused(self) -> None:
        """Freeze parameters that no loss depends on (the target's backward layer of the last level, and more in
        variants of the method): processes that exchange gradients would wait for theirs."""
        side, network = 4 * self.network.config.patch_size, self.network
        image = torch.zeros(1, 3, side, side, device=network.device, dtype=network.dtype)
        self({"source": image, "target": image, "flow": torch.zeros_like(image[:, :2])})["loss"].backward()
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None


def initialise(network: MidwayNetwork, source: str, mode: str) -> bool:
    """Copy weights into a fresh network; returns whether the flow head was among them.

    Args:
        network: with a flow head.
        source: value of ``init_from=``.
        mode: "full": encoder and dynamics, and the flow head if ``source`` has one of the same widths; "encoder":
            the encoder alone.

    Raises:
        ConfigError: if the source does not fit, or is an encoder alone and ``mode`` is "full".
        MidwayZooError: if it cannot be read.
    """
    given = network_from(source, paired=False)
    rooms: tuple[str, ...] = ("encoder",)
    if mode == "full":
        if given.dynamics is None:
            raise ConfigError(f"init_from={source} is an encoder alone; initial=encoder takes that.")
        rooms = ("encoder", "dynamics")
        if given.config.flow_head == network.config.flow_head:
            rooms = (*rooms, "flow_head")
    load_into(network, given, source, rooms=rooms)
    return "flow_head" in rooms


def valid_pixels(flow: Tensor) -> Tensor:
    """Where flow (B, 2, H, W) can be trained on, (B, H, W) bool: finite and shorter than 10 000 pixels."""
    return torch.hypot(flow[:, 0], flow[:, 1]) < LONGEST  # false for NaN and infinity


def flow_loss(output: Tensor, flow: Tensor, pixels: Tensor | None = None) -> dict[str, Tensor]:
    """Mean over valid pixels of (\\|du\\| + \\|dv\\|) / s + ln s, s = :func:`~midway_zoo.models.flow_head.error_scale`.

    Args:
        output: (B, 3, H, W) of :meth:`MidwayNetwork.flow <midway_zoo.MidwayNetwork.flow>`.
        flow: (B, 2, H, W) in pixels; invalid vectors, including NaN, do not count.
        pixels: divisor of the sums, if the mean is over more than this batch; None for its number of valid pixels.

    Returns:
        Scalars in float32: "loss", and without gradient "epe", the mean end-point error in pixels. Both are 0, with
        gradients of 0, if nothing is valid.
    """
    output, flow = output.float(), flow.float()
    valid = valid_pixels(flow)
    # Replaced first: a NaN would reach the gradients even of masked terms.
    error = output[:, :2] - torch.where(valid[:, None], flow, 0)
    scale = error_scale(output[:, 2])
    terms = error.abs().sum(dim=1) / scale + scale.log()
    count = (valid.sum() if pixels is None else pixels).clamp(min=1)
    epe = torch.linalg.vector_norm(error.detach(), dim=1)
    return {
        "loss": torch.where(valid, terms, 0).sum() / count,
        "epe": torch.where(valid, epe, 0).sum() / count,
    }
