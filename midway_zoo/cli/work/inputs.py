"""What a command reads, file by file: none of it is ever overwritten, with ``--force`` neither."""

import glob
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

from midway_zoo.errors import InputError
from midway_zoo.inference.folders import frame_files

_OF_MODELS = ("config.json", "*.safetensors", "best.json", "encoder/*", "checkpoints/step_*/*")
"""What an exported folder or a training run is read from."""


def check_not_inputs(outputs: Iterable[Path], *inputs: "str | PathLike[str] | None") -> None:
    """Raise :class:`InputError` if writing one of the outputs would replace something that is read.

    Args:
        outputs: files or folders that will be written.
        *inputs: files, folders of frames or of a model, or patterns. What names no file, such as a model of the zoo,
            is left out.
    """
    present = {path: mark for path in outputs if (mark := _mark(path)) is not None}
    if not present:
        return
    read = {_mark(path) for given in inputs if given is not None for path in _read(Path(given))}
    for path, mark in present.items():
        if mark in read:
            raise InputError(f"{path} is an input; it is never overwritten. Choose another name for the output.")


def _read(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path
        yield from (path / name for name in frame_files(path))
        for pattern in _OF_MODELS:
            yield from path.glob(pattern)
    elif not path.exists() and glob.has_magic(str(path)):
        for name in glob.glob(str(path), recursive=True):  # noqa: PTH207 (Path.glob takes no absolute pattern)
            yield from _read(Path(name))
    else:
        yield path


def _mark(path: Path) -> tuple[int, int] | None:
    """Tells a file by whatever name, also that of a link; None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
