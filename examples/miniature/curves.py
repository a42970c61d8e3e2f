"""The losses of pretraining as a picture, drawn with Pillow, which the library needs anyway."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rows
from PIL import Image, ImageDraw, ImageFont

from midway_zoo.train.journal import read_log

PANELS = (("dino", "DINO loss"), ("dynamics_2", "dynamics loss, level 2"), ("gate_2", "mean gate, level 2"))
_COLOURS = ("#1f77b4", "#ff7f0e", "#bcbd22", "#17becf", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#000000")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 460, 340, 56, 14, 34, 44
_LEGEND, _LINE = 3, 22
_POINTS = 100

Series = tuple[str, list[float], list[float]]
"""Colour, steps, values."""


def draw_curves(out: Path) -> Image.Image | None:
    """Losses over the steps of pretraining, a colour for each row and a line for each seed; None without any log."""
    logs: dict[str, list[list[dict[str, Any]]]] = {}
    for name in rows.ROWS:
        found = [read_log(path) for path in sorted((out / "runs").glob(f"{name}-*/pretrain/log.jsonl"))]
        if any(found):
            logs[name] = [lines for lines in found if lines]
    if not logs:
        return None
    colours = dict(zip(rows.ROWS, _COLOURS, strict=True))
    legend = math.ceil(len(logs) / _LEGEND) * _LINE
    picture = Image.new("RGB", (_WIDTH * len(PANELS), _HEIGHT + legend + 8), "white")
    draw = ImageDraw.Draw(picture)
    for number, (key, title) in enumerate(PANELS):
        series = [(colours[name], *smooth(lines, key)) for name, runs in logs.items() for lines in runs]
        _panel(draw, number * _WIDTH, title, [one for one in series if one[1]])
    for number, name in enumerate(logs):
        x, y = _LEFT + number % _LEGEND * _WIDTH, _HEIGHT + number // _LEGEND * _LINE
        draw.line((x, y + 9, x + 26, y + 9), fill=colours[name], width=3)
        draw.text((x + 34, y + 9), rows.ROWS[name].title, fill="black", font=_font(), anchor="lm")
    return picture


def draw_panels(panels: Sequence[tuple[str, Sequence[Series]]], unit: str) -> Image.Image:
    """Panels of a title and series each, side by side; ``unit`` is what the horizontal axis counts."""
    picture = Image.new("RGB", (_WIDTH * len(panels), _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for number, (title, series) in enumerate(panels):
        _panel(draw, number * _WIDTH, title, [one for one in series if one[1]], unit)
    return picture


def smooth(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a log's entry, as the means of at most 100 equal parts."""
    known = [(line["step"] + 1, line[key]) for line in lines if line.get(key) is not None]
    part = max(1, math.ceil(len(known) / _POINTS))
    parts = [known[first : first + part] for first in range(0, len(known), part)]
    means = [tuple(statistics.fmean(column) for column in zip(*one, strict=True)) for one in parts]
    return [step for step, _ in means], [value for _, value in means]


def ticks(low: float, high: float) -> list[float]:
    """A few round numbers within a range."""
    rough = (high - low) / 5 or 1.0
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.99)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _panel(draw: ImageDraw.ImageDraw, left: int, title: str, series: Sequence[Series], unit: str = "step") -> None:
    x0, x1, y0, y1 = left + _LEFT, left + _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM
    draw.text(((x0 + x1) / 2, 16), title, fill="black", font=_font(), anchor="mm")
    draw.rectangle((x0, y0, x1, y1), outline="#888888")
    if not series:
        return
    last = max(max(steps) for _, steps, _ in series) or 1
    # The first steps are far above the rest; what is cut off at the top is not what rows differ in.
    values = sorted(value for _, _, one in series for value in one)
    low, high = values[0], values[min(len(values) - 1, round(0.98 * len(values)))]
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def place(step: float, value: float) -> tuple[float, float]:
        value = min(max(value, low), high)
        return x0 + step / last * (x1 - x0), y1 - (value - low) / (high - low) * (y1 - y0)

    for tick in ticks(low, high):
        y = place(0, tick)[1]
        draw.line((x0, y, x1, y), fill="#e4e4e4")
        draw.text((x0 - 6, y), f"{tick:.4g}", fill="black", font=_font(11), anchor="rm")
    for tick in ticks(0, last):
        x = place(tick, low)[0]
        draw.line((x, y1, x, y1 + 4), fill="#888888")
        draw.text((x, y1 + 13), f"{tick:.6g}", fill="black", font=_font(11), anchor="mm")
    draw.text(((x0 + x1) / 2, y1 + 30), unit, fill="black", font=_font(11), anchor="mm")
    for colour, steps, one in series:
        points = [place(step, value) for step, value in zip(steps, one, strict=True)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2, joint="curve")


def _font(size: int = 14) -> Any:
    return ImageFont.load_default(size)
