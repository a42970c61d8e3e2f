"""How flow is predicted: one set of options for pairs, clips, the command line and evaluation."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from midway_zoo.checks import check_fields, field_range, is_integer, is_size
from midway_zoo.errors import InputError, InputTypeError, nearest
from midway_zoo.inference.images import Size
from midway_zoo.inference.perturbation import match_level
from midway_zoo.models.network import MidwayNetwork

OWN = {
    "head": ("tile", "overlap", "coarse", "refine", "mirrored"),
    "perturbation": ("level", "draws", "seed", "window"),
}
"""The options that only one method reads."""


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """Options of :func:`midway_zoo.predict_flow`, checked when they are made.

    Raises:
        InputError: for a value that makes no sense, or an option that the chosen method does not read.
    """

    method: Literal["auto", "head", "perturbation"] = field_range("auto", choices=("auto", "head", "perturbation"))
    """"auto" is the head if there is one, else perturbation."""
    size: Size = None
    """Resize the images first, as in :func:`midway_zoo.extract_features`. For the head None means the images' own size,
    or a smaller one at which they hold no more than three tiles on an axis; "full" means every pixel. A larger size
    gives the zero-shot flow a finer grid and takes longer."""
    batch_size: int = field_range(4, at_least=1)
    """Pairs or frames at once, and tiles as large as the paper's (480 tokens); of smaller tiles more."""
    tile: int | tuple[int, int] | None = None
    """For the head: (height, width) or side of the tiles in pixels, instead of ``config.flow_size``."""
    overlap: float | None = field_range(None, at_least=0, below=1)
    """For the head: least share of a tile that its neighbour covers too, in [0, 1), all of a tile counting by its
    confidence, as in the paper's evaluation (0.7 and 0.9). None is for use: a quarter, and tiles fade out towards
    their borders, so that no seam shows."""
    coarse: bool = False
    """For the head: see the whole image at the size of one tile first, and move each tile of the target to where that
    flow points: for displacements that leave a tile."""
    refine: int = field_range(0, at_least=0)
    """For the head: look again this many times, each time at the target warped by the flow found so far, and add what
    is left; every pixel then takes what warps the target to the source best, of all looks and of no motion. Needs no
    training; with ``midway_nano.scenes`` 2 takes a fifth to a half of the error away on real frames (the model card has
    the figures). Each time costs as much as the first look."""
    mirrored: bool = False
    """For the head: average over the pair and its three mirror images, at four times the cost."""
    level: int | None = field_range(None, at_least=0)
    """For perturbation: level of the forward dynamics that is perturbed, 2, 1 or 0; None for the highest."""
    draws: int = field_range(1, at_least=1)
    """For perturbation: random perturbations per token to average."""
    seed: int = field_range(0, at_least=0, at_most=2**63 - 1)
    """For perturbation: of the perturbations."""
    window: int = field_range(1, at_least=0)
    """For perturbation: radius in tokens of the soft arg-max; 0 is the plain arg-max."""

    def __post_init__(self) -> None:
        check_fields(self, error=InputError)
        if self.tile is not None and not (is_integer(self.tile, 1) or is_size(self.tile)):
            raise InputError(f"tile={self.tile!r}: one or two multiples of the patch in pixels are expected.")
        if self.method != "auto":
            self._check_read_by(self.method)

    @classmethod
    def of(cls, **given: Any) -> "FlowOptions":
        """Options by name; an unknown name is an :class:`InputTypeError` with the nearest known ones."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InputTypeError(
                    f"flow has no option {name!r}.{nearest(name, known)} There are: {', '.join(known)}."
                )
        return cls(**given)

    def resolved(self, network: MidwayNetwork) -> "FlowOptions":
        """The same with the method that a network is read by, instead of "auto".

        Raises:
            InputError: for "head" without a head, a tile that the patch does not divide, or an option that the
                method does not read.
            ConfigError: if the network is an encoder alone.
        """
        config = network.require_dynamics().config
        if self.method == "head" and network.flow_head is None:
            raise InputError('this network has no flow head; use method="perturbation", which needs no training.')
        method = self.method
        if method == "auto":
            method = "perturbation" if network.flow_head is None else "head"
        self._check_read_by(method)
        tile = config.flow_size if self.tile is None else self.tile
        sides = (tile, tile) if isinstance(tile, int) else (tile[0], tile[1])
        if method == "head" and any(side % config.patch_size for side in sides):
            raise InputError(
                f"tile={self.tile!r}: one or two multiples of the patch, {config.patch_size} pixels, are expected."
            )
        level = match_level(network, self.level) if method == "perturbation" else self.level
        return replace(self, method=method, tile=sides if method == "head" else None, level=level)

    def _check_read_by(self, method: str) -> None:
        other = "head" if method == "perturbation" else "perturbation"
        defaults = {field.name: field.default for field in fields(self)}
        unread = [f"{name}={getattr(self, name)!r}" for name in OWN[other] if getattr(self, name) != defaults[name]]
        if unread:
            owner = "the flow head" if other == "head" else 'method="perturbation"'
            instead = (
                "for the zero-shot flow pass size, a finer grid" if other == "head" else "the flow head reads none"
            )
            raise InputError(f"{', '.join(unread)}: for {owner} only; {instead}.")
