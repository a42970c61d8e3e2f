"""Writing a file: whole or not at all, nothing overwritten unasked, the same bytes for the same content."""

import errno
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from midway_zoo.errors import InputError, MissingFileError, OutputExistsError
from midway_zoo.files import atomic, write_json, write_png, write_safetensors


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Stop(BaseException):
    """As KeyboardInterrupt: no Exception."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Stop()], ids=["disk full", "interrupt"])
@pytest.mark.parametrize("existing", [True, False], ids=["old file", "no file"])
def test_failed_write_leaves_what_was_there(tmp_path: Path, error: BaseException, existing: bool) -> None:
    path = tmp_path / "result.bin"
    if existing:
        path.write_bytes(b"old")
    before = listing(tmp_path)
    with pytest.raises(type(error)), atomic(path, overwrite=True) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        assert listing(tmp_path) == before | {temporary.name: b"half"}
        raise error
    assert listing(tmp_path) == before


def test_tensors_that_do_not_fit_say_why_by_errno(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk, which takes the same path."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write_safetensors(tmp_path / "large.safetensors", {"a": torch.zeros(1000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert listing(tmp_path) == {}


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with atomic(path, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == tmp_path, "a rename is atomic only within one file system"
    assert listing(tmp_path) == {"result.bin": b"new"}


def test_body_that_removes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with pytest.raises(OSError), atomic(path, overwrite=True) as temporary:  # noqa: PT011
        temporary.unlink()
    assert listing(tmp_path) == {"result.bin": b"old"}


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    """Not on the order of names, nor on safetensors' hash map, which is another one each time."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    for number in range(8):
        write_safetensors(tmp_path / f"{number}", tensors, {"x": 1, "y": {"p": 1, "q": 2}})
        write_safetensors(tmp_path / f"{number}b", dict(reversed(tensors.items())), {"y": {"q": 2, "p": 1}, "x": 1})
    assert len(set(listing(tmp_path).values())) == 1


def write_as_text(path: Path, overwrite: bool) -> None:
    write_json(path, {"colour": "größer"}, overwrite=overwrite)


def write_as_tensors(path: Path, overwrite: bool) -> None:
    write_safetensors(path, {"weight": torch.ones(2, 3).t()}, {"a": 1}, overwrite=overwrite)


def write_as_picture(path: Path, overwrite: bool) -> None:
    write_png(path, torch.zeros(3, 4, 5, dtype=torch.uint8), overwrite=overwrite)


@pytest.mark.parametrize("write", [write_as_text, write_as_tensors, write_as_picture])
def test_nothing_is_overwritten_unasked(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"result exists; pass overwrite=True"):
        write(path, overwrite=False)
    assert listing(tmp_path) == {"result": b"old"}
    write(path, overwrite=True)
    assert listing(tmp_path).keys() == {"result"}
    assert path.read_bytes() != b"old"
    with pytest.raises(MissingFileError, match=r"folder .*nowhere.* does not exist"):
        write(tmp_path / "nowhere" / "result", overwrite=False)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {"value": {1, 2}}),
        lambda path: write_safetensors(path, {"weight": torch.ones(2)}, {"value": object()}),
        lambda path: write_png(path, torch.zeros(4, 5)),
    ],
    ids=["set in JSON", "object in metadata", "picture of floats"],
)
def test_value_that_cannot_be_written_leaves_nothing(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises((TypeError, ValueError, InputError)):
        write(tmp_path / "result")
    assert listing(tmp_path) == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_results_have_ordinary_permissions(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        write_json(tmp_path / "result.json", {})
        assert os.umask(umask) == umask, "writing leaves the umask alone"
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "result.json").stat().st_mode) == 0o666 & ~umask


def test_json_is_readable(tmp_path: Path) -> None:
    write_as_text(tmp_path / "result.json", overwrite=False)
    assert (tmp_path / "result.json").read_bytes() == '{\n  "colour": "größer"\n}\n'.encode()


def test_a_name_that_is_no_utf8_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"name": "caf\udce9.mp4"})
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == {"name": "caf\udce9.mp4"}


def test_what_the_system_refuses_has_its_errno(tmp_path: Path) -> None:
    """As of a full disk; safetensors has a text alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r".") as refused:
            write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(10**6)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
