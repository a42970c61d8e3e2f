"""Files of results: what goes in comes out, and names say where it belongs."""

from pathlib import Path

import pytest
import torch

from midway_zoo.errors import CheckpointError, MissingExtraError
from midway_zoo.extract import Settings, extract, shards
from midway_zoo.extract.compute import Row
from midway_zoo.extract.places import Results
from midway_zoo.extract.progress import is_complete
from midway_zoo.extract.shards import About, parse_name, read_about, read_rows, shard_name, write_shard

FORMATS = ("parquet", "safetensors")


def about(dtype: str = "float32") -> About:
    names = ("pts_seconds", "concealed", "cls", "flow")
    return About(3, 1, {"settings": {"dtype": dtype}, "weights_sha256": "ab"}, {"bad.mp4": "it is bad"}, names)


def some_rows(dtype: torch.dtype = torch.float32) -> list[Row]:
    """Four, of which three lack times, one lacks the flow, and one has flow of no pairs."""
    torch.manual_seed(3)
    values = {"cls": torch.randn(2, 4).to(dtype), "flow": torch.randn(1, 2, 5, 6).to(dtype)}
    timed = {"pts_seconds": torch.tensor([0.0, 1 / 30], dtype=torch.float64), "concealed": torch.tensor([False, True])}
    return [
        Row("a", 0, False, 0, 2, 5, 6, {**timed, **values}),
        Row("ä/b.mp4", 0, True, 0, 2, 5, 6, {name: one.clone() for name, one in values.items()}),
        Row("c", 7, True, 448, 1, 5, 6, {"cls": values["cls"][:1] + 1, "flow": torch.empty(0, 2, 5, 6, dtype=dtype)}),
        Row("d", 0, True, 0, 1, 5, 6, {"cls": torch.randn(1, 4).to(dtype)}),
    ]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip(tmp_path: Path, form: str, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(shards, "_GROUP_BYTES", 200)
    (tmp_path / "data").mkdir()
    name, given = shard_name(3, 1, form, last=True), some_rows(getattr(torch, dtype))
    write_shard(tmp_path / "data" / name, given, about(dtype), form)
    results = Results(str(tmp_path))
    said, short = read_about(results, name)
    assert said == about(dtype)
    assert [(row["item"], row["chunk"], row["last"]) for row in short] == [(r.item, r.chunk, r.last) for r in given]
    found = list(read_rows(results, name))
    for row, expected in zip(found, given, strict=True):
        assert (row.item, row.first_frame, row.height) == (expected.item, expected.first_frame, expected.height)
        assert row.tensors.keys() == expected.tensors.keys()
        for key, values in expected.tensors.items():
            wider = values.float() if (form, values.dtype) == ("parquet", torch.bfloat16) else values
            assert row.tensors[key].dtype == wider.dtype
            assert torch.equal(row.tensors[key], wider)


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows(tmp_path: Path, form: str) -> None:
    """Of a unit all of whose items failed."""
    (tmp_path / "data").mkdir()
    name = shard_name(0, 0, form, last=True)
    write_shard(tmp_path / "data" / name, [], about(), form)
    assert read_about(Results(str(tmp_path)), name) == (about(), [])
    assert list(read_rows(Results(str(tmp_path)), name)) == []


@pytest.mark.parametrize("form", FORMATS)
def test_damaged(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    name = shard_name(0, 0, form, last=True)
    (tmp_path / "data" / name).write_bytes(b"\x08\0\0\0\0\0\0\0{}      no shard")
    with pytest.raises(CheckpointError, match=name):
        read_about(Results(str(tmp_path)), name)


def test_names() -> None:
    assert shard_name(12, 3, "parquet", last=True) == "part-000012-003-last.parquet"
    assert parse_name("part-000012-003-last.parquet") == (12, 3, True)
    assert parse_name("part-1234567-1000.safetensors") == (1234567, 1000, False)
    for other in ("part-1-2.txt", "part-a-2.parquet", "part-1-2-first.parquet", "index.json", "part-1.parquet"):
        assert parse_name(other) is None


def test_complete() -> None:
    names = [shard_name(0, sequence, "parquet", last=sequence == 2) for sequence in range(3)]
    assert is_complete(names)
    assert not is_complete(names[:2])
    assert not is_complete(names[1:])
    assert not is_complete([])


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch) -> None:
    """Said before anything else is done, with a way round it."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"--format safetensors, in Python format=\"safetensors\""):
        extract("midway_nano.scenes", tmp_path, tmp_path / "out", Settings())
