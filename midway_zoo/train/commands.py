"""The work of the ``midway-zoo train`` commands."""

import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from midway_zoo.inference.sources import base_folder
from midway_zoo.train.config import describe_config, load_config
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import Index, build_index, check_index_path, index_path
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.loop import RunResult, fit, try_out
from midway_zoo.train.task import Task, trainable
from midway_zoo.train.tasks import config_class, task_class

logger = logging.getLogger(__name__)


def run_task(
    name: str, recipe: str | None, settings: Sequence[str], *, print_config: bool = False, dry_run: bool = False
) -> None:
    """Train, and print how it ended and how to continue if it was stopped."""
    schema = config_class(name)
    if print_config:
        sys.stdout.write(describe_config(schema, recipe, settings))
        return
    config = load_config(schema, recipe, settings)
    package = logging.getLogger("midway_zoo")
    if package.getEffectiveLevel() < logging.ERROR:  # not with --quiet
        package.setLevel(logging.INFO)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # the first process builds the index, the others read it
        task: Task[Any] = task_class(name)(config)
    if dry_run:
        _dry_run(task, accelerator)
        return
    result = fit(task, accelerator=accelerator)
    if accelerator.is_main_process:
        sys.stdout.write(f"{describe(result, name, recipe, settings, accelerator.num_processes)}\n")


def describe(result: RunResult, name: str, recipe: str | None, settings: Sequence[str], processes: int = 1) -> str:
    """One or two lines about how a run ended and what to do next."""
    values = ", ".join(f"{key} {value:.4g}" for key, value in result.last.items())
    ended = f"{result.reason} after {result.step} steps ({values})." if values else f"{result.reason}."
    if result.finished:
        return f"{ended}\nmidway-zoo train export {result.best or result.checkpoint} OUT  # to use it"
    # With the given resume=never, the new checkpoint would be refused.
    again = [setting for setting in settings if not setting.startswith("resume=")]
    program = ["midway-zoo", "train"]
    if processes > 1:
        program = ["accelerate", "launch", "--num_processes", str(processes), "-m", "midway_zoo.train"]
    command = [*program, name, *(["--recipe", recipe] if recipe else []), *again]
    return f"stopped: {ended} Resume with:\n{shlex.join([*command, 'resume=must'])}"


def _dry_run(task: Task[Any], accelerator: Accelerator) -> None:
    """Run two steps without writing anything, and print speed, memory and duration."""
    trial = try_out(task, accelerator=accelerator)
    if not accelerator.is_main_process:
        return
    batch, unit = task.config.batch_size, task.unit
    parameters = sum(p.numel() for p in trainable(task.model))
    sys.stdout.write(
        f"{task.name}: {parameters / 1e6:.2f} M trainable parameters, {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, precision {task.config.precision}\n"
        f"two steps of {batch} {unit}: loss {trial.last['loss']:.4g}; the first step took {trial.first_seconds:.1f} s "
        f"with start-up, the second {trial.seconds:.2f} s ({batch / trial.seconds:.2f} {unit}/s)\n"
        f"peak memory {_peak_memory(accelerator.device) / 2**30:.2f} GiB "
        f"{'on the device' if accelerator.device.type == 'cuda' else 'of the process'}\n"
        f"{task.total_steps} steps would take about {_duration(task.total_steps * trial.seconds)}\n"
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # imported here since Windows does not have it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def run_index(root: Path, output: Path | None, *, workers: int | None, force: bool) -> None:
    """Write an index and print a summary."""
    location = index_path(root, output)
    known = Index.load(location, base_folder(root)) if location.is_file() and not force else None
    check_index_path(location)
    partial = location.with_name(f".{location.name}.part")
    index = build_index(root, workers=workers, known=known, partial=partial)
    index.save(location)
    sys.stdout.write(f"{index.report()}\n{location}\n")


def run_prepare(
    root: Path, out: Path, *, height: int, gop: int, layout: Literal["video", "frames"], workers: int | None
) -> None:
    """Re-encode videos and print a summary."""
    report = prepare(root, out, height=height, gop=gop, format=layout, workers=workers)
    sys.stdout.write(f"{report}\n")
