"""``midway-zoo segment`` and ``midway-zoo eval segmentation``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from midway_zoo.cli.inference import device, size
from midway_zoo.cli.train import needs_extra, positive
from midway_zoo.errors import InputError, MissingFileError, OutputExistsError

if TYPE_CHECKING:
    from torch import Tensor

    from midway_zoo.readouts.segmentation import Segmenter

DATASETS = ("bdd100k", "cityscapes", "ade20k", "wtsem", "folder")
_FOLDER_FPS = 10.0  # of a folder of frames, which have no times
_MODEL = "folder that `midway-zoo train export` wrote from a segmentation run, or the run itself"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``segment``."""
    command = commands.add_parser(
        "segment",
        help="classes of the pixels of images or a video",
        description="Write masks of images as PNG files to a folder, each with an overlay picture; or write a video or "
        "a folder of frames with its classes in colours to an .mp4.",
        epilog="Example: midway-zoo segment exported/seg photo.jpg -o masks",
    )
    command.add_argument("model", metavar="CKPT", type=Path, help=_MODEL)
    command.add_argument("inputs", metavar="IMAGES|VIDEO", nargs="+", type=Path, help="images, folders, or one video")
    command.add_argument(
        *("-o", "--output"), required=True, type=Path, metavar="OUT", help="folder for masks, or an .mp4"
    )
    command.add_argument("--force", action="store_true", help="replace existing output files")
    command.add_argument("--no-overlays", action="store_true", help="masks alone")
    command.add_argument("--alpha", type=float, default=0.5, help="weight of the colours, default: %(default)s")
    command.add_argument(
        "--stride", type=positive, default=1, help="for a clip: take every n-th frame, default: %(default)s"
    )
    command.add_argument("--fps", type=float, help="for a video, instead of --stride: frames per second to take")
    _add_windows(command)
    command.set_defaults(run=_segment)


