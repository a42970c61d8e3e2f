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
"""Name of the untrained network to compare with, which shows what of a view comes from training."""
_KEPT = 2


class Models:
    """Loads networks by name."""

    def __init__(self, settings: AppSettings) -> None:
        self._settings = settings
        self._loaded: OrderedDict[str, MidwayNetwork] = OrderedDict()
        self._untrained: tuple[MidwayNetwork, MidwayNetwork] | None = None  # the last one, and its model
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names offered to visitors, without duplicates."""
        return list(dict.fromkeys((*self._settings.models, *list_models(pretrained=True))))

    def get(self, name: str) -> MidwayNetwork:
        """The network of a name.

        Raises:
            InputError: if visitors may not use it.
            MidwayZooError: if it cannot be loaded.
        """
        name = (name or "").strip()
        if not name:
            raise InputError("No model is chosen: pick one from the list.")
        if name not in self.names() and not self._settings.any_model:
            raise InputError(
                f"This page runs only the models in its list, not {name!r}. Run `midway-zoo app` on your own machine "
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
        """The network to compare ``network`` with, by the name of a model or :data:`RANDOM`; errors as in
        :meth:`get`."""
        if name != RANDOM:
            return self.get(name)
        with self._lock:
            if self._untrained is None or self._untrained[1] is not network:
                self._untrained = untrained(network), network
            return self._untrained[0]
