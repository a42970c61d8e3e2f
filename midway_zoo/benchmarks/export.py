"""``midway-zoo benchmark export``: exported ONNX files in onnxruntime, against the network in torch."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import network_of, with_head
from midway_zoo.errors import ExportError, InputError
from midway_zoo.exporting.api import export
from midway_zoo.exporting.checking import samples, wanted_outputs
from midway_zoo.exporting.description import Exported, Request
from midway_zoo.exporting.files import Inputs, onnx_runner, require_onnx
from midway_zoo.models.network import MidwayNetwork

PEER = "network in torch"
FILE, SMALL = "float32 file", "int8 file"
_DTYPES: dict[str, Any] = {FILE: "fp32", SMALL: "int8"}


def measure(
    how: How,
    *,
    model: str = "midway_vits",
    parts: Sequence[str] = ("encoder",),
    batch: int = 8,
    size: int | None = None,
) -> Iterator[Comparison]:
    """A float32 and an int8 file of each part; both are compared with the network when they are written.

    Raises:
        InputError: for another device than the CPU.
        MissingExtraError: if ONNX is not installed (extra ``onnx``).
    """
    if how.device.type != "cpu":
        raise InputError("export is measured on the CPU: onnxruntime's other providers are not part of the extra.")
    require_onnx()
    for part in parts:
        network = with_head(model, how.device) if part == "flow" else network_of(model, how.device)
        with tempfile.TemporaryDirectory() as folder:
            yield _part(how, network, model, part, batch, size, Path(folder))


def _part(
    how: How, network: MidwayNetwork, model: str, part: Any, batch: int, size: int | None, folder: Path
) -> Comparison:
    """One part: the network, and each file that agrees with it."""
    notes, ways = list[str](), list[Way]()
    for name, dtype in _DTYPES.items():
        path = folder / f"{dtype}.onnx"
        try:
            written = export(network, path, part=part, size=size, dtype=dtype, dynamic=("batch",))
        except ExportError as error:
            notes.append(f"{name}: {error}")
            continue
        if not ways:
            run, given = _network(network, written, batch)
            ways.append(Way(PEER, run, counted=True))
        ways.append(Way(name, _file(path, given)))
        notes.append(
            f"{name}: {written.size_bytes / 1e6:.1f} MB, differs from the network by {written.difference:.1e}, "
            f"smallest cosine {written.cosine:.5f} (weights: {model})"
        )
    if not ways:
        raise ExportError(f"no file of {part} can be measured: {'; '.join(notes)}")
    shape = given[next(iter(given))].shape
    title = f"exported {part} of {network.config.encoder}, {batch} of {shape[3]} x {shape[2]}"
    found = compare(title, ways, how, unit="items", items=batch, peer=PEER)
    if {FILE, SMALL} <= {way.name for way in ways}:
        faster = found.row(FILE).seconds.median / found.row(SMALL).seconds.median
        notes.append(f"int8 is {faster:.2f} times as fast as float32 in onnxruntime")
    return found.noting(*notes)


def _network(network: MidwayNetwork, written: Exported, batch: int) -> tuple[Callable[[], object], Inputs]:
    """A function that runs the network like the file, and the file's inputs."""
    request = Request(
        part=written.part,
        format=written.format,
        dtype=written.dtype,
        size=written.size,
        dynamic=written.dynamic,
        blocks=network.config.feature_blocks,
    )
    few = samples(written.size, None)
    one, other = _repeated(few[:1], batch), _repeated(few[1:2], batch)
    _, given = wanted_outputs(network, request, one, other)

    def run() -> object:
        with torch.inference_mode():
            return wanted_outputs(network, request, one, other)

    return run, given


def _repeated(image: Tensor, batch: int) -> Tensor:
    return image.repeat(batch, 1, 1, 1)


def _file(path: Path, given: Inputs) -> Callable[[], object]:
    run = onnx_runner(path, torch.get_num_threads())
    return lambda: run(given)
