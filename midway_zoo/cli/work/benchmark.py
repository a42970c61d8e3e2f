"""``midway-zoo benchmark``: measures, prints each comparison when it is done, and writes the files at the end."""

import argparse
import shlex
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from midway_zoo.benchmarks.machine import Machine
from midway_zoo.benchmarks.measuring import Comparison, How
from midway_zoo.benchmarks.report import Report, check_plot, plot, table
from midway_zoo.cli.work.running import device
from midway_zoo.errors import InputError
from midway_zoo.files import check_output, write_json


def run_benchmark(options: argparse.Namespace) -> Report:
    """Measure one subject."""
    _check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    how = How(
        device=device(getattr(options, "device", "cpu")),
        dtype=getattr(torch, getattr(options, "dtype", "float32")),
        compile=getattr(options, "compile", False),
        rounds=options.rounds,
        warmup=options.warmup,
    )
    began, machine = datetime.now().astimezone(), Machine.here(how.device)
    sys.stdout.write(f"{machine}\n")
    # A module cannot be called import.
    name = "importing" if options.subject == "import" else options.subject
    measure = import_module(f"midway_zoo.benchmarks.{name}").measure
    found: list[Comparison] = []
    own = {key: getattr(options, key) for key in options.own}
    for comparison in measure(how, **own):
        found.append(comparison)
        sys.stdout.write(f"\n{table(comparison)}\n")
        sys.stdout.flush()
    settings = {**own, "device": str(how.device), "dtype": str(how.dtype).removeprefix("torch.")}
    settings |= {"compile": how.compile, "rounds": how.rounds, "warmup": how.warmup}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    command = shlex.join(["midway-zoo", *options.argv])
    report = Report(options.subject, began.isoformat(timespec="seconds"), command, plain, machine, tuple(found))
    _write(report, options)
    return report


def _check(options: argparse.Namespace) -> None:
    """Check options early: failing late would waste the work."""
    if options.warmup < 0:
        raise InputError(f"--warmup {options.warmup}: 0 or more is expected.")
    paths: list[Any] = [path for path in (options.json, options.plot) if path]
    if len(paths) == 2 and paths[0].absolute() == paths[1].absolute():
        raise InputError(f"--json and --plot both name {paths[0]}; give them two names.")
    if options.json:
        check_output(options.json, overwrite=options.force)
    if options.plot:
        check_plot(options.plot, overwrite=options.force)


def _write(report: Report, options: argparse.Namespace) -> None:
    if options.json:
        write_json(options.json, report.to_dict(), overwrite=options.force)
    if options.plot:
        plot(report, options.plot, overwrite=options.force)
    written = " and ".join(str(path) for path in (options.json, options.plot) if path)
    if written and not options.quiet:
        sys.stdout.write(f"\nwrote {written}\n")
