"""``midway-zoo reproduce``: the paper's tables as the commands that make them, run in order or printed."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midway_zoo.errors import ConfigError, DataError, nearest

DESCRIPTION = (
    "Without a table, list the tables and their rows. With one, run its commands in order: train, export, evaluate. "
    "Steps whose result exists are skipped, and training resumes where it was stopped. OUT/TABLE.md compares the "
    "figures with those reported by the authors."
)
REPORTED = "reported by the authors"
FOLDERS = {
    "bdd100k": "bdd100k",
    "cityscapes": "cityscapes",
    "ade20k": "ADEChallengeData2016",
    "wtsem": "Walking-Tours-Semantic",
}
"""Data set -> its folder below --data. Flow data sets have the folder names that `train flow` expects."""
_FLOW = {
    "FlyingThings clean": "flying_things_clean_test",
    "FlyingThings final": "flying_things_final_test",
    "Sintel clean": "sintel_clean_subval",
    "Sintel final": "sintel_final_subval",
}


_OF_VIT_B = {
    "upernet_bdd100k": ("optim.lr=8e-5",),
    "upernet_cityscapes": ("optim.lr=8e-5",),
    "upernet_ade20k": ("optim.lr=8e-5", "optim.layer_decay=0.65"),
    "upernet_wtsem": ("optim.lr=8e-5", "optim.layer_decay=0.65"),
}
"""Recipe -> settings that differ for ViT-B; the recipes hold those of ViT-S."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    model: str
    """Value of ``init_from=``; "random:NAME" is a network with random weights."""
    recipe: str
    dataset: str
    """Data set of the segmentation; "flow" for optical flow."""
    published: dict[str, float]
    """Figure -> reported value; empty if the authors' figure for this row is not recorded here."""


@dataclass(frozen=True)
class Step:
    """A command, and the file that exists once it is done."""

    words: tuple[str, ...]
    result: Path

    def line(self) -> str:
        """The command as a line for a shell."""
        return shlex.join(("midway-zoo", *self.words))


def _segmentation(name: str, model: str, head: str, dataset: str, miou: float, acc: float) -> Row:
    return Row(f"{name}-{head}-{dataset}", model, f"{head}_{dataset}", dataset, {"mIoU": miou, "aAcc": acc})


def _flow(name: str, model: str, *epe: float) -> Row:
    return Row(f"{name}-flow", model, "flow_full", "flow", dict(zip(list(_FLOW)[: len(epe)], epe, strict=True)))


def _baselines(heads: Sequence[tuple[str, str]]) -> list[Row]:
    """The paper's baselines that timm has: it has neither iBOT nor a ViT-S of MAE."""
    models = {
        "dino-vits": "timm:vit_small_patch16_224.dino",
        "dino-vitb": "timm:vit_base_patch16_224.dino",
        "mae-vitb": "timm:vit_base_patch16_224.mae",
        "random-vits": "random:midway_vits",
    }
    return [
        Row(f"{name}-{head}-{dataset}", model, f"{head}_{dataset}", dataset, {})
        for name, model in models.items()
        for head, dataset in heads
    ]


