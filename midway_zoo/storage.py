"""A network as a folder or a file: safetensors with the configuration inside, every tensor accounted for."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from midway_zoo.config import MidwayConfig, override
from midway_zoo.errors import CheckpointError, MissingFileError, SingleEncoderError
from midway_zoo.reading import METADATA_KEY, stand_in

if TYPE_CHECKING:
    from midway_zoo.models.network import MidwayNetwork

EncoderName = Literal["teacher", "student"]
Described = Mapping[str, tuple[tuple[int, ...], Any]]
"""Name of a tensor -> its shape and dtype."""

# The dtypes that a network can be saved in; any other is refused as not floating point.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DYNAMICS = ("dynamics.", "flow_head.")  # absent from a network without dynamics
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def state_digest(network: "MidwayNetwork") -> str:
    """SHA-256 of the weights in use, wherever they came from: names, dtypes, shapes and values, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_folder(build: "type[MidwayNetwork]", folder: Path, **options: Any) -> "MidwayNetwork":
    """Read a folder written by :func:`save_network`; options as in :func:`load_file`."""
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise MissingFileError(
            f"{folder} holds no {WEIGHTS}. Pass a folder written by save_pretrained or `midway-zoo convert`, "
            "or the path of a released .pth file."
        )
    return load_file(build, weights, **options)


