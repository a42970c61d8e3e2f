"""The module that flow fine-tuning optimises: a network with a flow head, and the loss."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.initial import load_into, network_from
from midway_zoo.train.tasks.flow.objective import flow_loss


class FlowModel(nn.Module):
    """A network whose flow is compared with the truth.

    Args:
        network: with a flow head and one encoder.
        frozen: train the flow head alone.
    """

    def __init__(self, network: MidwayNetwork, *, frozen: bool = False) -> None:
        super().__init__()
        self.network = network
        assert network.flow_head is not None
        # The target side of the dynamics, an average in pretraining, is fine-tuned as everything else is.
        network.requires_grad_(not frozen)
        network.flow_head.requires_grad_(True)
        _freeze_unused(network)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss of B pairs.

        Args:
            inputs: "source" and "target" (B, 3, H, W), normalised; "flow" (B, 2, H, W); "pixels", see
                :func:`~midway_zoo.train.tasks.flow.objective.flow_loss`.
        """
        output = self.network.flow(inputs["source"], inputs["target"])
        return flow_loss(output, inputs["flow"], inputs.get("pixels"))


def _freeze_unused(network: MidwayNetwork) -> None:
    """Take the gradient from what the flow does not depend on (the target's backward layer of the last level, and
    more in the variants of the method): processes that exchange gradients would wait for it."""
    side = 4 * network.config.patch_size
    image = torch.zeros(1, 3, side, side, device=network.device, dtype=network.dtype)
    network.flow(image, image).sum().backward()
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def initialise(network: MidwayNetwork, source: str, mode: str) -> bool:
    """Copy weights into a fresh network; returns whether the flow head was among them.

    Args:
        network: with a flow head.
        source: what ``init_from=`` says.
        mode: "full": encoder and dynamics, and the flow head where ``source`` has one of the same widths; "encoder":
            the encoder alone.

    Raises:
        ConfigError: if the source does not fit, or is an encoder alone and ``mode`` is "full".
        MidwayZooError: whatever reading it raises.
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
