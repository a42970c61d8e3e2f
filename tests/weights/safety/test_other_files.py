"""Files of other kinds are explained."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from midway_zoo import load_checkpoint
from midway_zoo.errors import CheckpointError, MissingFileError
from midway_zoo.weights import archive
from tests.weights.safety.hostile import refused


def png(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def safetensors_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, one=np.zeros(3), two=np.zeros(3))


def saved(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


OTHER_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (saved(b""), "is empty"),
    "web page": (saved(b"\n <!DOCTYPE html>\n<html><body>404</body></html>"), "web page.*download link"),
    "web page with byte order mark": (saved(b"\xef\xbb\xbf<html></html>"), "web page"),
    "git-lfs pointer": (saved(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git lfs pull"),
    "text": (saved(b"Midway Network checkpoints\n"), r"not a torch\.save file"),
    "text that starts with c": (saved(b"checkpoint: moved\nto another place\n"), r"not a torch\.save file"),
    "text that starts with a bracket": (saved(b"(moved to another place)\n"), r"not a torch\.save file"),
    "JSON": (saved(json.dumps({"error": "not found"}).encode()), r"not a torch\.save file"),
    "random bytes": (saved(random.Random(0).randbytes(5000)), r"not a torch\.save file"),
    "zeros": (saved(bytes(5000)), r"not a torch\.save file"),
    "PNG": (png, r"not a torch\.save file"),
    "safetensors": (safetensors_file, "safetensors"),
    "numpy archive": (arrays, r"data\.pkl"),
    "empty zip": (saved(b"PK\x05\x06" + bytes(18)), r"not a torch\.save file"),
    "start of a zip": (saved(b"PK\x03\x04"), "truncated"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_kind_of_file_is_explained(path: Path, kind: str) -> None:
    make, message = OTHER_FILES[kind]
    make(path)
    refused(path, rf"file\.pth .*{message}")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"model\.safetensors.*save_pretrained"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="folder"), archive.open_archive(tmp_path):
        pass
