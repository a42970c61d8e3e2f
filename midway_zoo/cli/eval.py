"""The ``eval`` commands: networks on published data sets."""

import argparse
import sys
from pathlib import Path
from typing import Any

from midway_zoo.cli.flow import tile
from midway_zoo.cli.inference import load
from midway_zoo.cli.readouts import add_eval_commands
from midway_zoo.cli.segmentation import add_eval_command as add_segmentation
from midway_zoo.cli.train import needs_extra, positive
from midway_zoo.cli.zoo import add_encoder_options
from midway_zoo.errors import InputError
from midway_zoo.train.data.flow_datasets import DATASETS

_FOLDER = "folder"
_DATASETS = {data.short[0]: (key, data) for key, data in DATASETS.items()}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``eval`` and its subcommands."""
    group = commands.add_parser("eval", help="evaluate a network on published data sets")
    tasks = group.add_subparsers(dest="task", metavar="COMMAND", required=True)
    command = tasks.add_parser(
        "flow",
        help="end-point errors of optical flow",
        description="Compare the flow of a network with the ground truth and print a table, errors in pixels; or, with "
        "--submission, write the files that the servers of Sintel and KITTI take.",
        epilog="Example: midway-zoo eval flow runs/flow --dataset sintel --root /data/flow",
    )
    command.add_argument(
        "model", metavar="CKPT_OR_NAME", help="run or export of training, released .pth, or pretrained name"
    )
    _add_data_options(command)
    _add_method_options(command)
    command.add_argument(
        "-o", "--output", type=Path, metavar="RESULTS.json", help="also write the figures to this file"
    )
    command.add_argument(
        "--submission", type=Path, metavar="DIR", help="predict the test split into DIR instead (Sintel, KITTI)"
    )
    command.add_argument("--force", action="store_true", help="replace existing output files")
    add_encoder_options(command)
    command.set_defaults(run=_flow)
    add_eval_commands(tasks)
    add_segmentation(tasks)


def _add_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dataset",
        required=True,
        choices=(*_DATASETS, _FOLDER),
        help="folder: your own, with ROOT/frames and ROOT/flow, or these in folders of clips; a flow file (.flo, .png, "
        ".pfm, .npy, .flo5) has the name of its first frame",
    )
    command.add_argument("--root", required=True, type=Path, help="folder of the data set, or the one that contains it")
    command.add_argument(
        "--split", help="default: the part that fine-tuning leaves out, such as subval of Sintel; else train"
    )
    command.add_argument(
        "--pass",
        dest="passes",
        choices=("clean", "final"),
        help="rendering pass of Sintel and FlyingThings; default: both",
    )
    command.add_argument("--limit", type=positive, metavar="N", help="at most N pairs of each part, evenly spaced")
    command.add_argument("--workers", type=_workers, default=0, help="processes that read files; default: %(default)s")


def _add_method_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--method",
        choices=("auto", "head", "perturbation", "zero"),
        default="auto",
        help="perturbation is zero-shot, zero predicts no motion; default: the head if there is one",
    )
    command.add_argument(
        "--tile", type=tile, metavar="SIZE", help="head: side or HEIGHTxWIDTH of tiles; default: the head's own"
    )
    command.add_argument("--overlap", type=float, default=0.9, help="head: overlap of tiles, default: %(default)s")
    command.add_argument("--max-flow", type=float, metavar="PIXELS", help="ignore longer vectors of the ground truth")
    command.add_argument("--batch-size", type=positive, default=4, help="default: %(default)s")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")


def _workers(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _flow(options: argparse.Namespace) -> None:
    needs_extra()
    from midway_zoo.cli.work.inputs import check_not_inputs
    from midway_zoo.files import check_output, write_json
    from midway_zoo.train.data.flow_folder import own_pairs
    from midway_zoo.train.tasks.flow.evaluate import evaluate_parts, evaluation_files, table
    from midway_zoo.train.tasks.flow.validation import spread

    split = options.split or ("test" if options.submission else None)
    passes = (options.passes,) if options.passes else ("clean", "final")
    if options.dataset == _FOLDER:
        listed = own_pairs(options.root)
    else:
        listed = evaluation_files(_DATASETS[options.dataset][0], options.root, split=split, passes=passes)
    parts = {name: spread(files, options.limit) for name, files in listed.items()}
    if options.submission:
        _submit(options, parts)
        return
    if options.output:
        check_not_inputs([options.output], options.model)
        check_output(options.output, overwrite=options.force)
    results = evaluate_parts(
        load(options), parts, methods=(options.method,), max_flow=options.max_flow, **_settings(options)
    )
    if options.output:
        write_json(options.output, {"model": options.model, "results": results}, overwrite=options.force)
    sys.stdout.write(f"{table(results)}\n")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "tile": options.tile,
        "overlap": options.overlap,
        "batch_size": options.batch_size,
        "num_workers": options.workers,
    }


def _submit(options: argparse.Namespace, parts: dict[str, Any]) -> None:
    from midway_zoo.train.tasks.flow.evaluate import write_submission

    form = None if options.dataset == _FOLDER else _DATASETS[options.dataset][1].form
    if form is None:
        served = (name for name, (_, data) in _DATASETS.items() if data.form)
        raise InputError(f"--submission is for {', '.join(served)}; {options.dataset} has no such server.")
    if options.output or options.max_flow is not None:
        raise InputError("--submission is for pairs without ground truth: leave out --output and --max-flow.")
    network = load(options)
    for entries in parts.values():
        paths = write_submission(
            network,
            entries,
            options.submission,
            form=form,
            method=options.method,
            overwrite=options.force,
            **_settings(options),
        )
        sys.stdout.write(f"{len(paths)} files in {options.submission}\n")
