"""``midway_zoo.export``."""

import copy
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from midway_zoo.errors import ConfigError, InputError, nearest
from midway_zoo.exporting import checking, files
from midway_zoo.exporting.description import Exported, Request, describe
from midway_zoo.exporting.network import FollowedNetwork
from midway_zoo.exporting.parts import EncoderPart, FlowPart, MotionPart, NetworkPart, Part, StreamPart
from midway_zoo.files import atomic, check_output
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.features import check_blocks
from midway_zoo.inference.images import Images, target_size
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.registry import Model, resolve_network

_PARTS: dict[str, type[Part]] = {
    "encoder": EncoderPart,
    "motion": MotionPart,
    "flow": FlowPart,
    "stream": StreamPart,
    "network": NetworkPart,
}
_DTYPES = ("fp32", "fp16", "int8")
_DYNAMIC = ("batch", "size")


def export(
    model: Model,
    path: str | PathLike[str],
    *,
    format: Literal["onnx", "pt2", "torchscript"] | None = None,
    part: Literal["encoder", "motion", "flow", "stream", "network"] = "encoder",
    size: int | tuple[int, int] | None = None,
    dynamic: Sequence[Literal["batch", "size"]] = (),
    dtype: Literal["fp32", "fp16", "int8"] = "fp32",
    blocks: Sequence[int] | None = None,
    images: "Images | None" = None,
    check: bool = True,
    overwrite: bool = False,
    name: str | None = None,
) -> Exported:
    """Write a part of a network to a file that runs without this package.

    Inputs are float32 images (B, 3, H, W), RGB, in [0, 1], of the file's size: the file normalises images, but does
    not resize them. Outputs are named and float32. The file describes itself in JSON, in
    ``metadata_props["midway_zoo"]`` of ONNX and in the extra file "midway_zoo.json" of the other formats. The part is
    traced on the CPU, and runs on any device that its runtime supports.

    Args:
        model: a network, a pretrained name or a path.
        path: file to write; ``.onnx``, ``.pt2``, or ``.ts``, ``.torchscript`` or ``.pt`` for TorchScript.
        format: format of the file; None to infer it from the ending.
        part: "encoder": ``images`` -> ``cls`` (B, D) and ``block2`` ... (B, D, h, w).
            "motion": ``source``, ``target`` -> ``tokens`` (B, 10, C), ``level2``, ``level1`` and ``pooled`` (B, C).
            "flow": ``source``, ``target`` -> ``flow`` (B, 2, H, W) in pixels and ``confidence`` (B, 1, H, W), by the
            flow head on the whole image.
            "stream": ``images``, ``previous`` -> ``state`` (B, 4, 1 + h * w, D) and the outputs of "motion" since the
            previous frame. Each frame is encoded once: ``state`` is the ``previous`` of the next call; start with
            zeros. "network": ``source``, ``target`` -> everything that the dynamics computes, such as ``predictions2``.
        size: (height, width) or side in pixels, multiples of the patch; None for the native size, or for
            "flow" the size that the head was trained at.
        dynamic: "batch": any number of images. "size": any multiples of the patch, from two patches up; the file then
            resamples the position tables.
        dtype: data type of weights and arithmetic. "fp16" halves the file. "int8" (ONNX) quantises matrix products.
        blocks: encoder blocks of the part "encoder", 0-based; None for the blocks of the four feature levels.
        images: images on which the file is compared with the network; None for generated scenes.
        check: run the file on the CPU and compare: float32 within 1e-3, fp16 with a cosine of 0.999, int8 of 0.99.
        overwrite: replace an existing file.
        name: name of the model in the file's description; None for ``model`` if that is a name, else the architecture.

    Returns:
        A description of the file, and its difference from the network.

    Raises:
        InputError: for arguments that make no sense.
        ConfigError: for a part that the network does not have.
        OutputExistsError: if the file exists.
        MissingExtraError: if ONNX is not installed (extra ``onnx``).
        ExportError: if the part cannot be traced, or the file's outputs differ too much; nothing is written.
    """
    path = Path(path)
    network_given = resolve_network(model)
    request = _request(network_given, path, format, part, size, tuple(dynamic), dtype, blocks)
    check_output(path, overwrite=overwrite)
    if request.format == "onnx":
        files.require_onnx()
    network = copy.deepcopy(network_given).eval().to("cpu", torch.float32)
    images_to_compare = checking.samples(request.size, images) if check else None
    recorded = _part(network, request)
    example = checking.example_inputs(request, network.config.embed_dim, network.config.patch_size)
    with torch.no_grad():
        outputs = tuple(recorded(**example))
    if name is None and isinstance(model, str) and not Path(model).exists():
        name = model
    facts = describe(network_given, name, request, recorded.inputs, outputs)
    parity = None
    with atomic(path, overwrite=overwrite) as temporary:
        files.write(recorded, example, request, facts, temporary)
        if images_to_compare is not None:
            parity = checking.check(files.runner(temporary, request), network, request, images_to_compare)
    return Exported(
        path=str(path),
        format=request.format,
        part=part,
        dtype=dtype,
        size=request.size,
        dynamic=request.dynamic,
        inputs=recorded.inputs,
        outputs=outputs,
        size_bytes=path.stat().st_size,
        difference=None if parity is None else parity.difference,
        cosine=None if parity is None else parity.cosine,
        description=facts,
    )


