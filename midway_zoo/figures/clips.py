"""Figures of clips: tracks, motion similarity, principal components, retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midway_zoo import style
from midway_zoo.analysis import ClipSimilarity, Components, Match
from midway_zoo.figures.canvas import (
    bar_of,
    bare,
    cell_height,
    colour,
    page,
    palette,
    point,
    row_labels,
    short,
    show,
    styled,
)

_MOST = 6


def spread(count: int, most: int = _MOST) -> list[int]:
    """At most ``most`` of the indices 0 to ``count`` - 1, evenly spaced, including the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


@styled
def tracks_figure(
    frames: Sequence[Tensor],
    tracks: Mapping[str, Tensor],
    *,
    labels: Sequence[str] = (),
    columns: Sequence[int] | None = None,
) -> Any:
    """Frames with each point's path so far, a row per tracking method.

    Args:
        frames: T pictures (3, H, W) in [0, 1].
        tracks: {name: (T, n, 2)} in pixels of the frames.
        labels: T names of the frames.
        columns: indices of the frames to draw; None: at most six, evenly spaced.
    """
    chosen = spread(len(frames)) if columns is None else list(columns)
    width = max(len(chosen), 2)
    figure, axes = page(
        len(tracks),
        len(chosen),
        height=len(tracks) * cell_height(frames[0], width, titled=False) + 0.2,
        width=7.0 * len(chosen) / width,
    )
    dot = 6.0 if len(chosen) < 4 else 4.5
    height, across = frames[0].shape[1:]
    for row, xy in enumerate(tracks.values()):
        for column, index in enumerate(chosen):
            one = axes[row, column]
            label = labels[index] if labels else f"frame {index}"
            show(one, frames[index], label if row == 0 else "")
            for number in range(xy.shape[1]):
                path = xy[: index + 1, number].cpu()
                if index:
                    one.plot(path[:, 0], path[:, 1], color="black", linewidth=0.4 * dot, solid_capstyle="round")
                    ink = colour(style.point_colour(number))
                    one.plot(path[:, 0], path[:, 1], color=ink, linewidth=0.23 * dot, solid_capstyle="round")
                point(one, path[-1].tolist(), number, size=dot)
            one.set_xlim(-0.5, across - 0.5)
            one.set_ylim(height - 0.5, -0.5)
    row_labels(axes[:, 0], list(tracks))
    return figure


@styled
def similarity_figure(found: ClipSimilarity, frames: Sequence[Tensor] = (), *, labels: Sequence[str] = ()) -> Any:
    """Cosines between the motions of a clip, below its frames if they are given.

    Args:
        found: result of :func:`~midway_zoo.analysis.clip_similarity`.
        frames: the clip's frames (3, H, W), or none.
        labels: their names.
    """
    rows = 2 if len(frames) else 1
    shown = spread(len(frames), 6)
    top = cell_height(frames[0], max(len(shown), 4), 5.0) if len(frames) else 0.0
    figure, axes = page(rows, 1, height=4.2 + top, width=5.2, height_ratios=[top, 4.2] if rows == 2 else [1])
    matrix = axes[-1, 0]
    times = found.latents.pts_seconds
    count = len(found.similarity)
    extent, name = (-0.5, count - 0.5, count - 0.5, -0.5), "pair"
    if times is not None and count > 1:
        step = float(times[-1, 0] - times[0, 0]) / (count - 1)
        first, last = float(times[0, 0]) - step / 2, float(times[-1, 0]) + step / 2
        extent, name = (first, last, last, first), "seconds"
    options = {"vmin": -1, "vmax": 1, "extent": extent, "interpolation": "nearest"}
    drawn = matrix.imshow(found.similarity.numpy(), cmap=palette(style.DIVERGING), **options)
    matrix.set_xlabel(name)
    matrix.set_ylabel(name)
    if name == "pair":  # pairs are counted in whole numbers
        for axis in (matrix.xaxis, matrix.yaxis):
            axis.get_major_locator().set_params(integer=True)
    matrix.set_title("cosine of motion latents around their mean", color=colour(style.INK))
    bar_of(figure, drawn, matrix, "cosine")
    if len(frames):
        strip = axes[0, 0]
        strip.axis("off")
        for number, index in enumerate(shown):
            inset = strip.inset_axes((number / len(shown), 0, 0.96 / len(shown), 1))
            show(inset, frames[index], labels[index] if labels else f"frame {index}")
    return figure


@styled
def components_figure(
    frames: Sequence[Tensor],
    found: Components,
    *,
    labels: Sequence[str] = (),
    columns: Sequence[int] | None = None,
) -> Any:
    """Frames, their first component, and the foreground's first three as red, green and blue on a white background."""
    chosen = spread(len(frames)) if columns is None else list(columns)
    width = max(len(chosen), 3)
    figure, axes = page(
        3, len(chosen), height=3 * cell_height(frames[0], width, titled=False) + 0.45, width=7.0 * len(chosen) / width
    )
    longest = float(found.first.abs().max()) or 1.0
    colours = torch.where(found.foreground[:, None], found.colours, torch.ones(()))
    for column, index in enumerate(chosen):
        show(axes[0, column], frames[index], labels[index] if labels else f"frame {index}")
        axes[1, column].imshow(found.first[index].numpy(), cmap=palette(style.DIVERGING), vmin=-longest, vmax=longest)
        bare(axes[1, column])
        show(axes[2, column], colours[index])
    row_labels(axes[:, 0], ("frame", "component 1", "foreground"))
    shares = [round(100 * value) for value in found.explained.tolist()]
    text = f"variance: component 1 {shares[0]} %;" + (" " if len(chosen) > 2 else "\n")
    text += f"the foreground's three {shares[1]}, {shares[2]} and {shares[3]} %"
    figure.supxlabel(text, fontsize=7, color=colour(style.GREY))
    return figure


@styled
def retrieval_figure(
    query: tuple[Tensor, Tensor], answers: Mapping[str, Sequence[tuple[Match, tuple[Tensor, Tensor] | None]]]
) -> Any:
    """The query's two frames above the clips that match it, source over target, a block per descriptor.

    Args:
        query: source and target (3, H, W).
        answers: {descriptor: [(match, (its source, its target))]}, with None for frames that can no longer be read.
    """
    columns = max(2, *(len(found) for found in answers.values()))
    height = (2 * len(answers) + 1) * cell_height(query[0], columns) + 0.2 * len(answers)
    figure, axes = page(2 * len(answers) + 1, columns, height=height)
    for one, picture, title in zip(axes[0, :2], query, ("query: source", "query: target"), strict=True):
        show(one, picture, title)
    for spare in axes[0, 2:]:
        spare.axis("off")
    for block, found in enumerate(answers.values()):
        rows = axes[2 * block + 1], axes[2 * block + 2]
        for column in range(columns):
            pair = rows[0][column], rows[1][column]
            if column >= len(found):
                for one in pair:
                    one.axis("off")
                continue
            match, pictures = found[column]
            for number, one in enumerate(pair):
                bare(one)
                one.set_anchor("N")
                if pictures is not None:
                    show(one, pictures[number])
            where = f"frame {match.frame}" if match.seconds is None else f"{match.seconds:.1f} s"
            title = f"{short(match.clip)}\n{match.score:.2f} at {where}"
            pair[0].set_title(title, pad=3, color=colour(style.INK), fontsize=7.5 if columns < 6 else 6)
    row_labels(axes[1:, 0], [text for way in answers for text in (f"by {way}\nsource", "target")])
    return figure
