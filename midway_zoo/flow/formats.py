"""Optical flow files, with NaN for invalid pixels; sizes are checked before anything of that size is allocated."""

import tokenize
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.errors import InputError, InputTypeError, MissingExtraError, MissingFileError
from midway_zoo.extras import install_command
from midway_zoo.files import atomic
from midway_zoo.flow.png16 import MOST_COMPRESSED, read_png16, write_png16
from midway_zoo.reading import stand_in

Array: TypeAlias = npt.NDArray[np.float32]
"""(H, W, 2), as files hold it."""

_FLO_MAGIC = b"PIEH"
_FLO_UNKNOWN = 1e9  # Middlebury: a component above this means the vector is unknown
_KITTI_ZERO, _KITTI_STEPS = 2**15, 64  # value = flow * steps + zero


def read_flow(path: str | PathLike[str]) -> Tensor:
    """Read a flow field.

    Args:
        path: the ending says which format.

            - ``.flo``: Middlebury, Sintel, FlyingChairs. A component above 1e9 makes the vector invalid.
            - ``.png``: KITTI, 16-bit, in steps of 1/64 pixel. Where the third channel is 0, the vector is invalid.
            - ``.pfm``: FlyingThings. The third channel is ignored.
            - ``.flo5``: Spring, HDF5 (needs the ``flow`` extra); Spring's flow has twice the images' resolution, and
              is returned as it is.
            - ``.npy``: TartanAir, float (H, W, 2).

    Returns:
        (2, H, W) float32 in pixels, channel 0 = x to the right, 1 = y down; NaN = invalid.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if the format is unknown or the file is malformed.
        MissingExtraError: for ``.flo5`` without h5py.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"there is no flow file {path}.")
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path.name}: flow is read from {_known('and')} files.")
    try:
        values = _FORMATS[path.suffix.lower()][0](path)
    except InputError as error:
        if problem := stand_in(path):
            raise InputError(f"{path.name} {problem}") from error
        raise
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def write_flow(path: str | PathLike[str], flow: Tensor, *, overwrite: bool = False) -> None:
    """Write a flow field.

    Args:
        path: the ending decides, as in :func:`read_flow`.
        flow: (2, H, W) in pixels; NaN = invalid. ``.flo`` and ``.png`` know invalid vectors only, not components.
            ``.png`` holds [-512, 512) pixels, rounded to 1/64.
        overwrite: replace an existing file.

    Raises:
        InputTypeError: for anything but a tensor.
        InputError: for another shape or ending, or values that a ``.png`` cannot hold.
        OutputExistsError: if the file exists and ``overwrite`` is false.
        MissingFileError: if its folder does not exist.
        MissingExtraError: for ``.flo5`` without h5py.
    """
    path = Path(path)
    if not isinstance(flow, Tensor):
        raise InputTypeError(f"{type(flow).__name__} is not a flow field: a float tensor (2, H, W) is expected.")
    if flow.ndim != 3 or flow.shape[0] != 2 or not flow.is_floating_point() or 0 in flow.shape:
        raise InputError(f"flow of shape {tuple(flow.shape)}, {flow.dtype}: float (2, H, W) is expected.")
    check_ending(path)
    values = flow.detach().float().cpu().permute(1, 2, 0).contiguous().numpy()
    with atomic(path, overwrite=overwrite) as temporary:
        _FORMATS[path.suffix.lower()][1](temporary, values)


def check_ending(path: Path, also: Sequence[str] = ()) -> None:
    """Raise :class:`InputError` unless :func:`write_flow` knows the ending, or the caller does."""
    if path.suffix.lower() not in (*_FORMATS, *also):
        raise InputError(f"{path.name}: flow is written to {_known('or', also)} files.")


def _known(conjunction: str, also: Sequence[str] = ()) -> str:
    *first, last = (*_FORMATS, *also)
    return f"{', '.join(first)} {conjunction} {last}"


def _read_flo(path: Path) -> Array:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] != _FLO_MAGIC:
            raise InputError(f"{path.name} is not a .flo file: it does not start with {_FLO_MAGIC!r}.")
        width, height = (int(side) for side in np.frombuffer(header, "<i4", offset=4))
        if width < 1 or height < 1 or size != 12 + width * height * 8:
            raise InputError(f"{path.name}: header says {width} x {height}, which does not fit its {size} bytes.")
        values = np.frombuffer(file.read(), "<f4").reshape(height, width, 2).astype(np.float32)
    values[(np.abs(values) > _FLO_UNKNOWN).any(axis=2)] = np.nan
    return values


def _write_flo(path: Path, values: Array) -> None:
    header = _FLO_MAGIC + np.array([values.shape[1], values.shape[0]], dtype="<i4").tobytes()
    unknown = np.isnan(values).any(axis=2, keepdims=True)
    path.write_bytes(header + np.where(unknown, 1e10, values).astype("<f4").tobytes())


def _read_png(path: Path) -> Array:
    pixels = read_png16(path)
    values = ((pixels[:, :, :2].astype(np.float32) - _KITTI_ZERO) / _KITTI_STEPS).astype(np.float32)
    values[pixels[:, :, 2] == 0] = np.nan
    return values


def _write_png(path: Path, values: Array) -> None:
    valid = ~np.isnan(values.sum(axis=2, keepdims=True))
    steps = np.where(valid, np.round(values.astype(np.float64) * _KITTI_STEPS + _KITTI_ZERO), 0)
    if steps.min() < 0 or steps.max() > 65535:
        longest = float(np.nanmax(np.abs(values)))
        raise InputError(f"the flow reaches {longest:g} pixels, and .png holds [-512, 512); write .flo instead.")
    write_png16(path, np.concatenate([steps, valid], axis=2).astype(np.uint16))


def _read_pfm(path: Path) -> Array:
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.readline(4) != b"PF\n":
            raise InputError(f"{path.name} is not a colour .pfm file: its first line is not PF.")
        try:
            width, height = (int(side) for side in file.readline(64).split())
            scale = float(file.readline(64))
        except ValueError as error:
            raise InputError(f"{path.name}: its .pfm header has no width, height and scale.") from error
        if min(width, height) < 1 or size - file.tell() != width * height * 12 or not np.isfinite(scale) or scale == 0:
            raise InputError(
                f"{path.name}: header says {width} x {height}, scale {scale:g}, which does not fit its {size} bytes."
            )
        # The scale's sign is the byte order; its size is a unit of brightness, which flow does not have.
        values = np.frombuffer(file.read(), "<f4" if scale < 0 else ">f4").reshape(height, width, 3)
    return values[::-1, :, :2].astype(np.float32)


def _write_pfm(path: Path, values: Array) -> None:
    height, width = values.shape[:2]
    pixels = np.concatenate([values[::-1], np.zeros((height, width, 1))], axis=2)
    path.write_bytes(f"PF\n{width} {height}\n-1.0\n".encode() + pixels.astype("<f4").tobytes())


def _read_npy(path: Path) -> Array:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InputError(f"{path.name} is not a .npy file: it does not start with \\x93NUMPY.")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, TypeError, SyntaxError, tokenize.TokenError) as error:
        # NumPy parses the header as Python: a damaged one can fail in any of these ways.
        raise InputError(f"{path.name} is not a readable .npy file: {error}.") from error
    _check_array(path, values.shape, values.dtype)
    return np.array(values, dtype=np.float32)


def _write_npy(path: Path, values: Array) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _read_flo5(path: Path) -> Array:
    h5py = _import_h5py()
    try:
        with h5py.File(path, "r") as file:
            # A link could point to another file.
            if not isinstance(file.get("flow", getlink=True), h5py.HardLink) or not hasattr(file["flow"], "chunks"):
                raise InputError(f"{path.name} is not a .flo5 file: it holds no data set 'flow'.")
            flow = file["flow"]
            _check_array(path, flow.shape, flow.dtype)
            stored = flow.id.get_storage_size()
            if flow.is_virtual or flow.external or flow.size * flow.dtype.itemsize > stored * MOST_COMPRESSED:
                raise InputError(f"{path.name}: its {stored} stored bytes cannot hold a flow of shape {flow.shape}.")
            return np.array(flow[()], dtype=np.float32)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path.name} is not a readable .flo5 (HDF5) file: {error}.") from error


def _write_flo5(path: Path, values: Array) -> None:
    with _import_h5py().File(path, "w") as file:
        file.create_dataset("flow", data=values, compression="gzip", compression_opts=5)


def _check_array(path: Path, shape: Any, dtype: np.dtype[Any]) -> None:
    if shape is None or len(shape) != 3 or shape[2] != 2 or dtype.kind != "f" or 0 in shape:
        raise InputError(f"{path.name}: {dtype} array of shape {shape}; float (H, W, 2) is expected.")


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(f".flo5 files need h5py: {install_command('flow')}") from error
    return h5py


_FORMATS: dict[str, tuple[Callable[[Path], Array], Callable[[Path, Array], None]]] = {
    ".flo": (_read_flo, _write_flo),
    ".png": (_read_png, _write_png),
    ".pfm": (_read_pfm, _write_pfm),
    ".flo5": (_read_flo5, _write_flo5),
    ".npy": (_read_npy, _write_npy),
}
