"""Conversion of a checkpoint to safetensors folders: the network for this package, the encoder for timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midway_zoo.errors import CheckpointError, ConfigError, InputError, MissingFileError, OutputExistsError
from midway_zoo.files import make_folder
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import sha256_of
from midway_zoo.storage import CONFIG, WEIGHTS, EncoderName, load_file
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.released import checkpoint_summary, load_released
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
    """Convert a released-layout ``.pth``, or unpack a ``.safetensors`` file of this package.

    Writes ``model.safetensors`` and ``config.json`` (the network, for ``load_checkpoint`` and
    ``MidwayNetwork.from_pretrained``) and the same two names in ``encoder/`` (for
    ``timm.create_model("local-dir:FOLDER/encoder", pretrained=True)``). Values are unchanged, bit for bit.

    Args:
        path: the ``.pth`` or ``.safetensors``; half precision becomes float32.
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
    if any(output.exists() and path.exists() and output.samefile(path) for output in outputs):
        raise InputError(f"{path} is an input; it is never overwritten. Choose another folder.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; convert takes a released .pth file, or a .safetensors file.")
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}.")
    network, summary = _read(path, encoder, paired, config)
    provenance = {**network.provenance, "sha256_verified": sha256_of(path), **summary}
    make_folder(folders[1])
    save_network(network, folder, provenance | {"part": "network"})
    part = "student" if paired else encoder
    save_encoder(network.encoder, network.config, folders[1], provenance | {"part": "encoder", "encoder": part})
    return outputs


def _read(
    path: Path, encoder: EncoderName, paired: bool, config: Mapping[str, Any] | None
) -> tuple[MidwayNetwork, dict[str, Any]]:
    """The network of a file and, for a released file, a summary of its run."""
    if path.suffix != ".safetensors":
        network = load_released(path, encoder=encoder, paired=paired, config=config)
        with open_archive(path) as archive:
            return network, checkpoint_summary(archive)
    if config:
        raise ConfigError("config= is for released .pth files; a file of this package carries its configuration.")
    return load_file(MidwayNetwork, path, encoder=encoder, paired=paired).float(), {}
