"""Options of the flow, shared by pairs, clips, the command line and evaluation."""

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
"""The options that only one method uses."""


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """Options of :func:`midway_zoo.predict_flow`, checked when they are made.

    Raises:
        InputError: for an invalid value, or an option that the chosen method does not use.
    """

    method: Literal["auto", "head", "perturbation"] = field_range("auto", choices=("auto", "head", "perturbation"))
    """"auto" is the head if there is one, else perturbation."""
    size: Size = None
    """Resize the images first, as in :func:`midway_zoo.extract_features`. For the head None means the images' own size,
    reduced to at most three tiles on the shorter side, and "full" every pixel. A larger size gives the zero-shot flow
    a finer grid and takes longer."""
    batch_size: int = field_range(4, at_least=1)
    """Pairs or frames at once, and tiles of the paper's size (480 tokens); proportionally more of smaller tiles."""
    tile: int | tuple[int, int] | None = None
    """For the head: (height, width) or side of the tiles in pixels, instead of ``config.flow_size``."""
    overlap: float | None = field_range(None, at_least=0, below=1)
    """For the head: least share of a tile that its neighbour overlaps, in [0, 1), blended by confidence alone as in the
    paper's evaluation (0.7 and 0.9). None: a quarter, and tiles fade out towards their borders to hide seams."""
    coarse: bool = False
    """For the head: first predict the flow of the whole image, reduced to one tile, and shift the target's tiles by it:
    for displacements larger than a tile."""
    refine: int = field_range(0, at_least=0)
    """For the head: refine this many times: warp the target by the flow so far and add the remaining flow; every pixel
    then takes the mean of all estimates and of no motion, weighted by how well each warps the target to the source.
    Needs no training; each pass costs as much as the first (the model card has figures)."""
    mirrored: bool = False
    """For the head: average over the pair and its three mirror images, at four times the cost."""
    level: int | None = field_range(None, at_least=0)
    """For perturbation: level of the forward dynamics to perturb, 2, 1 or 0; None: the highest."""
    draws: int = field_range(1, at_least=1)
    """For perturbation: random perturbations per token to average."""
    seed: int = field_range(0, at_least=0, at_most=2**63 - 1)
    """For perturbation: seed of the random perturbations."""
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
        """Options from keywords; an unknown name is an :class:`InputTypeError` with the nearest known ones."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InputTypeError(f"flow has no option {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
        return cls(**given)

    def resolved(self, network: MidwayNetwork) -> "FlowOptions":
        """The same options with the method for this network in place of "auto".

        Raises:
            InputError: for "head" without a head, a tile that the patch does not divide, or an option that the
                method does not use.
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
        sides = (tile[0], tile[1]) if isinstance(tile, tuple | list) else (tile, tile)
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
            instead = "for a finer zero-shot flow pass size=" if other == "head" else "the flow head uses none"
            raise InputError(f"{', '.join(unread)}: for {owner} only; {instead}.")
