"""Initial weights of pretraining: network, and projection heads and center where the source has them."""

import logging
from pathlib import Path

from torch import Tensor

from midway_zoo.train.checkpoints import MODEL
from midway_zoo.train.initial import check_shapes, load_into, network_from, run_checkpoint
from midway_zoo.train.tasks.pretrain.model import PretrainModel
from midway_zoo.weights.released_writer import read_center, read_head

logger = logging.getLogger(__name__)


def initialise(model: PretrainModel, source: str) -> None:
    """Copy weights into a fresh model.

    A released ``.pth`` and a run give everything; a pretrained name or an exported folder gives the network, and the
    projection heads stay fresh.

    Raises:
        MidwayZooError: if the source cannot be read or does not fit.
    """
    load_into(model.network, network_from(source, paired=True), source)
    heads = _heads(Path(source))
    if model.head is None:
        return
    if not heads:
        logger.warning("init_from=%s holds no projection heads: they start fresh", source)
        return
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("network.")}
    check_shapes(state, heads, source)
    model.load_state_dict(model.state_dict() | {key: heads[key] for key in state})


def _heads(path: Path) -> dict[str, Tensor]:
    """Heads and center by our names; empty if the source has none."""
    run = run_checkpoint(path)
    if run is not None:
        from safetensors.torch import load_file

        heads = {key: value for key, value in load_file(run / MODEL).items() if not key.startswith("network.")}
        return heads if "head.mlp.0.weight" in heads else {}  # of another task, or of the dynamics alone
    if path.suffix != ".pth" or not path.is_file():
        return {}
    heads = {f"head.{key}": value for key, value in read_head(path, side="student").items()}
    heads |= {f"teacher_head.{key}": value for key, value in read_head(path, side="teacher").items()}
    return heads | {"center": read_center(path)}
