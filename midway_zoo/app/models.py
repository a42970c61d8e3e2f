"""The networks of the page: few in memory, loaded once."""

import threading
from collections import OrderedDict

from midway_zoo.analysis.fresh import untrained
from midway_zoo.app.settings import AppSettings
from midway_zoo.errors import InputError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.names import list_models
from midway_zoo.weights.checkpoint import load_checkpoint
from midway_zoo.weights.registry import create_model, is_path

RANDOM = "random weights of the same shape"
"""What a network can be compared with, beside others: what of a view comes from training."""
_KEPT = 2


class Models:
    """Names to networks, for visitors."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, MidwayNetwork] = OrderedDict()
        self._untrained: tuple[MidwayNetwork, MidwayNetwork] | None = None  # the last one, and of what
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What is offered, without doubles."""
        return list(dict.fromkeys((*self._settings.models, *list_models(pretrained=True))))

    def get(self, name: str) -> MidwayNetwork:
        """The network of a name.

        Raises:
            InputError: if visitors may not have it.
            MidwayZooError: if it cannot be loaded.
        """
        name = (name or "").strip()
        if not name:
            raise InputError("No model is chosen: pick one of the list.")
        if name not in self.names() and not self._settings.any_model:
            raise InputError(
                f"This page runs the models of its list alone, not {name!r}. Run `midway-zoo app` on your own machine "
                "for any other."
            )
        with self._lock:
            if name not in self._loaded:
                network = load_checkpoint(name) if is_path(name) else create_model(name, pretrained=True)
                network.require_dynamics()
                self._loaded[name] = network.to(self._settings.device).eval()
            self._loaded.move_to_end(name)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name]

    def rival(self, name: str, network: MidwayNetwork) -> MidwayNetwork:
        """What ``network`` is compared with, by the name of a model or :data:`RANDOM`; errors as :meth:`get`."""
        if name != RANDOM:
            return self.get(name)
        with self._lock:
            if self._untrained is None or self._untrained[1] is not network:
                self._untrained = untrained(network), network
            return self._untrained[0]
