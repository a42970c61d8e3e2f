"""The description of an exported file: its inputs, its outputs, and where the weights come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from midway_zoo.inference.batches import normaliser
from midway_zoo.manifest import entries
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import ShapeRepr
from midway_zoo.storage import state_digest
from midway_zoo.version import __version__

OPSET = 18
"""Opset of ONNX files: the lowest that the exporter writes, supported by runtimes since the end of 2022."""
EXTRA_FILE = "midway_zoo.json"
"""Name of the description among the extra files of a ``.pt2`` and a TorchScript file; in ONNX it is the key
"midway_zoo" of ``metadata_props``."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be exported."""

    part: str
    format: str
    dtype: str
    size: tuple[int, int]
    """(height, width) of the images; with dynamic size, the size used for tracing."""
    dynamic: tuple[str, ...]
    blocks: tuple[int, ...]
    """Encoder blocks of the part "encoder"."""


@dataclass(frozen=True, repr=False, eq=False)
class Exported(ShapeRepr):
    """A file that was written by :func:`midway_zoo.export`."""

    path: str
    format: str
    part: str
    dtype: str
    size: tuple[int, int]
    """(height, width) of the images; with dynamic size, the size used for tracing."""
    dynamic: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    size_bytes: int
    difference: float | None = None
    """Largest absolute difference from the network's own float32 outputs, relative to an output's largest absolute
    value if that is above 1; None if it was not checked."""
    cosine: float | None = None
    """Smallest cosine of an image's outputs with the network's own; None if it was not checked."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The description that is stored in the file."""


def describe(
    network: MidwayNetwork, name: str | None, request: Request, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, Any]:
    """The description, in JSON types. ``network`` is the given one, before any conversion."""
    normalise, patch = normaliser(network), network.config.patch_size
    source = network.provenance.get("source")
    released = {**next((entry for entry in entries().values() if entry.get("file") == source), {})} if source else {}
    return {
        "midway_zoo": __version__,
        "model": name or network.config.encoder,
        "weights_sha256": state_digest(network),
        "license": released.get("license"),
        "provenance": network.provenance,
        "part": request.part,
        "dtype": request.dtype,
        "opset": OPSET if request.format == "onnx" else None,
        "preprocessing": {
            "color_order": "RGB",
            "layout": "NCHW",
            "range": [0.0, 1.0],
            "normalisation": "inside",
            "mean": list(normalise.mean),
            "std": list(normalise.std),
            "size": list(request.size),
            "dynamic": list(request.dynamic),
            "multiple_of": patch,
            "interpolation": "bicubic",
        },
        "inputs": list(inputs),
        "outputs": list(outputs),
        "state": [4, 1 + request.size[0] // patch * (request.size[1] // patch), network.config.embed_dim]
        if request.part == "stream"
        else None,
        "config": network.config.to_dict(),
    }
