"""Conversion of a checkpoint to safetensors folders: the network for this package, the encoder for timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midway_zoo.errors import InputError, OutputExistsError
from midway_zoo.files import make_folder
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import sha256_of
from midway_zoo.storage import CONFIG, WEIGHTS, EncoderName
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.checkpoint import checkpoint_folder, load_checkpoint
from midway_zoo.weights.released import checkpoint_summary
from midway_zoo.weights.sharing import ENCODER_FOLDER, save_encoder, save_network


def convert(
    path: Path,
    folder: Path,
    *,
    encoder: EncoderName = "teacher",
    paired: bool = False,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Convert a released-layout ``.pth``, or unpack a file, folder or training run of this package.

    Writes ``model.safetensors`` and ``config.json`` (the network, for ``load_checkpoint`` and
    ``MidwayNetwork.from_pretrained``) and the same two names in ``encoder/`` (for
    ``timm.create_model("local-dir:FOLDER/encoder", pretrained=True)``). Values are unchanged, bit for bit.

    Args:
        path: whatever ``load_checkpoint`` takes; half precision becomes float32.
        folder: created if needed.
        encoder: see :func:`~midway_zoo.load_checkpoint`.
        paired: likewise; the folder ``encoder/`` then holds the student.
        config: likewise, for a ``.pth``.
        overwrite: replace files of an earlier conversion.

    Returns:
        The files written.

    Raises:
        OutputExistsError: if the folder holds such files and ``overwrite`` is false.
        CheckpointError, UnsafeFileError, ConfigError, MissingFileError: see ``load_checkpoint``.
    """
    folders = (folder, folder / ENCODER_FOLDER)
    outputs = [where / name for where in folders for name in (WEIGHTS, CONFIG)]
    for output in outputs:
        if output.exists() and not overwrite:
            raise OutputExistsError(
                f"{output} exists; pass overwrite=True (on the command line --force) to replace it."
            )
    held = checkpoint_folder(path) or path
    inputs = [held / WEIGHTS, held / CONFIG] if held.is_dir() else [path]
    if any(a.exists() and b.exists() and a.samefile(b) for a in outputs for b in inputs):
        raise InputError(f"{path} is an input; it is never overwritten. Choose another folder.")
    network, summary = _read(path, encoder, paired, config)
    provenance = {**network.provenance, "sha256_verified": sha256_of(inputs[0]), **summary}
    make_folder(folders[1])
    save_network(network, folder, provenance | {"part": "network"})
    part = "student" if paired else encoder
    save_encoder(network.encoder, network.config, folders[1], provenance | {"part": "encoder", "encoder": part})
    return outputs


def _read(
    path: Path, encoder: EncoderName, paired: bool, config: Mapping[str, Any] | None
) -> tuple[MidwayNetwork, dict[str, Any]]:
    """The network and, for a released file, a summary of its run."""
    network = load_checkpoint(path, encoder=encoder, paired=paired, config=config or None).float()
    if path.is_dir() or path.suffix in (".safetensors", ".json"):
        return network, {}
    with open_archive(path) as archive:
        return network, checkpoint_summary(archive)
