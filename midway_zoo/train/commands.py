"""What the ``midway-zoo train`` commands do."""

import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from midway_zoo.errors import ConfigError
from midway_zoo.train.config import RunConfig, describe_config, load_config
from midway_zoo.train.launch import make_accelerator
from midway_zoo.train.loop import RunResult, fit
from midway_zoo.train.task import Task

logger = logging.getLogger(__name__)

# Task -> (module, configuration, class); imported when it is run.
TASKS = {
    "pretrain": ("midway_zoo.train.tasks.pretrain", "config.PretrainConfig", "task.PretrainTask"),
    "flow": ("midway_zoo.train.tasks.flow", "config.FlowConfig", "task.FlowTask"),
    "segmentation": ("midway_zoo.train.tasks.segmentation", "config.SegmentationConfig", "task.SegmentationTask"),
}


def run_task(
    name: str, recipe: str | None, settings: Sequence[str], *, print_config: bool = False, dry_run: bool = False
) -> None:
    """Train; prints how it ended, and how to go on if it was stopped."""
    schema, build = task_of(name)
    if print_config:
        sys.stdout.write(describe_config(schema, recipe, settings))
        return
    config = load_config(schema, recipe, settings)
    logging.getLogger("midway_zoo").setLevel(logging.INFO)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():  # the first builds the index, the others read it
        task: Task[Any] = build(config)
    if dry_run:
        _dry_run(task, accelerator)
        return
    result = fit(task, accelerator=accelerator)
    if accelerator.is_main_process:
        sys.stdout.write(f"{describe(result, name, recipe, settings, accelerator.num_processes)}\n")


def task_of(name: str) -> tuple[type[RunConfig], Any]:
    """Configuration and class of a task."""
    package, schema, build = TASKS[name]
    found = []
    for path in (schema, build):
        module, _, attribute = path.partition(".")
        found.append(getattr(import_module(f"{package}.{module}"), attribute))
    return found[0], found[1]


def describe(result: RunResult, name: str, recipe: str | None, settings: Sequence[str], processes: int = 1) -> str:
    """How a run ended, and what to do next, in a line or two."""
    values = ", ".join(f"{key} {value:.4g}" for key, value in result.last.items())
    ended = f"{result.reason} after {result.step} steps ({values})." if values else f"{result.reason}."
    if result.finished:
        return f"{ended}\nmidway-zoo train export {result.best or result.checkpoint} OUT  # to use it"
    # `resume` as it was given would refuse the checkpoint that was just written if it was "never".
    again = [setting for setting in settings if not setting.startswith("resume=")]
    program = ["midway-zoo", "train"]
    if processes > 1:
        program = ["accelerate", "launch", "--num_processes", str(processes), "-m", "midway_zoo.train"]
    command = [*program, name, *(["--recipe", recipe] if recipe else []), *again]
    return f"stopped: {ended} Resume with:\n{shlex.join([*command, 'resume=must'])}"


def _dry_run(task: Task[Any], accelerator: Any) -> None:
    """Two steps, nothing written."""
    import tempfile

    total = task.total_steps
    if total < 2:
        raise ConfigError("the schedule has one step, and a dry run needs two; raise epochs or schedule_steps.")
    with tempfile.TemporaryDirectory() as folder:
        # An `out` of its own: a dry run neither resumes nor leaves anything.
        task.config = replace(
            task.config, out=folder, max_steps=2, max_seconds=None, trackers=[], save_every=10**9, resume="auto"
        )
        started = time.perf_counter()
        times: list[float] = []
        before_update = task.before_update

        def timed(step: int) -> None:
            before_update(step)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        task.before_update = timed  # type: ignore[method-assign]
        result = fit(task, accelerator=accelerator, save=False)
    if not accelerator.is_main_process:
        return
    seconds = times[1] - times[0]
    pairs = task.config.batch_size / seconds
    parameters = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    sys.stdout.write(
        f"{task.name}: {parameters / 1e6:.2f} M trainable parameters, {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, precision {task.config.precision}\n"
        f"two steps of {task.config.batch_size} {task.unit}: loss {result.last['loss']:.4g}; the first step took "
        f"{times[0] - started:.1f} s with start-up, the second {seconds:.2f} s ({pairs:.2f} {task.unit}/s)\n"
        f"peak memory {_peak_memory(accelerator.device) / 2**30:.2f} GiB "
        f"{'on the device' if accelerator.device.type == 'cuda' else 'of the process'}\n"
        f"{total} steps would take about {_duration(total * seconds)}\n"
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows, which has no CUDA-less training worth measuring

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _duration(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def run_index(root: Path, output: Path | None, *, workers: int | None, force: bool) -> None:
    """Write an index and say what is in it."""
    from midway_zoo.train.data.video_files import base_folder
    from midway_zoo.train.data.video_index import Index, build_index, index_path, save_index

    location = index_path(root, output)
    known = Index.load(location, base_folder(root)) if location.is_file() and not force else None
    index = build_index(root, workers=workers, known=known)
    save_index(index, location)
    sys.stdout.write(f"{index.report()}\n{location}\n")


def run_prepare(
    root: Path, out: Path, *, height: int, gop: int, layout: Literal["video", "frames"], workers: int | None
) -> None:
    """Re-encode and say what it took."""
    from midway_zoo.train.data.prepare import prepare

    report = prepare(root, out, height=height, gop=gop, format=layout, workers=workers)
    sys.stdout.write(f"{report}\n")