_VITS, _VITB, _VENICE = "midway_vits.bdd100k", "midway_vitb.bdd100k", "midway_vits.wt_venice"
_FLOWS = [
    _flow("vits", _VITS, 7.3, 6.8, 4.1, 4.9),
    _flow("vitb", _VITB, 7.0, 6.4, 4.1, 4.8),
    _flow("venice", _VENICE, 7.7, 7.4, 5.2, 6.6),
    _flow("random-vits", "random:midway_vits"),
]
TABLES: dict[str, tuple[Row, ...]] = {
    "table1": (
        _segmentation("vits", _VITS, "linear", "bdd100k", 39.7, 90.3),
        _segmentation("vits", _VITS, "upernet", "bdd100k", 50.4, 92.4),
        _segmentation("vits", _VITS, "linear", "cityscapes", 43.0, 90.9),
        _segmentation("vits", _VITS, "upernet", "cityscapes", 58.5, 93.5),
        _flow("vits", _VITS, 7.3, 6.8, 4.1, 4.9),
        _segmentation("vitb", _VITB, "linear", "bdd100k", 48.2, 91.6),
        _segmentation("vitb", _VITB, "upernet", "bdd100k", 55.2, 93.1),
        _segmentation("vitb", _VITB, "linear", "cityscapes", 51.1, 92.1),
        _segmentation("vitb", _VITB, "upernet", "cityscapes", 62.2, 94.0),
        _flow("vitb", _VITB, 7.0, 6.4, 4.1, 4.8),
        *_baselines([(head, dataset) for head in ("linear", "upernet") for dataset in ("bdd100k", "cityscapes")]),
    ),
    "table2": (
        _segmentation("venice", _VENICE, "upernet", "wtsem", 13.1, 85.4),
        _segmentation("venice", _VENICE, "upernet", "ade20k", 33.4, 76.9),
        _flow("venice", _VENICE, 7.7, 7.4, 5.2, 6.6),
        *_baselines([("upernet", "wtsem"), ("upernet", "ade20k")]),
    ),
    "flow": tuple(_FLOWS),
}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``reproduce``."""
    command = commands.add_parser(
        "reproduce",
        help="reproduce the paper's tables, command by command",
        description=DESCRIPTION,
        epilog="Example: midway-zoo reproduce table1 --data /data --row vits-linear-bdd100k --out repro --dry-run",
    )
    command.add_argument(
        "table", nargs="?", choices=tuple(TABLES), help="table to reproduce; without it the tables are listed"
    )
    command.add_argument(
        "--data", type=Path, metavar="ROOT", help=f"folder with {', '.join(FOLDERS.values())}, Sintel, ..."
    )
    command.add_argument("--row", action="append", metavar="ROW", help="only this row; may be repeated")
    command.add_argument("--out", type=Path, default=Path("reproduce"), metavar="DIR", help="default: %(default)s")
    command.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="extra",
        metavar="KEY=VALUE",
        help="setting of every training run, such as num_workers=4",
    )
    command.set_defaults(run=_reproduce)


def steps_of(row: Row, data: Path, out: Path, extra: Sequence[str] = ()) -> list[Step]:
    """Training, export and evaluation of a row, in order."""
    folder = out / row.name
    run, export = str(folder / "run"), folder / "export"
    task = "flow" if row.dataset == "flow" else "segmentation"
    random = row.model.startswith("random:")
    start = f"network.name={row.model.removeprefix('random:')}" if random else f"init_from={row.model}"
    root = data  # every data set is found in it by its usual name
    own = _OF_VIT_B.get(row.recipe, ()) if "vitb" in row.name else ()
    train = ("train", task, "--recipe", row.recipe, start, *own, f"data.root={root}", f"out={run}", *extra)
    head = export / ("config.json" if task == "flow" else "segmentation_head.safetensors")
    # A stopped run has no export; running the training again resumes it, or finds it finished.
    steps = [
        Step(train, head),
        Step(("train", "export", run, str(export), *(["--best"] if task == "flow" else [])), head),
    ]
    if task == "segmentation":
        result = folder / "segmentation.json"
        words = ("eval", task, str(export), "--dataset", row.dataset, "--root", str(root), "-o", str(result))
        return [*steps, Step(words, result)]
    for dataset in ("things", "sintel"):
        result = folder / f"{dataset}.json"
        words = ("eval", "flow", str(export), "--dataset", dataset, "--root", str(root), "-o", str(result))
        steps.append(Step(words, result))
    return steps


def _reproduce(options: argparse.Namespace) -> None:
    from midway_zoo.files import atomic, make_folder

    if options.table is None:
        sys.stdout.writelines(_listing())
        return
    rows = _chosen(options.table, options.row)
    if options.data is None:
        raise ConfigError(f"pass --data ROOT, the folder that holds {', '.join(FOLDERS.values())} and the flow data.")
    plan = [(row, steps_of(row, options.data, options.out, options.extra)) for row in rows]
    for row, steps in plan:
        sys.stdout.write(f"# {row.name}\n")
        pending = {step.result for step in steps if not step.result.is_file()}
        for step in steps:
            if step.result not in pending:
                sys.stdout.write(f"# done: {step.line()}\n")
                continue
            sys.stdout.write(f"{step.line()}\n")
            sys.stdout.flush()
            if not options.dry_run:
                make_folder(step.result.parent)
                _run(step)
    if not options.dry_run:
        text = table_of(rows, options.out)
        with atomic(options.out / f"{options.table}.md", overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
        sys.stdout.write(text)


def _run(step: Step) -> None:
    done = subprocess.run([sys.executable, "-m", "midway_zoo", *step.words], check=False)
    if done.returncode:
        raise DataError(
            f"`{step.line()}` ended with {done.returncode}; fix the cause and run it again: finished steps are kept."
        )


def _chosen(table: str, names: Sequence[str] | None) -> list[Row]:
    rows = {row.name: row for row in TABLES[table]}
    for name in names or ():
        if name not in rows:
            raise ConfigError(f"{table} has no row {name!r}.{nearest(name, rows)} Rows: {', '.join(rows)}.")
    return [rows[name] for name in names] if names else list(rows.values())


def _listing() -> Iterator[str]:
    for table, rows in TABLES.items():
        yield f"{table}\n"
        for row in rows:
            figures = ", ".join(f"{name} {value:g}" for name, value in row.published.items())
            said = f"{figures} ({REPORTED})" if figures else "no published figure is recorded here"
            yield f"  {row.name:<28} {said}\n"


def table_of(rows: Sequence[Row], out: Path) -> str:
    """A Markdown table of the existing figures beside the published ones."""
    lines = [f"| row | figure | here | {REPORTED} |", "|---|---|---:|---:|"]
    for row in rows:
        names = row.published or dict.fromkeys(_FLOW if row.dataset == "flow" else ("mIoU", "aAcc"))
        found = _figures(row, out / row.name)
        for name in names:
            here, theirs = found.get(name), row.published.get(name)
            cells = ["-" if value is None else f"{value:.1f}" for value in (here, theirs)]
            lines.append(
                f"| {row.name} | {name}{' EPE' if row.dataset == 'flow' else ' %'} | {cells[0]} | {cells[1]} |"
            )
    return "\n".join(lines) + "\n"


def _figures(row: Row, folder: Path) -> dict[str, float]:
    """Figures written by the evaluations of a row; segmentation in percent."""
    if row.dataset != "flow":
        content = _read(folder / "segmentation.json")
        values = {name: _value(content, name) for name in ("mIoU", "aAcc")}
        return {name: 100 * value for name, value in values.items() if value is not None}
    results = [result for name in ("things", "sintel") for result in _read(folder / f"{name}.json").get("results", [])]
    by_part = {result["data"]: result["metrics"]["epe"] for result in results}
    return {name: by_part[part] for name, part in _FLOW.items() if by_part.get(part) is not None}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run the command again.") from error
    return content


def _value(content: Any, name: str) -> float | None:
    """The first figure of that name, at any depth."""
    if not isinstance(content, dict):
        return None
    if isinstance(content.get(name), int | float):
        return float(content[name])
    found = (_value(part, name) for part in content.values())
    return next((value for value in found if value is not None), None)
