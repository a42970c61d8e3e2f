"""Writing files whole or not at all, and never over an existing one unless requested."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from midway_zoo.errors import InputError, MissingFileError, OutputExistsError
from midway_zoo.reading import METADATA_KEY


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Raise early if ``path`` cannot or must not be written.

    Raises:
        OutputExistsError: if it exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
        InputError: if it is a folder, or its folder cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass the name of a file.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; pass overwrite=True (on the command line --force) to replace it.")
    if not path.parent.is_dir():
        raise MissingFileError(f"the folder {path.parent} of {path.name} does not exist; create it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder {path.parent} cannot be written to; choose another place for {path.name}.")


@contextmanager
def atomic(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it on success and removed on failure."""
    check_output(path, overwrite=overwrite)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        make_ordinary(temporary, 0o666)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_ordinary(path: Path, mode: int) -> None:
    """Give a file or folder that tempfile made, for its owner alone, the permissions of an ordinary one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def write_json(path: Path, value: Any, *, overwrite: bool = False) -> None:
    """Write JSON, indented, UTF-8."""
    with atomic(path, overwrite=overwrite) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        # Names that are not UTF-8 are written as JSON escapes, and read back as what they were.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], *, overwrite: bool = False
) -> None:
    """Write tensors with JSON metadata; the same input gives the same bytes.

    Raises:
        OutputExistsError: if the file exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
        OSError: if it cannot be written, such as for a full disk, with its ``errno``.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path, overwrite=overwrite) as temporary:
        # Not save_file: its errors tell a full disk from other faults by their text alone.
        temporary.write_bytes(save(plain, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)}))


def write_png(
    path: Path, image: torch.Tensor, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Write a uint8 tensor (3, H, W) as PNG, with JSON metadata as a text if there is any."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"an image is a uint8 tensor (3, H, W), not {image.dtype} {tuple(image.shape)}.")
    with atomic(path, overwrite=overwrite) as temporary:
        texts = PngInfo()
        if metadata is not None:
            texts.add_itxt(METADATA_KEY, json.dumps(metadata, sort_keys=True))
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(temporary, format="PNG", pnginfo=texts)
