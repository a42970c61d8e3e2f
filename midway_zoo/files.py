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
from safetensors import SafetensorError
from safetensors.torch import save_file

from midway_zoo.errors import InputError, MissingFileError, OutputExistsError
from midway_zoo.reading import METADATA_KEY


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Raise early if ``path`` cannot or must not be written.

    Raises:
        OutputExistsError: if it exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
        InputError: if it is a folder, or nothing can be written where it shall be.
    """
    _check_name(path, overwrite=overwrite)
    check_folder(path.parent, of=path.name)


def _check_name(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; pass the name of a file.")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; pass overwrite=True (on the command line --force) to replace it.")


def check_output_folder(path: Path) -> None:
    """Raise early if no files can be written into a folder, or it can neither be found nor made.

    Raises:
        MissingFileError: if the folder that it would be made in does not exist.
        InputError: if it is a file, or nothing can be written where it is or shall be.
    """
    check_folder(path if path.is_dir() or path.is_file() else path.parent, of=path.name)


def check_folder(folder: Path, *, of: str, made: bool = False) -> None:
    """Raise unless files can be written into a folder; ``of`` names in the message what shall be written.

    Raises:
        MissingFileError: if it does not exist, unless it will be ``made`` (and could be).
        InputError: if it is a file, or cannot be written to.
    """
    if folder.is_dir():
        if reason := why_not_writable(folder):
            raise InputError(f"the folder {folder} cannot be written to ({reason}); choose another place for {of}.")
        return
    ancestor = next(part for part in (folder, *folder.parents) if part.exists() or part == part.parent)
    if not ancestor.is_dir():
        raise InputError(f"{ancestor} is a file, no folder; choose another place for {of}.")
    if reason := why_not_writable(ancestor):
        raise InputError(
            f"the folder {folder} of {of} does not exist and cannot be made, since {ancestor} cannot be written to "
            f"({reason}); choose another place."
        )
    if not made:
        raise MissingFileError(f"the folder {folder} of {of} does not exist; create it first.")


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder, "" if one can: tried, since permissions alone do not tell of read-only
    file systems, quotas and folders that the system makes up."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return "permission denied"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()


def make_folder(folder: Path) -> None:
    """Make a folder for outputs, with those above it, unless it is there.

    Raises:
        InputError: if it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if folder.is_file() else (error.strerror or str(error)).lower()
        raise InputError(f"the folder {folder} cannot be made ({reason}); choose another place.") from error


@contextmanager
def atomic(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it on success and removed on failure."""
    _check_name(path, overwrite=overwrite)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError:
        check_folder(path.parent, of=path.name)  # which knows what to do about it
        raise
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
        try:
            save_file(plain, temporary, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
        except SafetensorError:
            # It tells a full disk from other faults by its text alone; as much written plainly has an errno for it.
            with temporary.open("wb") as file:
                for tensor in plain.values():
                    file.write(bytes(tensor.nbytes))
            raise


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
