"""Reading what this package writes: safetensors, and digests of files."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from midway_zoo.bars import bar
from midway_zoo.errors import CheckpointError

METADATA_KEY = "midway_zoo"
"""safetensors keeps metadata in a hash map: a single key makes the bytes of a file reproducible."""


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not readable ({error}). Get the file again.") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, with a progress bar for large ones."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        bar(total=size, unit="B", unit_scale=True, desc="sha256", hidden=size < 2**28) as shown,
    ):
        while block := file.read(2**20):
            digest.update(block)
            shown.update(len(block))
    return digest.hexdigest()
