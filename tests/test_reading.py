"""What people have in place of a file: pointers of git-lfs, pages of a web site, files of no length."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import midway_zoo as mz
from midway_zoo.analysis.retrieval import MotionIndex
from midway_zoo.errors import MidwayZooError
from midway_zoo.extract.items import tar_members
from midway_zoo.flow import read_flow
from midway_zoo.inference.frames import open_frames
from midway_zoo.inference.image_files import image_size, read_image, read_labels
from midway_zoo.inference.images import to_tensor
from midway_zoo.reading import read_safetensors, stand_in
from midway_zoo.readouts.head_files import read_exported
from midway_zoo.train.data.flow_pairs import _marks

STAND_INS = {
    # As git writes it where git-lfs is not installed.
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n",
        "git lfs pull",
    ),
    "page": (b'\n<!doctype html>\n<html lang="en"><head><title>Sign in</title></head></html>\n', "download link"),
    "old page": (b'<HTML><HEAD><meta http-equiv="refresh"></HEAD></HTML>', "download link"),
    "page with a drawing": (
        b'<!doctype html><link rel="icon" href="data:image/svg+xml,<svg ...></svg>">',
        "download link",
    ),
    "page of XHTML": (
        b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "">',
        "download link",
    ),
    "error of a bucket": (b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code></Error>', "link"),
    "bucket": (b'<?xml version="1.0"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/">', "link"),
    "remarks before a page": (b"<!-- saved from -->\n<!-- by a browser -->\n<html>", "link"),
    "nothing": (b"", "is empty. Get the file again"),
}

READERS: dict[str, Callable[[Path], Any]] = {
    "image.png": to_tensor,
    "image.jpg": image_size,
    "image.webp": read_image,
    "mask.png": read_labels,
    "occlusion.png": lambda path: _marks(path, torch.zeros(3, 4, 4)),
    "flow.flo": read_flow,
    "flow.png": read_flow,
    "flow.pfm": read_flow,
    "flow.npy": read_flow,
    "flow.flo5": read_flow,
    "video.mp4": lambda path: list(open_frames(path)),
    "weights.safetensors": mz.load_checkpoint,
    "other.safetensors": read_safetensors,
    "weights.pth": mz.load_checkpoint,
    "motion.safetensors": MotionIndex.load,
    "head.safetensors": lambda path: read_exported(path.parent, path.name, "backbone.safetensors", "segmentation"),
    "shard.tar": lambda path: list(tar_members(str(path))),
    "shard.tar.gz": lambda path: list(tar_members(str(path))),
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("name", READERS)
def test_readers_say_what_the_file_is(tmp_path: Path, name: str, kind: str) -> None:
    content, remedy = STAND_INS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(MidwayZooError, match=remedy) as caught:
        READERS[name](path)
    assert name in str(caught.value)
    assert ".." not in str(caught.value).replace(str(path), "")


def test_other_files_stand_for_themselves(tmp_path: Path) -> None:
    assert stand_in(tmp_path) is None
    assert stand_in(tmp_path / "absent") is None
    (tmp_path / "notes").write_text("version 2 of the notes, <html> is mentioned")
    assert stand_in(tmp_path / "notes") is None
    for remarks in (0, 20):
        text = '<?xml version="1.0"?>\n' + remarks * "<!-- drawn by a program that says so -->\n"
        (tmp_path / "logo.svg").write_text(text + "<svg><foreignObject><html></html></foreignObject></svg>")
        assert stand_in(tmp_path / "logo.svg") is None


def test_damaged_files_are_not_called_anything_else(tmp_path: Path) -> None:
    for name, read in READERS.items():
        path = tmp_path / name
        path.write_bytes(b"\x00\x01 not this format" * 40)
        with pytest.raises((MidwayZooError, tarfile.TarError)) as caught:
            read(path)
        assert "in place of the file" not in str(caught.value)
