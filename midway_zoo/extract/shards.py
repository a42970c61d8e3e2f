"""The files of results: rows of tensors as Parquet or safetensors; each file describes itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from midway_zoo.errors import CheckpointError, MissingExtraError
from midway_zoo.extract.compute import Row
from midway_zoo.extract.places import Results
from midway_zoo.extras import install_command
from midway_zoo.files import write_safetensors
from midway_zoo.reading import METADATA_KEY

FOLDER = "data"
_GROUP_BYTES = 2**24
"""Approximate size of a Parquet row group, which is read at once."""
_ABOUT = ("item", "chunk", "last", "first_frame", "frames", "height", "width")
_SHAPE = "_shape"


@dataclass(frozen=True)
class About:
    """Description of a shard, stored in it."""

    unit: int
    sequence: int
    """Index among the files of its unit, from 0."""
    facts: dict[str, Any]
    """How it was made: settings, model, digest of the weights, version."""
    failed: dict[str, str] = field(default_factory=dict)
    """Key of a failed item of the unit -> reason."""
    names: tuple[str, ...] = ()
    """Names of the tensors that rows may have."""


def shard_name(unit: int, sequence: int, ending: str, *, last: bool) -> str:
    """Name of a shard, such as part-000012-003.parquet; the last of its unit is part-000012-004-last.parquet."""
    return f"part-{unit:06}-{sequence:03}{'-last' if last else ''}.{ending}"


def parse_name(name: str) -> tuple[int, int, bool] | None:
    """(unit, sequence, whether it is the last of its unit) from the name of a shard; None for other files."""
    stem, _, ending = name.partition(".")
    parts = stem.split("-")
    if ending not in ("parquet", "safetensors") or len(parts) not in (3, 4) or parts[0] != "part":
        return None
    if not (parts[1].isdecimal() and parts[2].isdecimal() and parts[3:] in ([], ["last"])):
        return None
    return int(parts[1]), int(parts[2]), len(parts) == 4


def import_pyarrow() -> Any:
    """pyarrow with its Parquet reader, or :class:`MissingExtraError`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"Parquet needs pyarrow: {install_command('scale')}; or take safetensors (--format safetensors, in Python "
            f'format="safetensors") ({error}).'
        ) from error
    return pyarrow


# Writing.


def write_shard(path: Path, rows: Sequence[Row], about: About, ending: str) -> None:
    """Write a shard; ``ending`` is "parquet" or "safetensors"."""
    saved = asdict(about)
    if ending == "parquet":
        _write_parquet(path, rows, saved)
        return
    tensors = {f"{index}.{name}": values for index, row in enumerate(rows) for name, values in row.tensors.items()}
    saved["rows"] = [{name: getattr(row, name) for name in _ABOUT} for row in rows]
    write_safetensors(path, tensors, saved, overwrite=True)


def _write_parquet(path: Path, rows: Sequence[Row], saved: Mapping[str, Any]) -> None:
    arrow = import_pyarrow()
    names = saved["names"]
    schema = _schema(arrow, names, saved["facts"]["settings"]["dtype"], json.dumps(saved, sort_keys=True))
    # Neither a dictionary nor compression makes tensors of distinct numbers smaller, and both take time.
    plain = {name: "zstd" if name in _ABOUT or name.endswith(_SHAPE) else "none" for name in schema.names}
    compressions = {f"{name}.list.element" if _is_list(schema, name) else name: kind for name, kind in plain.items()}
    few = [name for name in compressions if compressions[name] == "zstd"]
    with arrow.parquet.ParquetWriter(path, schema, compression=compressions, use_dictionary=few) as writer:
        for group in _groups(rows):
            columns = [arrow.array([getattr(row, name) for row in group], schema.field(name).type) for name in _ABOUT]
            for name in names:
                columns += _columns(arrow, [row.tensors.get(name) for row in group], schema.field(name).type)
            writer.write_table(arrow.table(columns, schema=schema))


def _is_list(schema: Any, name: str) -> bool:
    return str(schema.field(name).type).startswith("list")


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    held = 0
    for row in rows:
        if group and held + row.bytes > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(row)
        held += row.bytes
    if group:
        yield group


