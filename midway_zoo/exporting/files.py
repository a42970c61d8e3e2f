"""Tracing a part, writing it in one of the formats, and running the file."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import ExportError, MidwayZooError, MissingExtraError
from midway_zoo.exporting.description import EXTRA_FILE, OPSET, Request
from midway_zoo.exporting.parts import Part
from midway_zoo.extras import install_command
from midway_zoo.reading import METADATA_KEY

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  (torch's exporter needs it)
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError:
    onnx = None

SUFFIXES = {"onnx": (".onnx",), "pt2": (".pt2",), "torchscript": (".ts", ".torchscript", ".pt")}
Inputs = Mapping[str, Tensor]
Facts = Mapping[str, Any]
Runner = Callable[[Inputs], dict[str, Tensor]]
_MOST = {"batch": 2**16, "rows": 2**9}
_AXES = {"flow": {2: "height", 3: "width"}, "confidence": {2: "height", 3: "width"}, "state": {2: "tokens"}}


def require_onnx() -> None:
    """Raise :class:`MissingExtraError` unless ONNX files can be written and run."""
    if onnx is None:
        raise MissingExtraError(f"ONNX needs onnx, onnxscript and onnxruntime: {install_command('onnx')}")


def write(part: Part, example: Inputs, request: Request, description: Facts, path: Path) -> None:
    """Trace a part with example inputs and write it.

    Raises:
        ExportError: if torch cannot trace or write it.
    """
    writer = {"onnx": _write_onnx, "pt2": _write_pt2, "torchscript": _write_torchscript}[request.format]
    with _quiet(), torch.no_grad():
        try:
            writer(part, dict(example), request, description, path)
        except (MidwayZooError, OSError):
            raise
        except Exception as error:  # exporters raise all kinds of errors
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            hint = ""
            if "size" in request.dynamic:
                hint = (
                    f" Leave out dynamic size; one fixed size can be any multiple of the patch, {_multiple(part)} px."
                )
            raise ExportError(
                f"torch {torch.__version__} cannot write {request.part} as {request.format}: {reason}.{hint}"
            ) from error


def _text(facts: Facts) -> str:
    return json.dumps(facts, sort_keys=True)


def _multiple(part: Part) -> int:
    return part.network.config.patch_size


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own warnings and messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # onnxscript prints
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _recorded(part: Part, example: dict[str, Tensor], dynamic: tuple[str, ...]) -> Any:
    """The part as a ``torch.export`` program."""
    patch = _multiple(part)
    batch = torch.export.Dim("batch", min=1, max=_MOST["batch"])
    rows, columns = (torch.export.Dim(name, min=1, max=_MOST["rows"]) for name in ("rows", "columns"))
    shapes: dict[str, dict[int, Any]] = {}
    for name in example:
        shapes[name] = {0: batch} if "batch" in dynamic else {}
        if "size" in dynamic:
            # The number of tokens follows from rows and columns; torch finds that relation itself.
            tokens = {2: torch.export.Dim.AUTO}
            shapes[name] |= tokens if name == "previous" else {2: patch * rows, 3: patch * columns}
    program = torch.export.export(part, (), example, dynamic_shapes=shapes if dynamic else None, strict=False)
    for node in program.graph.nodes:  # would hold paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def _write_pt2(part: Part, example: dict[str, Tensor], request: Request, facts: Facts, path: Path) -> None:
    program = _recorded(part, example, request.dynamic)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={EXTRA_FILE: _text(facts)})


def _write_torchscript(part: Part, example: dict[str, Tensor], request: Request, facts: Facts, path: Path) -> None:
    traced = torch.jit.trace(part, example_kwarg_inputs=example, strict=False, check_trace=False)
    with path.open("wb") as file:
        torch.jit.save(traced, file, _extra_files={EXTRA_FILE: _text(facts)})


def _write_onnx(part: Part, example: dict[str, Tensor], request: Request, facts: Facts, path: Path) -> None:
    program = _recorded(part, example, request.dynamic)
    written = torch.onnx.export(
        program,
        (),
        kwargs=example,
        dynamo=True,
        opset_version=OPSET,
        output_names=facts["outputs"],
        optimize=True,
        verbose=False,
    )
    assert written is not None
    model = written.model_proto
    found = next(entry.version for entry in model.opset_import if not entry.domain)
    if found != OPSET:
        raise ExportError(f"torch {torch.__version__} wrote opset {found}, not {OPSET}; use another version of torch.")
    _clean(model.graph, *model.functions)
    _name_axes(model.graph)
    if request.dtype != "int8":
        _save_onnx(model, facts, path)
        return
    plain = path.with_name(f"{path.name}.float")
    try:
        onnx.save(model, str(plain))
        # Weights have 7 bits, since x86 CPUs without VNNI add products of activation and weight in pairs of 16 bits, in
        # which 8 bits overflow in silence. Not the convolution: patch embedding is cheap, and sensitive to rounding.
        quantize_dynamic(plain, path, ["MatMul"], per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    finally:
        plain.unlink(missing_ok=True)
    _save_onnx(onnx.load(str(path)), facts, path)


def _save_onnx(model: Any, facts: Facts, path: Path) -> None:
    del model.metadata_props[:]
    licence = {"model_license": str(facts["license"])} if facts["license"] else {}  # ONNX's own name for it
    for key, value in {METADATA_KEY: _text(facts), **licence}.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "midway-zoo", facts["midway_zoo"]
    onnx.save(model, str(path))


def _clean(graph: Any, *functions: Any) -> None:
    """Remove the exporter's debugging information, which includes file names of this machine."""
    values = (graph, *graph.initializer, *graph.input, *graph.output, *functions)
    for item in (*values, *graph.node, *(node for function in functions for node in function.node)):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for whole in (graph, *functions):
        if hasattr(whole, "value_info"):
            del whole.value_info[:]


def _name_axes(graph: Any) -> None:
    for value in (*graph.input, *graph.output):
        axes = _AXES.get(value.name, {2: "rows", 3: "columns"} if value.name.startswith("block") else {})
        if value.name in ("images", "source", "target"):
            axes = {2: "height", 3: "width"}
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = "batch" if axis == 0 else axes.get(axis, "tokens")


def runner(path: Path, request: Request) -> Runner:
    """A function that runs a written file on the CPU."""
    if request.format == "onnx":
        return onnx_runner(path)
    content = io.BytesIO(path.read_bytes())
    with _quiet():
        module: Any = torch.export.load(content).module() if request.format == "pt2" else torch.jit.load(content)

    def run(given: Inputs) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(module(**given))

    return run


def onnx_runner(path: Path, threads: int = 0) -> Runner:
    """A function that runs an ONNX file on the CPU.

    Args:
        path: path of the file.
        threads: threads per operator; 0 for onnxruntime's own choice.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: {
        name: torch.from_numpy(value)
        for name, value in zip(names, session.run(names, {k: v.numpy() for k, v in given.items()}), strict=True)
    }
