"""The paper's main comparisons in miniature, on generated scenes: pretrain, evaluate, and put it in a table.

    python examples/miniature/run.py --out runs/miniature [--preset cpu|gpu] [--rows full,dino,...] [--seeds 0,1,2]
        [--stages pretrain,segmentation,flow,frozen,tracking,course] [--media PATH ...] [KEY=VALUE ...]
    python examples/miniature/run.py --out runs/miniature --table        # the table of what is there

KEY=VALUE are settings of pretraining, of every row alike. What is done is kept in OUT/results and not done again; the
same command goes on with what is not, from its checkpoints. Several processes can share OUT if they have different
rows or seeds. The exit code is 1 if something failed, 3 if it was stopped.
"""

import argparse
import gc
import json
import logging
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
import rows
import stages
import timm
import torch

from midway_zoo.errors import ConfigError, MidwayZooError
from midway_zoo.files import write_json
from midway_zoo.version import __version__

SEEDS = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and not there yet; returns the exit code."""
    options = _parse(arguments)
    try:
        asked = rows.chosen(options.rows)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    seeds = options.seeds or SEEDS
    # Rows that are named get every seed; of all rows only the main ones do.
    plan = [(row, seed) for row in asked for seed in (seeds if row.main or options.rows else seeds[:1])]
    code = 0
    if not options.table:
        logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
        torch.set_float32_matmul_precision("high")  # the flow task would, and stages should not depend on their order
        code = _run(plan, options)
    if (options.out / "results").is_dir():
        print(report.write_report(options.out, [(row.name, seed) for row, seed in plan]))
    elif options.table:
        sys.exit(f"error: {options.out} holds no results")
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--preset", choices=sorted(rows.BUDGETS), default="cpu", help="how much is done")
    parser.add_argument("--rows", type=_names, help=f"of {', '.join(rows.ROWS)}")
    parser.add_argument("--seeds", type=_numbers, help="default: 0,1,2, of rows that are not main ones the first alone")
    parser.add_argument("--stages", type=_names, default=list(rows.STAGES), help=f"of {', '.join(rows.STAGES)}")
    parser.add_argument("--media", type=Path, action="append", default=[], help="video or folder of frames; repeatable")
    parser.add_argument("--table", action="store_true", help="only write and print the table of what is there")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of pretraining")
    options = parser.parse_intermixed_args(arguments)
    unknown = [name for name in options.stages if name not in rows.STAGES]
    if unknown:
        parser.error(f"there is no stage {unknown[0]!r}; stages: {', '.join(rows.STAGES)}")
    return options


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    return [int(name) for name in _names(text)]


def _run(plan: list[tuple[rows.Row, int]], options: argparse.Namespace) -> int:
    (options.out / "results").mkdir(parents=True, exist_ok=True)
    budget, code = rows.BUDGETS[options.preset], 0
    for row, seed in plan:
        job = stages.Job(row, seed, budget, options.out, tuple(options.settings), tuple(options.media))
        record = Record(job, options.preset)
        for stage in rows.STAGES:
            if stage not in options.stages or stage not in row.stages or (stage == "media" and not job.media):
                continue
            try:
                record.do(stage)
            except stages.StoppedError as error:
                print(f"{error}; the same command goes on with it.", flush=True)
                return 3
            except (MidwayZooError, RuntimeError, OSError) as error:
                record.fail(stage, error)
                code = 1
    return code


class Record:
    """``results/ROW-SEED.json``: the stages of one row and seed that are done, and those that failed."""

    def __init__(self, job: stages.Job, preset: str) -> None:
        self.job = job
        self.path = job.out / "results" / f"{job.name}.json"
        self.content: dict[str, Any] = {"row": job.row.name, "seed": job.seed, "preset": preset}
        self.content |= {"stages": {}, "failed": {}}
        if self.path.exists():
            self.content = json.loads(self.path.read_text(encoding="utf-8"))
        held = self.content["preset"]
        if held != preset:
            raise SystemExit(f"error: {self.path} is of --preset {held}; continue with that, or take a new --out")
        # Rows without a pretraining of their own depend on its settings, too: on the shape of the network, for one.
        asked = stages.portable(job.pretraining())
        held = self.content["stages"].get("pretrain", {}).get("settings", asked)
        other = set(self.content.setdefault("pretraining", held)) ^ set(asked)
        if other:
            raise SystemExit(f"error: {self.path} is of another pretraining ({sorted(other)}); take a new --out")

    def do(self, stage: str) -> None:
        """Do a stage unless it is there, and write what came out at once."""
        done = self.content["stages"].get(stage)
        if done and self._same(stage, done["settings"]):
            return
        start, used = time.perf_counter(), _cpu_seconds()
        result = stages.STAGES[stage](self.job)
        result = {"seconds": round(time.perf_counter() - start, 1)} | result
        result["cpu_seconds"] = round(_cpu_seconds() - used, 1)  # of this session, data workers included
        result |= {"machine": machine(), "run_command": shlex.join(sys.argv)}
        result["figures"] = {key: _finite(value) for key, value in result["figures"].items()}
        self.content["stages"][stage] = result
        self.content["failed"].pop(stage, None)
        self._write()
        figures = report.brief(stage, result["figures"])
        print(f"{self.job.name} {stage}, {result['seconds']:.0f} s: {figures}", flush=True)

    def _same(self, stage: str, settings: list[str]) -> bool:
        """Whether what is there is what is asked for: other footage is measured anew."""
        return stage != "media" or settings == [f"media={path.name}" for path in self.job.media]

    def fail(self, stage: str, error: Exception) -> None:
        """Write that a stage failed; the next run tries it again."""
        self.content["failed"][stage] = f"{type(error).__name__}: {error}"
        self._write()
        print(f"{self.job.name} {stage} FAILED: {error}", file=sys.stderr, flush=True)

    def _write(self) -> None:
        write_json(self.path, self.content, overwrite=True)
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def machine() -> dict[str, Any]:
    """What it ran on and with."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu or f"{_processor()}, {torch.get_num_threads()} thread(s)",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "midway_zoo": __version__,
    }


def _processor() -> str:
    known = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    return sum(os.times()[:4])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
