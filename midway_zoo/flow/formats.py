"""Optical flow files: Middlebury ``.flo`` and NumPy ``.npy``, with NaN for invalid pixels."""

import tokenize
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.errors import InputError, InputTypeError, MissingFileError
from midway_zoo.files import atomic

_FLO_MAGIC = b"PIEH"
_FLO_UNKNOWN = 1e9  # Middlebury: a component above this means the vector is unknown


def read_flow(path: str | PathLike[str]) -> Tensor:
    """Read a flow field.

    Args:
        path: ``.flo`` (Middlebury) or ``.npy`` (float (H, W, 2)).

    Returns:
        (2, H, W) float32 in pixels, channel 0 = x to the right, 1 = y down; NaN = invalid.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if the format is unknown or the file is malformed.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no flow file {path}.")
    readers: dict[str, Callable[[Path], npt.NDArray[np.float32]]] = {".flo": _read_flo, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path.name}: flow is read from {' and '.join(readers)} files.")
    return torch.from_numpy(readers[path.suffix.lower()](path)).permute(2, 0, 1).contiguous()


def write_flow(path: str | PathLike[str], flow: Tensor, *, overwrite: bool = False) -> None:
    """Write a flow field.

    Args:
        path: ``.flo`` or ``.npy``; the ending decides.
        flow: (2, H, W) in pixels; NaN = invalid.
        overwrite: replace an existing file.

    Raises:
        InputTypeError: for anything but a tensor.
        InputError: for another shape or ending.
        OutputExistsError: if the file exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
    """
    path = Path(path)
    if not isinstance(flow, Tensor):
        raise InputTypeError(f"{type(flow).__name__} is no flow: a float tensor (2, H, W) is expected.")
    if flow.ndim != 3 or flow.shape[0] != 2 or not flow.is_floating_point() or 0 in flow.shape:
        raise InputError(f"flow of shape {tuple(flow.shape)}, {flow.dtype}: float (2, H, W) is expected.")
    suffix = path.suffix.lower()
    if suffix not in (".flo", ".npy"):
        raise InputError(f"{path.name}: flow is written to .flo or .npy files.")
    values = flow.detach().float().cpu().permute(1, 2, 0).contiguous().numpy()
    with atomic(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        if suffix == ".npy":
            np.save(file, values, allow_pickle=False)
            return
        file.write(_FLO_MAGIC + np.array([values.shape[1], values.shape[0]], dtype="<i4").tobytes())
        file.write(np.where(np.isnan(values).any(axis=2, keepdims=True), 1e10, values).astype("<f4").tobytes())


def _read_flo(path: Path) -> npt.NDArray[np.float32]:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] != _FLO_MAGIC:
            raise InputError(f"{path.name} is no .flo file: it does not start with {_FLO_MAGIC!r}.")
        width, height = (int(side) for side in np.frombuffer(header, "<i4", offset=4))
        # The sizes are compared before anything of that size is allocated.
        if width < 1 or height < 1 or size != 12 + width * height * 8:
            raise InputError(f"{path.name}: header says {width} x {height}, which does not fit its {size} bytes.")
        values = np.frombuffer(file.read(), "<f4").reshape(height, width, 2).astype(np.float32)
    values[(np.abs(values) > _FLO_UNKNOWN).any(axis=2)] = np.nan
    return values


def _read_npy(path: Path) -> npt.NDArray[np.float32]:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{path.name} is no .npy file: it does not start with \\x93NUMPY.")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        # NumPy parses the header as Python: a damaged one can fail in any of these ways.
        raise InputError(f"{path.name} is no readable .npy file: {error}.") from error
    if values.ndim != 3 or values.shape[2] != 2 or values.dtype.kind != "f" or 0 in values.shape:
        raise InputError(f"{path.name}: {values.dtype} array of shape {values.shape}; float (H, W, 2) is expected.")
    return np.array(values, dtype=np.float32)
