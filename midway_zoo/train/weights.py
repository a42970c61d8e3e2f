"""Initial weights of a run (``init_from=``) and exports from one (``midway-zoo train export``).

The parts beside the network are up to the task: ``initialise`` in its folder, ``Task.export_files`` and
``Task.export_as``.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingFileError,
    OutputExistsError,
    SingleEncoderError,
    nearest,
)
from midway_zoo.files import make_folder, write_safetensors
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.names import list_models
from midway_zoo.storage import WEIGHTS
from midway_zoo.train.checkpoints import BEST, STATE, Checkpoint, best_checkpoint, run_checkpoint
from midway_zoo.train.tasks import task_class
from midway_zoo.weights.checkpoint import load_checkpoint
from midway_zoo.weights.registry import create_model
from midway_zoo.weights.sharing import ENCODER_FOLDER, save_encoder, save_network

logger = logging.getLogger(__name__)
_ZOO = "zoo"


def network_from(source: str, *, paired: bool) -> MidwayNetwork:
    """The network of a pretrained name, of a file or folder that ``load_checkpoint`` reads, or of a run.

    Args:
        source: value of ``init_from=``.
        paired: load both encoders; if the source has only one, it serves as student and teacher.

    Raises:
        MissingFileError: if it is neither a name nor an existing path.
        MidwayZooError: if it cannot be read.
    """
    path = Path(source)
    if not path.exists():
        names = list_models(pretrained=True)
        if source in names or source in {name.partition(".")[0] for name in names}:
            return _both_encoders(source, partial(create_model, source, pretrained=True), paired=paired)
        raise MissingFileError(
            f"init_from={source!r} is neither an existing path nor a pretrained name.{nearest(source, names)} "
            f"Names: {', '.join(names)}."
        )
    run = run_checkpoint(path)
    if run is not None:
        return network_of_checkpoint(run, paired=paired)
    if path.suffix == ".pth":
        return load_checkpoint(path, paired=paired)
    return _both_encoders(path, partial(load_checkpoint, path), paired=paired)


def _both_encoders(name: object, read: Callable[..., MidwayNetwork], *, paired: bool) -> MidwayNetwork:
    """``read(paired=paired)``; if there is only one encoder, it serves as both."""
    try:
        return read(paired=paired)
    except SingleEncoderError:
        pass
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
        network: network to fill.
        source: network to copy from.
        name: name of the source, for messages.
        rooms: copy only these parts, such as ("encoder",); all if empty.

    Raises:
        ConfigError: if a tensor is missing or has another shape; then nothing is copied.
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
            "Choose network.name and network.overrides as in its training."
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


def export(run: Path, out: Path, *, layout: str = "zoo", best: bool = False, overwrite: bool = False) -> list[Path]:
    """Export the newest checkpoint of a run, or the best.

    Args:
        run: run folder, or one of its ``checkpoints/step_*``.
        out: for "zoo" a folder: ``model.safetensors`` and ``config.json`` (for ``load_checkpoint``,
            ``MidwayNetwork.from_pretrained``, and ``init_from=``), and in ``encoder/`` the (teacher's) encoder for
            timm's ``local-dir:``; and further files of the task, such as ``segmentation_head.safetensors`` (for
            :func:`midway_zoo.load_segmenter`). For other layouts it depends on the task:
            "released" is a ``.pth`` file in the authors' layout.
        layout: "zoo", or a layout of the run's task ("released" for pretraining).
        best: export the checkpoint with the best validation (best.json); ``run`` is then the run folder.
        overwrite: replace an earlier export.

    Returns:
        The files written.

    Raises:
        MissingFileError: if ``run`` holds no checkpoint.
        OutputExistsError: if there is an export and ``overwrite`` is false.
    """
    checkpoint = _best(run) if best else run_checkpoint(run)
    if checkpoint is None:
        raise MissingFileError(f"{run} holds no checkpoint of a run (checkpoints/step_*).")
    task = task_class(checkpoint.state()["identity"]["task"])
    if layout != _ZOO:
        return [task.export_as(layout, checkpoint, out, overwrite=overwrite)]
    further = task.export_files(checkpoint)
    # null if the task trained a ViT of timm, which the task exports itself.
    midway = checkpoint.state().get("network", {}) is not None
    network = network_of_checkpoint(checkpoint, paired=None) if midway else None
    folders = (out, out / ENCODER_FOLDER)
    files = [folder / name for folder in folders[: 2 * midway] for name in (WEIGHTS, "config.json")]
    files += [out / name for name in further]
    read = [path for path in checkpoint.path.iterdir() if path.is_file()]
    for file in files:
        if file.exists() and any(file.samefile(path) for path in read):
            raise InputError(f"{file} is part of the run; it is never overwritten. Choose another folder.")
        if file.exists() and not overwrite:
            raise OutputExistsError(f"{file} exists; choose another folder, or --force to replace it.")
    make_folder(folders[midway])
    if network is not None:
        save_network(network, out)
        teacher = network.target_encoder or network.encoder
        part = "teacher" if network.target_encoder is not None else network.provenance.get("encoder", "teacher")
        save_encoder(teacher, network.config, folders[1], {**network.provenance, "part": "encoder", "encoder": part})
    for name, (tensors, facts) in further.items():
        write_safetensors(out / name, tensors, facts, overwrite=True)
    return files


def _best(run: Path) -> Checkpoint:
    found = best_checkpoint(run)
    if found is None:
        raise MissingFileError(
            f"{run / BEST} does not name an existing checkpoint: no checkpoint of this run was validated. "
            "Without --best the newest one is exported."
        )
    return found


def network_of_checkpoint(checkpoint: Checkpoint, *, paired: bool | None) -> MidwayNetwork:
    """The network in a run's checkpoint.

    Args:
        checkpoint: the checkpoint.
        paired: None for the encoders as trained; False for the teacher alone; True for both (a single encoder serves
            as both).
    """
    state, facts = checkpoint.model(), checkpoint.state()
    described = facts.get("network")
    if not isinstance(described, dict):
        raise CheckpointError(f"{checkpoint.path / STATE} does not describe its network.")
    config = MidwayConfig.from_dict(described)
    weights = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    if paired is not None and paired != config.paired:
        weights = _paired(weights) if paired else _unpaired(weights)
        config = override(config, {"paired": paired})
    network = MidwayNetwork(config)
    network.load_state_dict(weights)
    encoder = "student and teacher" if config.paired else facts.get("encoder", "teacher")
    network.provenance = {"source": "midway_zoo.train", "task": facts["identity"]["task"], "step": checkpoint.step}
    network.provenance |= {"encoder": encoder, "trained_with": facts["provenance"]}
    return network.eval()


def _unpaired(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {key: value for key, value in weights.items() if not key.startswith("encoder.")}
    return {
        (key.removeprefix("target_") if key.startswith("target_encoder.") else key): value
        for key, value in kept.items()
    }


def _paired(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {f"target_{key}": value for key, value in weights.items() if key.startswith("encoder.")}
