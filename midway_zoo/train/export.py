"""From a run's checkpoint to the zoo's format, which ``load_checkpoint`` and timm read."""

from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError, OutputExistsError
from midway_zoo.files import write_safetensors
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import WEIGHTS, save_network
from midway_zoo.train.checkpoints import BEST, CONFIG, STATE, best_checkpoint, open_checkpoint
from midway_zoo.train.initial import run_checkpoint
from midway_zoo.train.tasks.segmentation.export import HEAD, segmentation_head
from midway_zoo.weights.convert import ENCODER_FOLDER, save_encoder

LAYOUTS = ("zoo", "released")


def export(run: Path, out: Path, *, layout: str = "zoo", best: bool = False, overwrite: bool = False) -> list[Path]:
    """Export the newest checkpoint of a run, or the best.

    Args:
        run: run folder, or one of its ``checkpoints/step_*``.
        out: for "zoo" a folder: ``model.safetensors`` and ``config.json`` (for ``load_checkpoint``,
            ``MidwayNetwork.from_pretrained``, and ``init_from=``), and in ``encoder/`` the (teacher's) encoder for
            timm's ``local-dir:``; of a segmentation run also ``segmentation_head.safetensors`` (for
            :func:`midway_zoo.train.tasks.segmentation.export.load_segmentation`). For "released" a ``.pth`` file in the
            authors' layout.
        layout: "zoo" or "released".
        best: the checkpoint whose validation was best (best.json); ``run`` is the run folder then.
        overwrite: replace an earlier export.

    Returns:
        The files written.

    Raises:
        MissingFileError: if ``run`` holds no checkpoint.
        OutputExistsError: if there is an export and ``overwrite`` is false.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}.")
    checkpoint = _best(run) if best else run_checkpoint(run)
    if checkpoint is None:
        raise MissingFileError(f"{run} holds no checkpoint of a run (checkpoints/step_*).")
    if layout == "released":
        from midway_zoo.train.tasks.pretrain.released_export import export_released

        return [export_released(checkpoint, out, overwrite=overwrite)]
    network = network_of_checkpoint(checkpoint, paired=None)
    folders = (out, out / ENCODER_FOLDER)
    files = [folder / name for folder in folders for name in (WEIGHTS, "config.json")]
    head = segmentation_head(checkpoint)
    if head is not None:
        files.append(out / HEAD)
    for file in files:
        if file.exists() and not overwrite:
            raise OutputExistsError(f"{file} exists; choose another folder, or --force to replace it.")
    folders[1].mkdir(parents=True, exist_ok=True)
    save_network(network, out)
    teacher = network.target_encoder or network.encoder
    part = "teacher" if network.target_encoder is not None else network.provenance.get("encoder", "teacher")
    save_encoder(teacher, network.config, folders[1], {**network.provenance, "part": "encoder", "encoder": part})
    if head is not None:
        write_safetensors(out / HEAD, *head, overwrite=True)
    return files


def _best(run: Path) -> Path:
    found = best_checkpoint(run)
    if found is None:
        raise MissingFileError(
            f"{run / BEST} names no checkpoint that is there: no checkpoint of this run was validated. "
            "Without --best the newest one is exported."
        )
    return found.path


def network_of_checkpoint(checkpoint: Path, *, paired: bool | None) -> MidwayNetwork:
    """The network in a run's checkpoint.

    Args:
        checkpoint: a folder ``step_*``.
        paired: None as trained; False the teacher alone; True both (an encoder trained alone serves as both).
    """
    read = open_checkpoint(checkpoint)
    step = read.step
    state, facts = read.model(), read.state()
    described = facts.get("network")
    if not isinstance(described, dict):
        raise CheckpointError(f"{checkpoint / STATE} does not describe its network.")
    config = MidwayConfig.from_dict(described)
    weights = {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}
    if paired is not None and paired != config.paired:
        weights = _paired(weights) if paired else _unpaired(weights)
        config = override(config, {"paired": paired})
    network = MidwayNetwork(config)
    network.load_state_dict(weights)
    encoder = "student and teacher" if config.paired else facts.get("encoder", "teacher")
    network.provenance = {"source": "midway_zoo.train", "task": facts["identity"]["task"], "step": step}
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


def checkpoint_config(checkpoint: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with."""
    from omegaconf import OmegaConf

    loaded: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(checkpoint / CONFIG))  # type: ignore[assignment]
    return loaded
