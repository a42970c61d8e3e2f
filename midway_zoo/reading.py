"""Reading files: safetensors, digests, and what stands in for a file that was not fetched."""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from midway_zoo.bars import bar
from midway_zoo.errors import CheckpointError

METADATA_KEY = "midway_zoo"
"""safetensors keeps metadata in a hash map: a single key makes the bytes of a file reproducible."""
HEAD = 512
"""Bytes from the beginning of a file that tell what it is."""

_PROLOGUE = re.compile(rb"^(<\?.*?\?>|<!--.*?-->|\s)+", re.DOTALL)
"""What may come before the root of XML or HTML: declarations, comments, space."""


def stand_in(path: Path) -> str | None:
    """What a file is in place of the one that was to be fetched, and what to do: a sentence that its name begins.

    None for any other file, and for what is no file.
    """
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return stand_in_of(file.read(HEAD))
    except OSError:
        return None


def stand_in_of(head: bytes) -> str | None:
    """:func:`stand_in` of a file that begins with ``head``, ``HEAD`` bytes; empty if the file is."""
    if not head:
        return "is empty. Get the file again."
    # Of XML the root decides: a page, or what an object store answers, in place of the file; an SVG is the file.
    root = _PROLOGUE.sub(b"", head.removeprefix(b"\xef\xbb\xbf")).lower()
    if root.startswith((b"<!doctype html", b"<html", b"<head", b"<error", b"<listbucketresult")):
        return "is a web page in place of the file: use the file's download link, not its page."
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer in place of the file: run `git lfs pull`, or download the file itself."
    return None


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        problem = stand_in(path) or f"is not readable ({error}). Get the file again."
        raise CheckpointError(f"{path} {problem}") from error


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