def load_file(
    build: "type[MidwayNetwork]",
    path: Path,
    *,
    encoder: str = "teacher",
    paired: bool | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> "MidwayNetwork":
    """Read a ``model.safetensors`` written by :func:`save_network`.

    Args:
        build: the class of the network, :class:`~midway_zoo.MidwayNetwork`, which itself imports this module.
        path: the file.
        encoder: for a paired network read as one with a single encoder: which of the two.
        paired: None: as saved; False: read a paired network with one encoder; True: require both.
        overrides: fields of the configuration to change; with ``dynamics=False`` the encoder alone is read.

    Raises:
        MissingFileError: if there is no such file.
        CheckpointError: if it is damaged, was not written by this package, or does not match its configuration.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            saved = _saved_config(file.metadata() or {}, path)
            stored = saved["provenance"].get("encoder")
            names = {name: name for name in file.keys()}  # noqa: SIM118  (no mapping)
            config = MidwayConfig.from_dict(saved["config"])
            if paired and not config.paired:
                raise SingleEncoderError(
                    f"{path.name} holds one encoder; paired=True needs a file that was saved with both."
                )
            if config.paired and paired is False:
                config = MidwayConfig.from_dict({**saved["config"], "paired": False})
                names = {ours: theirs for theirs in names if (ours := _unpaired(theirs, encoder)) is not None}
            elif not config.paired and encoder != "teacher" and stored not in (encoder, None):
                raise CheckpointError(f"{path.name} holds the {stored} encoder; encoder={encoder!r} is not in it.")
            config = override(config, overrides or {})
            if not config.dynamics:
                names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(_DYNAMICS)}
            _check_depths(config, names, path)
            slices = {ours: file.get_slice(theirs) for ours, theirs in names.items()}
            found = {}
            for ours, part in slices.items():
                kind = part.get_dtype()
                found[ours] = (tuple(part.get_shape()), _DTYPES.get(kind, kind))
            network = assemble(
                empty_network(build, config), found, lambda name: file.get_tensor(names[name]), path.name
            )
    except SafetensorError as error:
        problem = stand_in(path) or f"is not a valid safetensors file: {error}. Get the file again."
        raise CheckpointError(f"{path.name} {problem}") from error
    network.provenance = {**saved["provenance"]}
    if saved["config"].get("paired") and not config.paired:
        network.provenance["encoder"] = encoder
    return network


def _check_depths(config: MidwayConfig, names: Mapping[str, str], path: Path) -> None:
    """Block counts that disagree with the tensors are refused before blocks are built."""
    wanted = [(config.depth, "encoder.blocks.")]
    if config.dynamics:
        level = config.levels[-1]
        wanted.append((config.midway_depth, f"dynamics.midway.{level}."))
        wanted.append((config.forward_depth, f"dynamics.forward_dynamics.{level}.blocks."))
    for depth, prefix in wanted:
        blocks = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
        if len(blocks) != depth:
            raise CheckpointError(f"{path.name}: its configuration wants {depth} of {prefix}*, it has {len(blocks)}.")


def _unpaired(name: str, encoder: str) -> str | None:
    """Name in a single-encoder network of a tensor of a paired one; None for the encoder left out."""
    room, _, inner = name.partition(".")
    if room not in ("encoder", "target_encoder"):
        return name
    chosen = "target_encoder" if encoder == "teacher" else "encoder"
    return f"encoder.{inner}" if room == chosen else None


def _saved_config(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(metadata[METADATA_KEY])
        if isinstance(saved["config"], dict) and isinstance(saved["provenance"], dict):
            return dict(saved)
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    hint = ""
    if (path.parent / CONFIG).is_file() and '"architecture"' in (path.parent / CONFIG).read_text("utf-8", "replace"):
        hint = (
            f" It looks like an encoder alone: timm.create_model('local-dir:{path.parent}', pretrained=True) reads it."
        )
    raise CheckpointError(f"{path.name} was not written by midway-zoo: it carries no network configuration.{hint}")


def empty_network(build: "type[MidwayNetwork]", config: MidwayConfig) -> "MidwayNetwork":
    """A network of the class ``build`` without memory (on the meta device), to be filled by :func:`assemble`."""
    with torch.device("meta"):
        return build(config)


def assemble(
    network: "MidwayNetwork",
    found: Described,
    read: Callable[[str], torch.Tensor],
    name: str,
    *,
    dtype: torch.dtype | None = None,
) -> "MidwayNetwork":
    """Fill an empty network tensor by tensor; the result is in evaluation mode on the CPU.

    Args:
        network: from :func:`empty_network`.
        found: shape and dtype of every tensor that the file offers, by our names.
        read: reads one of them.
        name: what to call the file in messages.
        dtype: of the network's tensors; None: half precision where all tensors have the same, else float32.

    Raises:
        CheckpointError: naming the tensor, if one is missing, unexpected, of another shape, not
            floating point, or holds NaN or infinity.
    """
    expected = network.state_dict()
    check_tensors({key: tuple(value.shape) for key, value in expected.items()}, found, name)
    kinds = {kind for _, kind in found.values()}
    # One precision throughout, or the parts could not run together; double precision is of no use for inference.
    half = len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16}
    dtype = dtype or (kinds.pop() if half else torch.float32)
    state = {}
    for key in expected:
        tensor = read(key)
        if not _finite(tensor):
            raise CheckpointError(
                f"{name}: tensor {key} holds NaN or infinity; the training diverged or the file is damaged."
            )
        state[key] = tensor.to(dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def _finite(tensor: torch.Tensor) -> bool:
    """Whether there is neither NaN nor infinity: either shows in the sum, which reads once and allocates nothing.

    A sum of large numbers may overflow too; only then is each one tested.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_tensors(expected: Mapping[str, tuple[int, ...]], found: Described, name: str) -> None:
    """Raise :class:`CheckpointError` unless ``found`` is exactly ``expected``, in names, shapes and kind."""
    for kind, names in (("misses", expected.keys() - found.keys()), ("has unexpected", found.keys() - expected.keys())):
        if names:
            shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise CheckpointError(f"{name} {kind} {len(names)} tensor(s): {shown}.")
    for key, shape in expected.items():
        size, dtype = found[key]
        if tuple(size) != tuple(shape):
            raise CheckpointError(f"{name}: tensor {key} has shape {list(size)}, expected {list(shape)}.")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise CheckpointError(f"{name}: tensor {key} is {dtype}, expected floating point.")
