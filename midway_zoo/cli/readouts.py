"""Commands that evaluate frozen features: ``eval knn``, ``eval davis``, ``eval tracking`` and ``propagate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midway_zoo.cli.inference import device, load
from midway_zoo.cli.train import needs_extra, positive
from midway_zoo.cli.zoo import add_encoder_options
from midway_zoo.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from torch import Tensor

    from midway_zoo.models.network import MidwayNetwork
    from midway_zoo.readouts.backbone import Backbone
    from midway_zoo.readouts.propagation import PropagationOptions

_FOLDER_FPS = 10.0  # of a folder of frames, which have no times


def add_eval_commands(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommands of ``eval``."""
    _add_knn(tasks)
    _add_davis(tasks)
    _add_tracking(tasks)


def _add_knn(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = tasks.add_parser(
        "knn",
        help="k-nearest-neighbour classification of an image folder",
        description="Classify images by their nearest labelled neighbours among frozen class tokens. Features are "
        "computed once and cached on disk.",
        epilog="Example: midway-zoo eval knn timm:vit_small_patch16_224.dino --root /data/imagenet -o knn.json",
    )
    add_backbone(command)
    command.add_argument(
        "--root", required=True, type=Path, help="folder with train/CLASS and val/CLASS, or of CLASS folders to split"
    )
    command.add_argument("--k", type=_numbers, metavar="K[,K...]", default=None, help="default: 10,20,100,200")
    command.add_argument(
        "--temperature", type=float, default=0.07, help="temperature of the votes, default: %(default)s"
    )
    command.add_argument("--size", type=positive, help="side of the images in pixels; default: the backbone's own")
    command.add_argument(
        "--val-share", type=float, default=0.2, help="share of images held out when splitting, default: %(default)s"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the split, default: %(default)s")
    command.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder for cached features; default: in the user's cache"
    )
    command.add_argument("--batch-size", type=positive, default=64, help="default: %(default)s")
    command.add_argument("--workers", type=int, default=0, help="processes that read images; default: %(default)s")
    command.set_defaults(run=_knn)


def _add_davis(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = tasks.add_parser(
        "davis",
        help="DAVIS-2017: label propagation by similarity of features",
        description="Propagate the first mask of each sequence and print J, F and J&F in percent.",
        epilog="Example: midway-zoo eval davis midway_nano.scenes --root /data/DAVIS -o davis.json",
    )
    add_backbone(command)
    command.add_argument("--root", required=True, type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    command.add_argument("--split", default="val", help="default: %(default)s")
    command.add_argument("--limit", type=positive, metavar="N", help="evaluate only the first N sequences")
    command.add_argument("--masks", type=Path, metavar="DIR", help="also write the label maps, as SEQ/00000.png")
    _add_propagation(command)
    command.set_defaults(run=_davis)


def _add_tracking(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = tasks.add_parser(
        "tracking",
        help="point tracking, scored as in TAP-Vid",
        description="Track points through every clip of a folder and print average Jaccard, position and occlusion "
        "accuracy in percent. A point counts as occluded if tracking back does not return to its start.",
        epilog="Example: midway-zoo eval tracking midway_nano.scenes --root /data/clips --tracker flow -o points.json",
    )
    add_backbone(command)
    beside = "NAME.npz (points as in TAP-Vid, occluded) or NAME.csv (point,frame,x,y,occluded; pixels)"
    command.add_argument("--root", required=True, type=Path, help=f"NAME.mp4 or NAME/ of frames beside {beside}")
    command.add_argument(
        "--tracker",
        choices=("similarity", "perturbation", "flow"),
        default="similarity",
        help="how points are tracked, default: %(default)s",
    )
    command.add_argument("--mode", choices=("first", "strided"), default="first", help="default: %(default)s")
    command.add_argument("--side", type=positive, default=256, help="similarity: shorter side, default: %(default)s")
    command.set_defaults(run=_tracking)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``propagate``."""
    command = commands.add_parser(
        "propagate",
        help="propagate a mask through a clip",
        description="Propagate the mask of the first frame through a video or a folder of frames, without any "
        "training. Writes a PNG with the mask's palette per frame to a folder, or an .mp4 with the labels over the "
        "frames.",
        epilog="Example: midway-zoo propagate midway_nano.scenes clip.mp4 first.png -o masks",
    )
    add_backbone(command, output=False)
    command.add_argument("video", metavar="VIDEO|FOLDER", type=Path, help="a video, or a folder of frames")
    command.add_argument("mask", metavar="MASK", type=Path, help="mask of the first frame: a PNG of object numbers")
    command.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR|OUT.mp4", help="folder for masks, or an .mp4"
    )
    command.add_argument("--stride", type=int, default=1, help="take every n-th frame, default: %(default)s")
    command.add_argument("--fps", type=float, help="for a video, instead of --stride: frames per second to take")
    _add_propagation(command)
    command.set_defaults(run=_propagate)


def add_backbone(command: argparse.ArgumentParser, *, output: bool = True) -> None:
    """Arguments for the network to evaluate and the file of figures."""
    command.add_argument(
        "model",
        metavar="MODEL",
        help="pretrained name, released .pth, folder, run or export of training, or timm:NAME for a ViT of timm",
    )
    command.add_argument("--random", action="store_true", help="for a name: use random weights, as a baseline")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")
    if output:
        command.add_argument(
            "-o", "--output", type=Path, metavar="RESULTS.json", help="also write the figures to this file"
        )
    command.add_argument("--force", action="store_true", help="replace existing output files")
    add_encoder_options(command)


def network_of(options: argparse.Namespace) -> MidwayNetwork:
    """The Midway network of a name or path, which may be a training run."""
    import torch

    from midway_zoo.weights.registry import create_model

    if options.random:
        torch.manual_seed(0)
        network = create_model(options.model, paired=options.paired, **dict(options.config))
        return network.to(device(options.device)).eval()
    if (Path(options.model) / "checkpoints").is_dir() or Path(options.model).parent.name == "checkpoints":
        needs_extra()
        from midway_zoo.train.checkpoints import run_checkpoint
        from midway_zoo.train.weights import network_of_checkpoint

        run = run_checkpoint(Path(options.model))
        if run is not None:
            return network_of_checkpoint(run, paired=options.paired).to(device(options.device))
    return load(options)


def backbone_of(options: argparse.Namespace) -> Backbone:
    """The backbone of a name or path, of this zoo or timm, in evaluation mode."""
    import torch

    from midway_zoo.readouts.backbone import TIMM, load_backbone

    if not options.model.startswith(TIMM):
        found = load_backbone(network_of(options))
        found.name = options.model
        return found
    torch.manual_seed(0)
    return load_backbone(options.model, pretrained=not options.random).to(device(options.device))


def check_figures(options: argparse.Namespace) -> None:
    """Fail early if the figures cannot be written, or would replace the model."""
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_output

    if options.output:
        check_not_inputs([options.output], options.model)
        check_output(options.output, overwrite=options.force)


def write_figures(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write the figures of ``-o``, with the model's name."""
    from midway_zoo.files import write_json

    if options.output:
        facts = {"model": options.model, **({"random": True} if options.random else {})}
        write_json(options.output, {**facts, **figures}, overwrite=options.force)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """An aligned Markdown table on stdout; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths))) + " |"  # noqa: B905
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.write("\n".join(lines) + "\n")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _add_propagation(command: argparse.ArgumentParser) -> None:
    command.add_argument("--side", type=positive, default=480, help="shorter side in pixels, default: %(default)s")
    command.add_argument(
        "--context", type=int, default=7, help="previous frames to propagate from, default: %(default)s"
    )
    command.add_argument("--radius", type=int, default=12, help="radius in tokens, default: %(default)s")
    command.add_argument(
        "--top", type=positive, default=5, help="most similar tokens to propagate from, default: %(default)s"
    )
    command.add_argument("--block", type=int, help="encoder block whose tokens are compared; default: the last")


def _propagation(options: argparse.Namespace) -> PropagationOptions:
    from midway_zoo.readouts.propagation import PropagationOptions

    names = ("side", "context", "radius", "top", "block")
    return PropagationOptions(**{name: getattr(options, name) for name in names})


def _knn(options: argparse.Namespace) -> None:
    from midway_zoo.readouts.classification import evaluate_neighbours
    from midway_zoo.readouts.neighbours import NEIGHBOURS

    check_figures(options)
    found = evaluate_neighbours(
        backbone_of(options),
        options.root,
        k=options.k or NEIGHBOURS,
        temperature=options.temperature,
        size=options.size,
        val_share=options.val_share,
        seed=options.seed,
        cache=options.cache,
        batch_size=options.batch_size,
        num_workers=options.workers,
    )
    counts = {"classes": len(found.classes), "train_images": found.train_images, "val_images": found.val_images}
    write_figures(options, {**counts, "k": {str(k): values for k, values in found.accuracies.items()}})
    names = list(next(iter(found.accuracies.values())))
    rows = [["k", *(f"{name} %" for name in names)]]
    rows += [[str(k), *(f"{100 * values[name]:.2f}" for name in names)] for k, values in found.accuracies.items()]
    print_table(rows)
    sys.stdout.write(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items()) + "\n")


def _davis(options: argparse.Namespace) -> None:
    from midway_zoo.readouts.davis import evaluate_davis

    check_figures(options)
    if options.masks and options.masks.exists() and any(options.masks.iterdir()) and not options.force:
        raise OutputExistsError(f"{options.masks} is not empty; pass --force to replace what is there.")
    found = evaluate_davis(
        backbone_of(options),
        options.root,
        split=options.split,
        options=_propagation(options),
        limit=options.limit,
        masks=options.masks,
    )
    sequences, mean = found.sequences(), found.mean()
    objects = {name: {str(number): scores for number, scores in each.items()} for name, each in found.objects.items()}
    write_figures(options, {"split": options.split, "mean": mean, "sequences": sequences, "objects": objects})
    rows = [["sequence", "objects", "J&F", "J", "F"]]
    for name, scores in sequences.items():
        rows.append([name, str(len(objects[name])), *(f"{100 * scores[key]:.1f}" for key in ("J&F", "J", "F"))])
    total = str(sum(len(each) for each in objects.values()))
    rows.append(["mean over objects", total, *(f"{100 * mean[key]:.1f}" for key in ("J&F", "J", "F"))])
    print_table(rows)


def _propagate(options: argparse.Namespace) -> None:
    from midway_zoo.inference.frames import open_frames
    from midway_zoo.readouts.davis import read_mask, write_mask
    from midway_zoo.readouts.propagation import propagate_labels

    film = options.output.suffix.lower() == ".mp4"
    _check_clip_output(options, film)
    chosen = _propagation(options)
    labels, palette = read_mask(options.mask)
    frames = open_frames(options.video, stride=options.stride, fps=options.fps)
    output, options.output = options.output, None  # checked above; `load` would refuse a folder
    backbone = backbone_of(options)
    if film:
        count = _write_video(output, backbone, frames, labels, palette, chosen, options.force)
    else:
        from midway_zoo.files import make_folder

        make_folder(output)
        images = (frame.image for frame in frames)
        count = 0
        for count, found in enumerate(propagate_labels(backbone, images, labels, options=chosen), 1):
            write_mask(output / f"{count - 1:05d}.png", found, palette, overwrite=options.force)
    sys.stdout.write(f"{count} frames, labels {labels.unique().tolist()}\nwrote {output}\n")


def _check_clip_output(options: argparse.Namespace, film: bool) -> None:
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_folder, check_output

    output: Path = options.output
    written = [output] if film or not output.is_dir() else [output, *output.glob("*.png")]
    check_not_inputs(written, options.video, options.mask, options.model)
    if film:
        check_output(output, overwrite=options.force)
    elif output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; pass the name of a folder, or of an .mp4.")
    elif output.is_dir() and any(output.glob("*.png")) and not options.force:
        raise OutputExistsError(f"{output} holds pictures; pass --force to replace them, or another folder.")
    else:
        check_folder(output, of="masks", made=True)


def _write_video(
    output: Path,
    backbone: Backbone,
    frames: Iterable[Any],
    labels: Tensor,
    palette: bytes,
    chosen: PropagationOptions,
    force: bool,
) -> int:
    import torch

    from midway_zoo.inference.video_writer import write_video
    from midway_zoo.readouts.propagation import propagate_labels

    shown, seen = tee(frames)  # results arrive frame by frame, and only one frame is kept
    maps = propagate_labels(backbone, (frame.image for frame in seen), labels, options=chosen)
    colours = torch.frombuffer(bytearray(palette), dtype=torch.uint8).view(-1, 3)
    pictures = (
        (frame.pts_seconds, label_overlay(frame.image, found, colours))
        for found, frame in zip(maps, shown, strict=True)
    )
    return write_video(output, _timed(pictures), overwrite=force)


def label_overlay(image: Tensor, labels: Tensor, colours: Tensor, *, alpha: float = 0.55) -> Tensor:
    """Labels (H, W) in their colours (256, 3) uint8 over an image (3, H, W) in [0, 1]: uint8 (3, H, W); 0 is clear."""
    import torch

    over = colours[labels.long()].movedim(-1, 0).float() / 255
    mixed = torch.where((labels > 0)[None], (1 - alpha) * image + alpha * over, image)
    return mixed.mul(255).round().to(torch.uint8)


def _timed(pictures: Iterable[tuple[float | None, Tensor]]) -> Iterator[tuple[Tensor, float, float]]:
    """Pictures with the seconds from and to which they are shown: until the next one, the last as long as the one
    before it. Pictures without times are shown at ten per second."""
    waiting: tuple[float, Tensor] | None = None
    lasts = 1 / _FOLDER_FPS
    for number, (seconds, picture) in enumerate(pictures):
        start = number / _FOLDER_FPS if seconds is None else seconds
        if waiting is not None:
            lasts = start - waiting[0]
            yield waiting[1], waiting[0], start
        waiting = start, picture
    if waiting is not None:
        yield waiting[1], waiting[0], waiting[0] + lasts


def _tracking(options: argparse.Namespace) -> None:
    from midway_zoo.analysis.tap_vid import evaluate_tracking

    check_figures(options)
    found = evaluate_tracking(
        backbone_of(options), options.root, tracker=options.tracker, mode=options.mode, side=options.side
    )
    mean = found.mean()
    content = {"tracker": options.tracker, "mode": options.mode, "mean": mean, "clips": found.clips}
    write_figures(options, _without_nan(content))
    names = {"average_jaccard": "AJ", "position_accuracy": "position", "occlusion_accuracy": "occlusion"}
    rows = [["clip", *names.values()]]
    rows += [[clip, *(f"{100 * scores[name]:.1f}" for name in names)] for clip, scores in found.clips.items()]
    rows.append(["mean over clips", *(f"{100 * mean[name]:.1f}" for name in names)])
    print_table(rows)


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and value != value else value
