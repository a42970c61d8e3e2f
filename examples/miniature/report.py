"""What was measured, put together: results.json, table.md, curves.png."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rows
from curves import draw_curves

from midway_zoo.files import atomic, write_json


@dataclass(frozen=True)
class Column:
    """A column of the table: a figure of a stage."""

    title: str
    stage: str
    figure: str
    digits: int = 1
    floors: tuple[tuple[str, str], ...] = ()
    """(title of a row without any network, its figure)"""


_ZERO, _SINGLE, _BACKGROUND = "no motion", "best single vector of each pair", "background everywhere"
_PROBE = "motion probe EPE px"

COLUMNS = (
    Column(_PROBE, "probe", "epe", 2, ((_ZERO, "zero_epe"),)),
    Column("mIoU %, encoder", "segmentation", "mIoU_encoder", 2, ((_BACKGROUND, "background_mIoU"),)),
    Column("mIoU %, v", "segmentation", "mIoU_backward", 2, ((_BACKGROUND, "background_mIoU"),)),
    Column("flow EPE px", "flow", "epe", 2, ((_ZERO, "zero_epe"), (_SINGLE, "translation_epe"))),
    Column("frozen flow EPE px", "frozen", "epe", 2, ((_ZERO, "zero_epe"), (_SINGLE, "translation_epe"))),
    Column("PCK@2 %", "tracking", "pck_2", 1, ((_ZERO, "zero_pck_2"),)),
    Column("PCK@2 %, fast", "tracking", "fast_pck_2", 1, ((_ZERO, "fast_zero_pck_2"),)),
    Column("PCK@8 %, clips", "tracking", "similar_clip_pck_8", 1, ((_ZERO, "zero_clip_pck_8"),)),
    Column("copies %, moved", "tracking", "fast_identity_moved"),
    Column("hits %, moved", "tracking", "fast_hit_moved"),
)
_COURSE = tuple(column for column in COLUMNS if column.stage in ("probe", "segmentation", "tracking"))


def load_results(out: Path) -> list[dict[str, Any]]:
    """Every ``results/ROW-SEED.json``, in the rows' order, then by seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "results").glob("*.json"))]
    order = list(rows.ROWS)
    return sorted(found, key=lambda one: (order.index(one["row"]), one["seed"]))


