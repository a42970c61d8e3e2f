"""Initial weights of a run: ``init_from=`` a pretrained name, a file, an exported folder, or another run."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from midway_zoo.config import MidwayConfig
from midway_zoo.errors import ConfigError, MissingFileError, nearest
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.checkpoints import MODEL, STATE, latest_checkpoint
from midway_zoo.weights.registry import create_model, list_models, load_checkpoint

logger = logging.getLogger(__name__)


def network_from(source: str, *, paired: bool) -> MidwayNetwork:
    """The network of a pretrained name, of a file or folder that ``load_checkpoint`` reads, or of a run.

    Args:
        source: what ``init_from=`` says.
        paired: both encoders; if the source holds one only, it serves as student and as teacher.

    Raises:
        MissingFileError: if it is neither a name nor a path that exists.
        MidwayZooError: whatever reading it raises.
    """
    path = Path(source)
    if not path.exists():
        names = list_models(pretrained=True)
        if source in names or source in {name.partition(".")[0] for name in names}:
            return _both_encoders(source, partial(create_model, source, pretrained=True), paired=paired)
        raise MissingFileError(
            f"init_from={source!r} is neither a path that exists nor a pretrained name.{nearest(source, names)} "
            f"Names: {', '.join(names)}."
        )
    run = run_checkpoint(path)
    if run is not None:
        from midway_zoo.train.export import network_of_checkpoint

        return network_of_checkpoint(run, paired=paired)
    if path.suffix == ".pth":
        return load_checkpoint(path, paired=paired)
    return _both_encoders(path, partial(load_checkpoint, path), paired=paired)


def run_checkpoint(path: Path) -> Path | None:
    """The checkpoint folder that ``path`` is, or the newest one of the run folder that it is, or None."""
    if (path / MODEL).is_file() and (path / STATE).is_file():
        return path
    latest = latest_checkpoint(path) if path.is_dir() else None
    return latest.path if latest else None


def _both_encoders(name: object, read: Callable[..., MidwayNetwork], *, paired: bool) -> MidwayNetwork:
    """``read(paired=paired)``; where one encoder is all there is, it serves as both."""
    try:
        return read(paired=paired)
    except ValueError as error:
        if not paired or "one encoder" not in str(error):
            raise
    single = read(paired=False)
    network = MidwayNetwork(replace(single.config, paired=True))
    state = single.state_dict()
    encoder = {f"target_{key}": value for key, value in state.items() if key.startswith("encoder.")}
    network.load_state_dict(state | encoder)
    logger.info("%s holds one encoder: it starts as student and as teacher", name)
    return network


def load_into(network: MidwayNetwork, source: MidwayNetwork, name: str, *, rooms: tuple[str, ...] = ()) -> None:
    """Copy the weights of ``source`` into ``network``; position tables are resampled to its grid.

    Args:
        network: takes the weights.
        source: gives them.
        name: of the source, for messages.
        rooms: only these parts, such as ("encoder",); all if empty.

    Raises:
        ConfigError: if a tensor is missing or has another shape; nothing is copied then.
    """
    given = fit_tables(source.state_dict(), source.config, network.config)
    wanted = {key: value for key, value in network.state_dict().items() if not rooms or key.partition(".")[0] in rooms}
    check_shapes(wanted, given, name)
    network.load_state_dict(network.state_dict() | {key: given[key] for key in wanted})


def check_shapes(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str) -> None:
    """Raise :class:`ConfigError`, naming the first tensors that are missing or misshapen."""
    wrong = [
        f"{key}: {tuple(value.shape)} wanted, {tuple(given[key].shape) if key in given else 'none'} given"
        for key, value in wanted.items()
        if key not in given or given[key].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"init_from={name} does not fit the network: {'; '.join(wrong[:3])}{more}. "
            "Choose network.name and network.overrides as it was trained."
        )


def fit_tables(state: Mapping[str, Tensor], has: MidwayConfig, wants: MidwayConfig) -> dict[str, Tensor]:
    """``state`` with its position tables resampled bicubically from one native grid to another."""
    fitted = dict(state)
    if has.grid == wants.grid:
        return fitted
    old, new = list(has.grid), list(wants.grid)
    for key in state:
        if key.endswith("encoder.pos_embed"):
            fitted[key] = resample_abs_pos_embed(state[key], new_size=new, old_size=old)
    if "dynamics.pos_embed" in state:
        halves = [
            resample_abs_pos_embed(half, new_size=new, old_size=old)
            for half in state["dynamics.pos_embed"].chunk(2, dim=1)
        ]
        fitted["dynamics.pos_embed"] = torch.cat(halves, dim=1)
    return fitted
