"""``midway-zoo features``."""

import argparse
import glob
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.cli.work.outputs import Progress, check_suffix, description, kept_on_interrupt, taken_back
from midway_zoo.cli.work.running import TABLES, load, report
from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.files import write_png
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, is_animation
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.folders import frame_files, is_image, natural_key, suffix_of
from midway_zoo.inference.frames import Frame, FrameSource, open_frames
from midway_zoo.inference.images import to_tensor
from midway_zoo.inference.sources import VIDEO_SUFFIXES
from midway_zoo.inference.spool import TensorSpool
from midway_zoo.results import Features
from midway_zoo.visualize import features_to_image, side_by_side

_PICTURED = 64  # largest number of images in a picture, since their maps are kept in memory


def run_features(options: argparse.Namespace) -> None:
    """Write the features of all inputs in order, a batch at a time."""
    check_suffix(options.output, TABLES, "features")
    check_integer("batch_size", options.batch_size, 1)
    source, names = _inputs(options)
    network = load(options)
    progress, pictured, grids = Progress(), list[Tensor](), set[tuple[int, int]]()
    with TensorSpool(options.output) as spool:
        with kept_on_interrupt(progress), bar(total=source.total, unit=" images") as shown:
            while frames := list(islice(source, options.batch_size)):
                features = extract_features(
                    network,
                    [frame.image for frame in frames],
                    blocks=options.blocks,
                    backward=options.backward,
                    size=options.size,
                    batch_size=options.batch_size,
                )
                _add(spool, features, frames)
                grids |= set(features.grid) if isinstance(features.grid, list) else {features.grid}
                if options.picture:
                    pictured += list(features.maps[max(options.blocks)])[: _PICTURED - len(pictured)]
                progress.step(len(frames), frames[-1].pts_seconds)
                shown.update(len(frames))
        if not progress.done:
            raise InputError(f"{options.images[0]} holds no frame that could be taken.")
        inputs = {"images": names[: progress.done]} if names else {"video": str(options.images[0])}
        grid = grids.pop() if len(grids) == 1 else None
        facts = description(options, network, **inputs, blocks=options.blocks, grid=grid)
        with taken_back(options.picture):
            if options.picture:
                picture = side_by_side(list(features_to_image(pictured)))
                write_png(options.picture, picture, metadata=facts, overwrite=options.force)
            spool.write(facts, rows=progress.done, overwrite=options.force)
    progress.end(options.output, "images")
    report(options, f"Features({spool.describe(progress.done)}, grid={'various' if grid is None else grid})")


def _add(spool: TensorSpool, features: Features, frames: list[Frame]) -> None:
    spool.add("cls", features.cls)
    for block, maps in features.maps.items():
        spool.add(f"block{block}", maps)
    for level, maps in (features.backward or {}).items():
        spool.add(f"backward{level}", maps)
    times = [frame.pts_seconds for frame in frames if frame.pts_seconds is not None]
    if len(times) == len(frames):
        spool.add("pts_seconds", torch.tensor(times, dtype=torch.float64))
        spool.add("concealed", torch.tensor([frame.concealed for frame in frames]))


def _inputs(options: argparse.Namespace) -> tuple[FrameSource, list[str]]:
    """Images one at a time, and their names (none for a video)."""
    files: list[Path] = []
    if len(options.images) == 1 and is_animation(options.images[0]):
        return open_frames(options.images[0], stride=options.stride, fps=options.fps), []
    for path in options.images:
        if path.is_dir():
            files += _images_of(path)
        elif not path.exists() and glob.has_magic(str(path)):
            found = sorted(glob.glob(str(path), recursive=True), key=natural_key)  # noqa: PTH207
            files += [Path(name) for name in found if is_image(Path(name).name)]
            if not found:
                raise MissingFileError(f"no file matches {path}.")
        elif is_image(path.name) or len(options.images) > 1 or not path.is_file():
            files.append(path)
        else:
            return open_frames(path, stride=options.stride, fps=options.fps), []
    if options.fps is not None:
        raise InputError("--fps is for a video, whose frames have times; for images pass --stride.")
    if not files:
        raise InputError("no image files are named.")
    taken = files[:: options.stride]
    _check_files(taken)
    return FrameSource((Frame(to_tensor(path)) for path in taken), len(taken)), [str(path) for path in taken]


def _check_files(files: list[Path]) -> None:
    for path in files:
        film = suffix_of(path.name) in VIDEO_SUFFIXES and path.suffix.lower() not in ANIMATION_SUFFIXES
        if not path.is_file():
            raise MissingFileError(f"there is no {'video' if film else 'image'} {path}.")
        if film:
            raise InputError(
                f"{path} is a video: pass one alone, or images. `midway-zoo extract` takes many videos at once."
            )


def _images_of(folder: Path) -> list[Path]:
    found = [folder / name for name in frame_files(folder)]
    if not found:
        raise InputError(f"the folder {folder} holds no image files.")
    return found