def write_report(out: Path, plan: Sequence[tuple[str, int]]) -> str:
    """Write results.json, table.md and, where there are logs, curves.png; returns the table.

    Args:
        out: the folder of the run.
        plan: (row, seed) of everything that should be there; what is not is named as missing.
    """
    results = load_results(out)
    missing, failed = list(absent(results, plan)), list(failures(results))
    table = [*main_table(results), *course_table(results), *media_table(results)]
    table += ["", *(f"Failed: {line}" for line in failed)] if failed else []
    table += ["", f"Missing: {', '.join(missing)}."] if missing else []
    text = "\n".join([*table, "", *_made_with(results)]) + "\n"
    summary = {"rows": summary_of(results), "missing": missing, "failed": failed, "results": results}
    write_json(out / "results.json", summary, overwrite=True)
    with atomic(out / "table.md", overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
    picture = draw_curves(out)
    if picture is not None:
        with atomic(out / "curves.png", overwrite=True) as temporary:
            picture.save(temporary, format="PNG")
    return text


def absent(results: Sequence[dict[str, Any]], plan: Sequence[tuple[str, int]]) -> Iterator[str]:
    """ROW-SEED stage of what is planned and not there; footage is never planned."""
    done = {(one["row"], one["seed"]): one["stages"] for one in results}
    for name, seed in plan:
        for stage in rows.ROWS[name].stages:
            if stage != "media" and stage not in done.get((name, seed), {}):
                yield f"{name}-{seed} {stage}"


def failures(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """ROW-SEED stage: message."""
    for one in results:
        for stage, message in one["failed"].items():
            yield f"{one['row']}-{one['seed']} {stage}: {message}"


def values_of(results: Sequence[dict[str, Any]], row: str, stage: str, figure: str) -> list[float]:
    """A figure of a row, one per seed that has it."""
    found = [one["stages"].get(stage, {}).get("figures", {}).get(figure) for one in results if one["row"] == row]
    return [value for value in found if value is not None]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean, and with several seeds (smallest to largest, number of seeds)."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f}, {len(values)})"


def summary_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{row: {stage: {figure: {"mean", "std", "min", "max", "seeds"}}}}; std is that of a sample, null of one seed."""
    summary: dict[str, Any] = {}
    for one in results:
        for stage, result in one["stages"].items():
            for figure in result["figures"]:
                values = values_of(results, one["row"], stage, figure)
                if values:
                    summary.setdefault(one["row"], {}).setdefault(stage, {})[figure] = {
                        "mean": statistics.fmean(values),
                        "std": statistics.stdev(values) if len(values) > 1 else None,
                        "min": min(values),
                        "max": max(values),
                        "seeds": len(values),
                    }
    return summary


def brief(stage: str, figures: dict[str, float | None]) -> str:
    """The figures of a stage that the tables show; of one that they do not show, the first."""
    columns = [column for column in COLUMNS if column.stage == stage]
    shown = [key for column in columns for key in (column.figure, *dict(column.floors).values())]
    known = [key for key in shown if key in figures] or list(figures)[:4]
    return ", ".join(f"{key} {figures[key]:.4g}" for key in dict.fromkeys(known) if figures[key] is not None)


def main_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """A row per row that has results, and the floors that need no network."""
    lines = [_line(["row", "seeds", *(column.title for column in COLUMNS)]), _rule(len(COLUMNS) + 2)]
    for name in dict.fromkeys(one["row"] for one in results):
        cells = [spread(values_of(results, name, one.stage, one.figure), one.digits) for one in COLUMNS]
        seeds = ", ".join(str(one["seed"]) for one in results if one["row"] == name)
        lines.append(_line([rows.ROWS[name].title, seeds, *cells]))
    for floor in (_ZERO, _SINGLE, _BACKGROUND):
        cells = []
        for column in COLUMNS:
            figure = dict(column.floors).get(floor, "")
            values = [value for name in rows.ROWS for value in values_of(results, name, column.stage, figure)]
            cells.append(spread(values[:1], column.digits))
        if any(cell != "–" for cell in cells):
            lines.append(_line([f"({floor})", "", *cells]))
    return lines


def course_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Full Midway after parts of pretraining, beginning with none."""
    if not any("course" in one["stages"] for one in results):
        return []
    lines = ["", _line(["pretraining", *(column.title for column in _COURSE)]), _rule(len(_COURSE) + 1)]
    parts = (("none", "random", ""), ("25 %", "full", "25_"), ("50 %", "full", "50_"), ("all", "full", ""))
    for title, name, prefix in parts:
        steps = sorted({int(step) for step in values_of(results, name, "course", f"{prefix}step")})
        at = f" (step {', '.join(map(str, steps))})" if steps else ""
        cells = [
            ("course", f"{prefix}{'probe_' * (one.stage == 'probe')}{one.figure}", one.digits)
            if prefix
            else (one.stage, one.figure, one.digits)
            for one in _COURSE
        ]
        lines.append(_line([title + at, *(spread(values_of(results, name, *cell[:2]), cell[2]) for cell in cells)]))
    return lines


def media_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """End-point errors on warped footage."""
    media = [one for one in results if "media" in one["stages"]]
    figures = list(dict.fromkeys(figure for one in media for figure in one["stages"]["media"]["figures"]))
    if not figures:
        return []
    lines = ["", _line(["warped footage, EPE px", *figures]), _rule(len(figures) + 1)]
    for name in dict.fromkeys(one["row"] for one in media):
        cells = [spread(values_of(results, name, "media", figure), 2) for figure in figures]
        lines.append(_line([rows.ROWS[name].title, *cells]))
    return lines


def _made_with(results: Sequence[dict[str, Any]]) -> list[str]:
    made: dict[str, float] = {}
    for one in results:
        for result in one["stages"].values():
            title = f"{one['preset']} preset on {result['machine']['device']}, torch {result['machine']['torch']}"
            made[title] = made.get(title, 0) + result["seconds"]
    spent = [f"{title}: {seconds / 60:.0f} minutes." for title, seconds in made.items()]
    return [f"Mean (smallest to largest, seeds). {' '.join(spent)}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(count: int) -> str:
    return f"|{'---|' * count}"