def _schema(arrow: Any, names: Sequence[str], dtype: str, metadata: str) -> Any:
    """The schema, which is the same for all shards of an extraction, whatever their rows hold."""
    numbers = {"float32": arrow.float32(), "float16": arrow.float16(), "bfloat16": arrow.float32()}
    own = {"pts_seconds": arrow.float64(), "pair_pts_seconds": arrow.float64(), "concealed": arrow.bool_()}
    kinds = (arrow.string(), arrow.int32(), arrow.bool_(), arrow.int64(), *[arrow.int32()] * 3)
    fields = [arrow.field(name, kind, nullable=False) for name, kind in zip(_ABOUT, kinds, strict=True)]
    for name in names:
        fields += [arrow.field(name, arrow.list_(own.get(name, numbers[dtype])))]
        fields += [arrow.field(name + _SHAPE, arrow.list_(arrow.int32()))]
    return arrow.schema(fields, metadata={METADATA_KEY: metadata})


def _columns(arrow: Any, values: Sequence[Tensor | None], kind: Any) -> list[Any]:
    """Values and shapes of one tensor of some rows."""
    shapes = arrow.array([None if one is None else list(one.shape) for one in values], arrow.list_(arrow.int32()))
    arrays = [_numpy(one) for one in values if one is not None]
    flat = np.concatenate(arrays) if arrays else np.empty(0, kind.value_type.to_pandas_dtype())
    ends = np.cumsum([0 if one is None else one.numel() for one in values])
    # A null offset marks a row without values, as Arrow expects.
    starts = [None if one is None else int(end) - one.numel() for one, end in zip(values, ends, strict=True)]
    offsets = arrow.array([*starts, int(ends[-1])], arrow.int32())
    return [arrow.ListArray.from_arrays(offsets, arrow.array(flat, kind.value_type)), shapes]


def _numpy(tensor: Tensor) -> Any:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().reshape(-1).numpy()


# Reading.


def read_about(results: Results, name: str) -> tuple[About, list[dict[str, Any]]]:
    """Description of a shard and of its rows, without reading tensors.

    Raises:
        CheckpointError: if it is not a shard, or damaged.
    """
    with results.open(f"{FOLDER}/{name}") as file, _Naming(name):
        if name.endswith(".parquet"):
            parquet = import_pyarrow().parquet.ParquetFile(file)
            saved = json.loads(parquet.schema_arrow.metadata[METADATA_KEY.encode()])
            rows = parquet.read(columns=list(_ABOUT)).to_pylist()
        else:
            saved = _safetensors_metadata(file)
            rows = saved.pop("rows")
    return About(**{**saved, "names": tuple(saved["names"])}), rows


def read_rows(results: Results, name: str) -> Iterator[Row]:
    """The rows of a shard with their tensors, a row group at a time.

    Raises:
        CheckpointError: if it is not a shard.
    """
    with results.open(f"{FOLDER}/{name}") as file, _Naming(name):
        if name.endswith(".parquet"):
            parquet = import_pyarrow().parquet.ParquetFile(file)
            names = json.loads(parquet.schema_arrow.metadata[METADATA_KEY.encode()])["names"]
            for group in range(parquet.num_row_groups):
                yield from _rows_of(parquet.read_row_group(group), names)
            return
        if results.local is not None:
            with safe_open(results.local / FOLDER / name, "pt") as opened:
                yield from _stored_rows(opened.metadata(), list(opened.keys()), opened.get_tensor)
            return
        metadata = _safetensors_metadata(file)
        file.seek(0)
        stored = load(file.read())
        yield from _stored_rows({METADATA_KEY: json.dumps(metadata)}, list(stored), stored.__getitem__)


def _rows_of(table: Any, names: Sequence[str]) -> Iterator[Row]:
    for index in range(table.num_rows):
        about = {name: table[name][index].as_py() for name in _ABOUT}
        tensors = {}
        for name in names:
            shape = table[name + _SHAPE][index].as_py()
            if shape is not None:
                values = table[name][index].values.to_numpy(zero_copy_only=False)
                tensors[name] = torch.from_numpy(np.array(values)).reshape(shape)
        yield Row(**about, tensors=tensors)


def _stored_rows(metadata: Mapping[str, str], keys: Sequence[str], get: Any) -> Iterator[Row]:
    of_row: dict[int, list[str]] = {}
    for key in keys:
        of_row.setdefault(int(key.partition(".")[0]), []).append(key)
    for index, about in enumerate(json.loads(metadata[METADATA_KEY])["rows"]):
        yield Row(**about, tensors={key.partition(".")[2]: get(key) for key in of_row.get(index, [])})


def _safetensors_metadata(file: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    saved: dict[str, Any] = json.loads(header["__metadata__"][METADATA_KEY])
    return saved


class _Naming:
    """Adds the name of the shard to errors in reading it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: object) -> None:
        if isinstance(error, KeyError | ValueError | TypeError) and not isinstance(error, CheckpointError):
            raise CheckpointError(
                f"{self._name} is not a shard of an extraction, or damaged ({error}); delete it to have it made again."
            ) from error
