"""Figures of numbers: what the latent carries, and tracking against the truth."""

import math
from collections.abc import Mapping
from typing import Any

from midway_zoo import style
from midway_zoo.analysis import LatentReport, RetrievalScores, TruthScores
from midway_zoo.analysis.carries import PROBES, REPLAYS
from midway_zoo.figures.canvas import colour, page, styled

_KINDS = {"scenes": "generated scenes", "clips": "real clips, moved by known motions"}


@styled
def latent_figure(report: LatentReport) -> Any:
    """Probes, leakage and replay of :func:`~midway_zoo.analysis.latent_report`, a row for each kind of pictures."""
    figure, axes = page(len(report.figures), 3, height=3.0 * len(report.figures), tallest=math.inf)
    for row, (kind, answers) in enumerate(report.figures.items()):
        probes = {who: [found["probes"][name] for name in PROBES] for who, found in answers.items()}
        _across(axes[row, 0], list(PROBES), probes, "R² of linear probes")
        leaks = {}
        for who, found in answers.items():
            leak = found["leakage"]
            leaks[who] = [leak["thumbnail"], leak["colour"], leak["same_picture"] / 100, leak["same_motion"] / 100]
        names = ["R² of\nthumbnail", "R² of\ncolour", "nearest:\npicture", "nearest:\nmotion"]
        _across(axes[row, 1], names, leaks, "appearance or motion?")
        level = max(answers["weights"]["replay"])
        replay = {who: [answers[who]["replay"][level][name] for name in REPLAYS] for who in ("weights", "random")}
        _across(axes[row, 2], list(REPLAYS), replay, f"error of replay, level {level}")
        axes[row, 2].set_xlabel("2 - 2 cos")
        axes[row, 0].set_ylabel(_KINDS.get(kind, kind), color=colour(style.INK))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


@styled
def truth_figure(scores: Mapping[str, TruthScores]) -> Any:
    """Hits, copies and PCK of tokens that move by a patch or more: a panel per network, a bar per rule."""
    figure, axes = page(len(scores), 1, height=1.9 * len(scores), tallest=math.inf, sharex=True)
    groups = {"hits": "hits", "copies": "copies", "within 1 token": "moved_pck_1", "within 2 tokens": "moved_pck_2"}
    for one, (name, found) in zip(axes[:, 0], scores.items(), strict=True):
        values = {rule: [figures[key] for key in groups.values()] for rule, figures in found.rules.items()}
        _bars(one, list(groups), values, name)
        one.axhline(found.chance, color=colour(style.INK), linewidth=0.6, linestyle=":")
        one.set_ylabel("% of moved tokens")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


@styled
def found_figure(scores: Mapping[str, RetrievalScores]) -> Any:
    """Retrieval scores: a panel per kind of motion, a group per descriptor, a bar per network; dotted lines are
    chance."""
    kinds = list(next(iter(scores.values())).right)
    figure, axes = page(len(kinds), 1, height=1.9 * len(kinds) + 0.3, tallest=math.inf, sharex=True)
    ways = list(dict.fromkeys(way for found in scores.values() for way in found.right[kinds[0]]))
    for one, kind in zip(axes[:, 0], kinds, strict=True):
        values = {name: [found.right[kind].get(way, math.nan) for way in ways] for name, found in scores.items()}
        _bars(one, [way.replace(" of ", "\nof ") for way in ways], values, kind)
        one.axhline(next(iter(scores.values())).chance, color=colour(style.INK), linewidth=0.6, linestyle=":")
        one.set_ylabel("% found")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _across(axes: Any, names: list[str], series: Mapping[str, list[float]], title: str) -> None:
    """Groups of horizontal bars, which leave room for the values beside them; negative values have no bar."""
    width = 0.84 / len(series)
    largest = max((value for values in series.values() for value in values if value == value), default=0.0)
    top = 1.25 * max(largest, 0.1)
    for index, (who, values) in enumerate(series.items()):
        places = [number + (index - (len(series) - 1) / 2) * width for number in range(len(names))]
        lengths = [max(value, 0.0) for value in values]
        axes.barh(places, lengths, width, label=who, color=colour(style.SERIES[index]))
        for place, value in zip(places, values, strict=True):
            if value == value:
                axes.text(
                    max(value, 0) + 0.015 * top,
                    place,
                    f"{value:.2f}".replace("-0.00", "0.00"),
                    ha="left",
                    va="center",
                    fontsize=6,
                )
    axes.set_xlim(0, top)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    _plain(axes, title)


def _plain(axes: Any, title: str) -> None:
    axes.tick_params(length=2, width=0.5)
    axes.set_title(title, color=colour(style.INK))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(axes: Any, names: list[str], series: Mapping[str, list[float]], title: str) -> None:
    """Groups of vertical bars of percentages, labelled with their values."""
    width = 0.84 / len(series)
    for index, (who, values) in enumerate(series.items()):
        places = [number + (index - (len(series) - 1) / 2) * width for number in range(len(names))]
        axes.bar(places, values, width, label=who, color=colour(style.SERIES[index % len(style.SERIES)]))
        for place, value in zip(places, values, strict=True):
            if value == value:
                axes.text(place, value + 1, f"{value:.0f}", ha="center", va="bottom", fontsize=6)
    axes.set_ylim(0, 109)
    axes.set_xticks(range(len(names)), names)
    _plain(axes, title)