def _part(network: MidwayNetwork, request: Request) -> Part:
    """The part, in its precision."""
    patch, normalise = network.config.patch_size, normaliser(network)
    if request.dtype == "fp16":
        network = copy.deepcopy(network).half()
    grid = None if "size" in request.dynamic else (request.size[0] // patch, request.size[1] // patch)
    followed = FollowedNetwork(network, grid, _PARTS[request.part].reads)
    if request.part == "encoder":
        return EncoderPart(followed, normalise.mean, normalise.std, request.blocks).eval()
    return _PARTS[request.part](followed, normalise.mean, normalise.std).eval()


def check_request(path: Path, format: str | None, part: str, dynamic: Sequence[str], dtype: str) -> str:
    """The format, after checks that need no network.

    Raises:
        InputError: for arguments that make no sense.
    """
    named = next((name for name, endings in files.SUFFIXES.items() if path.suffix.lower() in endings), None)
    chosen = format or named
    if chosen is None:
        endings = ", ".join(ending for all_ in files.SUFFIXES.values() for ending in all_)
        raise InputError(f"{path}: exported files end in one of {endings}; or pass a format.")
    for what, value, known in (("format", chosen, tuple(files.SUFFIXES)), ("part", part, tuple(_PARTS))):
        _check_one(what, value, known)
    _check_one("dtype", dtype, _DTYPES)
    for axis in dynamic:
        _check_one("dynamic", axis, _DYNAMIC)
    if named != chosen:
        raise InputError(f"{path}: {chosen} is written to {' or '.join(files.SUFFIXES[chosen])}.")
    if dtype == "int8" and chosen != "onnx":
        raise InputError(f"dtype='int8' is for onnx; {chosen} takes fp32 or fp16.")
    return chosen


def _check_one(what: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"{what}={value!r}: one of {', '.join(known)} is expected.{nearest(str(value), known)}")


def _request(
    network: MidwayNetwork,
    path: Path,
    format: str | None,
    part: str,
    size: int | tuple[int, int] | None,
    dynamic: tuple[str, ...],
    dtype: str,
    blocks: Sequence[int] | None,
) -> Request:
    chosen, config = check_request(path, format, part, dynamic, dtype), network.config
    if part != "encoder":
        network.require_dynamics()
        if blocks is not None:
            raise InputError(f"blocks={blocks!r} is for the part 'encoder'; {part} has outputs of its own.")
    if part == "flow" and network.flow_head is None:
        raise ConfigError(
            "this network has no flow head, so there is no part 'flow'. Fine-tune one (`midway-zoo train flow`), or "
            "take midway_nano.scenes, which has one; 'motion' works without."
        )
    native = config.flow_size if part == "flow" else config.img_size
    if size is None:
        sides = native
    else:
        wanted = size if isinstance(size, str | tuple | list) else (size, size)
        sides = target_size(*native, wanted, native, config.patch_size)
    if blocks is not None:
        check_blocks(blocks, config.depth - 1)
    taken = config.feature_blocks if blocks is None else tuple(blocks)
    return Request(
        part=part, format=chosen, dtype=dtype, size=sides, dynamic=tuple(dict.fromkeys(dynamic)), blocks=taken
    )
