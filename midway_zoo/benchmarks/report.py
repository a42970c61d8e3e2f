"""Results of the command: a table on the terminal, JSON, and a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from midway_zoo.benchmarks.machine import Machine
from midway_zoo.benchmarks.measuring import Comparison, Row
from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.files import atomic, check_output

FORMAT, VERSION = "midway-zoo-benchmark", 1
PLOTS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Report:
    """All figures of a subject, and how to measure them again."""

    subject: str
    date: str
    """Start time, ISO 8601 with the time zone."""
    command: str
    settings: dict[str, Any]
    machine: Machine
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the JSON file has them: seconds, MiB, 1e9 operations, shares from 0 to 1."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}


def seconds(value: float) -> str:
    """Seconds as text in a suitable unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    return f"{value * 1e6:.3g} us"


def table(comparison: Comparison) -> str:
    """Lines of text: a row per way, without columns that have no figures, then the remarks."""
    columns: dict[str, list[str]] = {
        "": [row.name for row in comparison.rows],
        "median": [seconds(row.seconds.median) for row in comparison.rows],
        "quartiles": [f"{seconds(row.seconds.low)} - {seconds(row.seconds.high)}" for row in comparison.rows],
        f"{comparison.unit}/s": [f"{row.per_second:.4g}" for row in comparison.rows],
        "speed": _column(comparison.rows, "speed", "{:.2f}"),
        "CPU": [seconds(row.cpu_seconds.median) if row.cpu_seconds else "" for row in comparison.rows],
        "by CPU": _column(comparison.rows, "cpu_speed", "{:.2f}"),
        "peak MiB": _column(comparison.rows, "peak_mib", "{:.0f}"),
        "GFLOP": _column(comparison.rows, "gflop", "{:.4g}"),
        "of ceiling": _column(comparison.rows, "utilisation", "{:.0%}"),
    }
    shown = {name: texts for name, texts in columns.items() if any(texts)}
    widths = [max(len(name), *map(len, texts)) for name, texts in shown.items()]
    lines = [comparison.title]
    for cells in (tuple(shown), *zip(*shown.values(), strict=True)):
        first, *rest = (
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join((f"  {first}", *rest)).rstrip())
    if comparison.peer is not None:
        lines.append(f"  speed relative to {comparison.peer}, by the clock and by processor seconds")
    return "\n".join([*lines, *(f"  {note}" for note in comparison.notes)])


def _column(rows: Sequence[Row], name: str, form: str) -> list[str]:
    values = [getattr(row, name) for row in rows]
    return ["" if value is None else form.format(value) for value in values]


def check_plot(path: Path, *, overwrite: bool = False) -> None:
    """Raise early if a plot cannot be written.

    Raises:
        MissingExtraError: without Matplotlib.
        InputError: for an ending other than those of :data:`PLOTS`.
        OutputExistsError, MissingFileError: as :func:`midway_zoo.files.check_output`.
    """
    if path.suffix not in PLOTS:
        raise InputError(f"{path}: a plot ends in {', '.join(PLOTS)}.")
    check_output(path, overwrite=overwrite)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"a plot needs Matplotlib: {install_command('benchmark')}") from error


def plot(report: Report, path: Path, *, overwrite: bool = False) -> None:
    """Medians as bars with quartiles as whiskers, a panel per comparison. Needs the ``benchmark`` extra."""
    from matplotlib.figure import Figure

    heights = [1.2 + 0.35 * len(comparison.rows) for comparison in report.comparisons]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, comparison in zip(panels, report.comparisons, strict=True):
        rows = comparison.rows[::-1]
        medians = [row.seconds.median for row in rows]
        around = [
            [row.seconds.median - row.seconds.low for row in rows],
            [row.seconds.high - row.seconds.median for row in rows],
        ]
        colours = ["0.6" if row.name == comparison.peer else "C0" for row in rows]
        axes.barh([row.name for row in rows], medians, xerr=around, color=colours, capsize=3)
        for place, row in enumerate(rows):
            label = f" {seconds(row.seconds.median)}" + ("" if row.speed is None else f", {row.speed:.2f} x")
            axes.annotate(label, (row.seconds.high, place), va="center", fontsize="small")
        axes.set_title(comparison.title, loc="left", fontsize="medium")
        axes.set_xlabel("seconds")
        axes.margins(x=0.25)
    figure.suptitle(f"{report.command}\n{report.machine}", fontsize="x-small")
    with atomic(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=120)
