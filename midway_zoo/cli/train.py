"""The ``train`` commands. Only this module imports the trainer, and only when a command runs."""

import argparse
import sys
from pathlib import Path

from midway_zoo.errors import MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.train.tasks import TASKS, TaskEntry, entry_of


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``train`` and its subcommands."""
    train = commands.add_parser(
        "train",
        help="pretrain and fine-tune",
        description="Pretrain and fine-tune Midway networks. Several processes: accelerate launch -m midway_zoo.train "
        "COMMAND ... or torchrun -m midway_zoo.train COMMAND ...",
    )
    tasks = train.add_subparsers(dest="task", metavar="COMMAND", required=True)
    _add_data_commands(tasks)
    entries = {name: entry_of(name) for name in TASKS}
    for name, entry in entries.items():
        _add_run_command(tasks, name, entry)
    layouts = ("zoo", *(layout for entry in entries.values() for layout in entry.layouts))
    command = tasks.add_parser(
        "export",
        help="turn a run into a model that load_checkpoint and timm read",
        description="Export the newest checkpoint of a run (or the one named) to the zoo's format or the authors'.",
    )
    command.add_argument("source", metavar="RUN", type=Path, help="run folder, or a checkpoints/step_* in it")
    command.add_argument("out", metavar="OUT", type=Path, help="folder; with --layout released a .pth file")
    command.add_argument("--layout", choices=layouts, default="zoo", help="default: %(default)s")
    command.add_argument("--best", action="store_true", help="the checkpoint that validated best, not the newest")
    command.add_argument("--force", action="store_true", help="replace an earlier export")
    command.set_defaults(run=_export)


def _add_data_commands(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = tasks.add_parser(
        "index",
        help="index videos once, so that runs start at once",
        description="Probe every video (or folder of frames) under ROOT in parallel and write an index file.",
    )
    command.add_argument("root", metavar="ROOT", type=Path, help="folder of videos, or of folders of frames")
    command.add_argument(
        *("-o", "--index", "--output"),
        dest="output",
        metavar="PATH",
        type=Path,
        help="index file; default: beside the data, or in your cache folder if that is not writable",
    )
    command.add_argument("--workers", type=positive, help="processes; default: one per core")
    command.add_argument("--force", action="store_true", help="probe indexed files again")
    command.set_defaults(run=_index)

    command = tasks.add_parser(
        "prepare",
        help="re-encode videos for fast random access",
        description="Re-encode the videos under ROOT to OUT, small and with frequent key frames. Can be resumed.",
    )
    command.add_argument("root", metavar="ROOT", type=Path, help="folder of videos, or of folders of frames")
    command.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    command.add_argument("--height", type=int, default=360, help="shorter side in pixels; default: %(default)s")
    command.add_argument("--gop", type=int, default=15, help="distance of key frames in frames; default: %(default)s")
    command.add_argument("--format", choices=("video", "frames"), default="video", help="default: %(default)s")
    command.add_argument("--workers", type=positive, help="processes; default: one per core")
    command.set_defaults(run=_prepare)


def _add_run_command(tasks: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, entry: TaskEntry) -> None:
    summary = entry.summary
    command = tasks.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. Settings come from the recipe, then from KEY=VALUE in order.",
        epilog=f"Example: {entry.example}",
    )
    command.add_argument("--recipe", metavar="NAME|FILE.yaml", help="bundled recipe or a file of your own")
    command.add_argument("--print-config", action="store_true", help="print the whole configuration and stop")
    command.add_argument(
        "--dry-run", action="store_true", help="build everything, run two steps, print speed, memory and duration"
    )
    command.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="such as data.root=/videos out=runs/a seed=1")
    command.set_defaults(run=_run)


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    needs_extra()
    from midway_zoo.train.commands import run_task

    run_task(
        options.task,
        options.recipe,
        options.settings,
        print_config=options.print_config,
        dry_run=options.dry_run,
    )


def _export(options: argparse.Namespace) -> None:
    needs_extra()
    from midway_zoo.train.weights import export

    chosen = {"layout": options.layout, "best": options.best, "overwrite": options.force}
    for path in export(options.source, options.out, **chosen):
        sys.stdout.write(f"{path}\n")


def _index(options: argparse.Namespace) -> None:
    needs_extra()
    from midway_zoo.train.commands import run_index

    run_index(options.root, options.output, workers=options.workers, force=options.force)


def _prepare(options: argparse.Namespace) -> None:
    needs_extra()
    from midway_zoo.train.commands import run_prepare

    run_prepare(
        options.root,
        options.out,
        height=options.height,
        gop=options.gop,
        layout=options.format,
        workers=options.workers,
    )


def needs_extra() -> None:
    """Raise :class:`MissingExtraError` unless what training and evaluation import is installed."""
    for module, package in (("accelerate", "accelerate"), ("omegaconf", "omegaconf"), ("av", "av")):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingExtraError(f"training needs {package}: {install_command('train')} ({error}).") from error