def add_eval_command(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``eval segmentation``."""
    command = tasks.add_parser(
        "segmentation",
        help="mIoU, mAcc and aAcc of a segmenter",
        description="Compare predicted classes with the ground truth over all pixels of a data set, and print a table "
        "of the classes.",
        epilog="Example: midway-zoo eval segmentation exported/seg --dataset bdd100k --root /data/bdd100k -o seg.json",
    )
    command.add_argument("model", metavar="CKPT", type=Path, help=_MODEL)
    command.add_argument("--dataset", required=True, choices=DATASETS, help="which layout ROOT has")
    command.add_argument("--root", required=True, type=Path, help="folder of the data set, or the one that contains it")
    command.add_argument("--split", choices=("train", "val"), default="val", help="default: %(default)s")
    command.add_argument("--limit", type=positive, metavar="N", help="at most N images, evenly spaced")
    command.add_argument(
        "-o", "--output", type=Path, metavar="RESULTS.json", help="also write the figures to this file"
    )
    command.add_argument("--overlays", type=Path, metavar="DIR", help="also write a picture of each image's classes")
    command.add_argument("--force", action="store_true", help="replace existing output files")
    _add_windows(command)
    command.set_defaults(run=_evaluate)


def _add_windows(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--size", type=size, help='shorter side that images are resized to, or "full"; default: as in training'
    )
    command.add_argument(
        "--window-stride",
        type=positive,
        metavar="PIXELS",
        help="distance of windows in pixels; default: two thirds of a window",
    )
    command.add_argument(
        "--batch-size", type=positive, default=8, help="windows per forward pass, default: %(default)s"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")


def _load(options: argparse.Namespace) -> Segmenter:
    """Load a segmenter from an export or a run; the latter needs the trainer."""
    from midway_zoo.readouts.segmenter_files import HEAD, load_segmenter

    if isinstance(options.size, tuple):
        raise InputError("--size: a shorter side such as 512, or full; images keep their proportions here.")
    if not options.model.exists():
        raise MissingFileError(f"there is no {options.model}: pass the {_MODEL}.")
    where = device(options.device)
    if (options.model / HEAD).is_file():
        return load_segmenter(options.model).to(where)
    needs_extra()
    from midway_zoo.train.checkpoints import run_checkpoint
    from midway_zoo.train.tasks.segmentation.model import segmenter_of_checkpoint

    run = run_checkpoint(options.model)
    if run is None:
        raise MissingFileError(f"{options.model} holds no {HEAD} and no checkpoint of a run: pass the {_MODEL}.")
    return segmenter_of_checkpoint(run).to(where)


def _evaluate(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_output, write_json
    from midway_zoo.readouts.labelled import find_labelled
    from midway_zoo.readouts.segmentation_evaluation import evaluate_segmenter

    if options.output:
        check_not_inputs([options.output], options.model)
        check_output(options.output, overwrite=options.force)
    files = find_labelled(options.dataset, options.root, options.split)
    segmenter = _load(options)
    if options.overlays:
        _make_folder(options.overlays, force=options.force)
    metrics = evaluate_segmenter(
        segmenter,
        files,
        limit=options.limit,
        size=options.size,
        stride=options.window_stride,
        batch_size=options.batch_size,
        overlays=options.overlays,
    )
    names = segmenter.config.names or files.classes.names or None
    if options.output:
        asked = {key: getattr(options, key) for key in ("dataset", "split", "limit", "size", "window_stride")}
        found = {
            "model": str(options.model),
            **asked,
            "images": min(options.limit or len(files.pairs), len(files.pairs)),
        }
        left_out = len(files.left_out)
        results = {**found, "left_out": left_out, "results": metrics.compute(), "classes": metrics.rows(names)}
        write_json(options.output, results, overwrite=options.force)
    sys.stdout.write(f"{metrics.table(names)}\n")


def _make_folder(folder: Path, *, force: bool) -> None:
    from midway_zoo.files import make_folder

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a folder is expected.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise OutputExistsError(f"{folder} holds files; choose another folder, or --force to write into it.")
    make_folder(folder)


def _segment(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_folder, make_folder

    if not 0 <= options.alpha <= 1:
        raise InputError(f"--alpha {options.alpha}: a number from 0 to 1.")
    if options.output.suffix.lower() == ".mp4":
        _to_video(options)
        return
    named = list(_pictures(options))
    ends = ("",) if options.no_overlays else ("", "_overlay")
    wanted = [options.output / f"{name}{end}.png" for name, _ in named for end in ends]
    twice = [path for path, count in Counter(wanted).items() if count > 1]
    if twice:
        raise InputError(f"two images would be written to {twice[0]}: segment images of the same name one by one.")
    check_not_inputs(wanted, *options.inputs, options.model)
    for path in wanted:
        if path.exists() and not options.force:
            raise OutputExistsError(f"{path} exists; choose another folder, or --force to replace it.")
    check_folder(options.output, of="masks", made=True)
    segmenter = _load(options)
    make_folder(options.output)
    total = _write_masks(options, segmenter, named)
    sys.stdout.write(f"{total} masks in {options.output}\n{_legend(segmenter)}")


def _pictures(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """(name, file) of every requested image."""
    from midway_zoo.inference.folders import frame_files, is_image

    for path in options.inputs:
        if path.is_dir():
            files = [path / name for name in frame_files(path)]
            if not files:
                raise InputError(f"the folder {path} holds no image files.")
            yield from ((file.stem, file) for file in files[:: options.stride])
        elif not path.exists():
            raise MissingFileError(f"there is no {path}.")
        elif is_image(path.name):
            yield path.stem, path
        else:
            raise InputError(f"{path} is not an image; a video is segmented to a video: -o {path.stem}_classes.mp4.")


def _write_masks(options: argparse.Namespace, segmenter: Segmenter, named: list[tuple[str, Path]]) -> int:
    from midway_zoo.bars import bar
    from midway_zoo.files import write_png
    from midway_zoo.inference.images import to_tensor
    from midway_zoo.readouts.segmenter_files import write_mask
    from midway_zoo.visualize import labels_overlay

    total, palette = 0, segmenter.config.palette
    for name, path in bar(named, unit=" images"):
        image = to_tensor(path)
        labels = _labels(options, segmenter, image)
        write_mask(options.output / f"{name}.png", labels, palette=palette, overwrite=options.force)
        if not options.no_overlays:
            picture = labels_overlay(image, labels, palette=palette, alpha=options.alpha)
            write_png(options.output / f"{name}_overlay.png", picture, overwrite=options.force)
        total += 1
    return total


def _labels(options: argparse.Namespace, segmenter: Segmenter, image: Tensor) -> Tensor:
    windows = {"size": options.size, "stride": options.window_stride, "batch_size": options.batch_size}
    found = segmenter.predict(image, **windows).labels
    return found[0]


def _to_video(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_output
    from midway_zoo.inference.video_writer import write_video

    if len(options.inputs) > 1:
        raise InputError(f"{options.output.name} is a video: pass one video or one folder of frames.")
    check_not_inputs([options.output], *options.inputs, options.model)
    check_output(options.output, overwrite=options.force)
    segmenter = _load(options)
    count = write_video(options.output, _shown(options, segmenter), overwrite=options.force)
    sys.stdout.write(f"{count} frames in {options.output}\n{_legend(segmenter)}")


def _shown(options: argparse.Namespace, segmenter: Segmenter) -> Iterator[tuple[Tensor, float, float]]:
    """Frames in colours, with the seconds from and to which each is shown: the last as long as the one before it."""
    import torch

    from midway_zoo.bars import bar
    from midway_zoo.inference.frames import open_frames
    from midway_zoo.visualize import labels_overlay

    waiting: tuple[Tensor, float] | None = None
    length = 1 / _FOLDER_FPS
    frames = open_frames(options.inputs[0], stride=options.stride, fps=options.fps)
    for number, frame in enumerate(bar(frames, total=frames.total, unit=" frames")):
        start = number / _FOLDER_FPS if frame.pts_seconds is None else frame.pts_seconds
        labels = _labels(options, segmenter, frame.image)
        picture = labels_overlay(frame.image, labels, palette=segmenter.config.palette, alpha=options.alpha)
        if waiting is not None:
            length = start - waiting[1]
            yield (*waiting, start)
        waiting = picture.to(torch.uint8), start
    if waiting is not None:
        yield (*waiting, waiting[1] + length)


def _legend(segmenter: Segmenter) -> str:
    """The classes by number and colour, a line each."""
    from midway_zoo.visualize import label_colours

    colours = label_colours(segmenter.config.palette)[: segmenter.config.classes].tolist()
    names = segmenter.config.names or [f"class {number}" for number in range(segmenter.config.classes)]
    rows = enumerate(zip(names, colours, strict=True))
    return "".join(
        f"{number:3} #{red:02x}{green:02x}{blue:02x} {name}\n" for number, (name, (red, green, blue)) in rows
    )
