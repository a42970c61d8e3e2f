"""Figures of pairs of frames: heat maps, the sensitivity matrix, gates, attention and backward features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midway_zoo import style
from midway_zoo.analysis import AttentionMaps, GateMaps, HeatMaps, MotionAttention
from midway_zoo.figures.canvas import bar_of, cell_height, colour, heat, page, palette, point, show, styled
from midway_zoo.visualize import features_to_image

_MOST = 6  # points or columns that stay legible


@styled
def heat_figure(source: Tensor, targets: Sequence[Tensor], maps: HeatMaps, labels: Sequence[str] = ()) -> Any:
    """Source with marked points beside targets with their heat maps, a row for each point; rings are the peaks.

    Args:
        source: (3, H, W) in [0, 1].
        targets: T of them; the first six are drawn.
        maps: of :func:`~midway_zoo.analysis.heat_maps`; of its points the first six are drawn.
        labels: T names of the targets.
    """
    shown, points = min(len(targets), _MOST - 1), min(len(maps.xy), _MOST)
    names = list(labels) or [f"target {number + 1}" if len(targets) > 1 else "target" for number in range(shown)]
    columns = max(shown + 1, 3)
    figure, axes = page(
        points,
        shown + 1,
        height=points * cell_height(source, columns, titled=False) + 0.2,
        width=7.0 * (shown + 1) / columns + 0.6,
    )
    low, high = float(maps.heatmaps[:shown, :points].min()), float(maps.heatmaps[:shown, :points].max())
    drawn = None
    for row in range(points):
        show(axes[row, 0], source, "source" if row == 0 else "")
        point(axes[row, 0], maps.xy[row].tolist(), row)
        for column in range(shown):
            title = names[column] if row == 0 else ""
            drawn = heat(axes[row, column + 1], targets[column], maps.heatmaps[column, row], low, high, title)
            point(axes[row, column + 1], maps.target_xy[column, row].tolist(), row, ring=True)
    bar_of(figure, drawn, axes, "sensitivity (cosine)")
    return figure


@styled
def matrix_figure(matrix: Tensor, grid: tuple[int, int], title: str = "") -> Any:
    """A sensitivity matrix (N, N): a bright diagonal is the identity, bright lines beside it are motion."""
    figure, axes = page(1, 1, height=4.2, width=4.8)
    (one,) = axes[0]
    drawn = one.imshow(matrix.detach().cpu().float().numpy(), cmap=palette(style.HEAT), interpolation="nearest")
    ticks = list(range(0, grid[0] * grid[1], grid[1] * max(1, grid[0] // 7)))
    one.set_xticks(ticks)
    one.set_yticks(ticks)
    one.tick_params(length=2, width=0.5)
    one.set_xlabel(f"target token, row by row of {grid[0]} x {grid[1]}")
    one.set_ylabel("source token")
    one.set_title(title or "sensitivity of target tokens to source tokens", color=colour(style.INK))
    bar_of(figure, drawn, one, "cosine")
    return figure


@styled
def gates_figure(source: Tensor, target: Tensor, gates: GateMaps, row: int = 0) -> Any:
    """Source and target above the mean gates of a pair: a row for each level, a column for each gated block."""
    levels = list(gates.mean)
    blocks = gates.mean[levels[0]].shape[1]
    columns = max(blocks, 2)
    figure, axes = page(
        len(levels) + 1, columns, height=(len(levels) + 1) * cell_height(source, columns, 5.4), width=6.0
    )
    show(axes[0, 0], source, "source")
    show(axes[0, 1], target, "target")
    for spare in axes[0, 2:]:
        spare.axis("off")
    for number, level in enumerate(levels, 1):
        values = gates.mean[level][row]
        low, high = float(values.min()), float(values.max())
        drawn = None
        for block in range(blocks):
            drawn = heat(axes[number, block], None, values[block], low, high, f"level {level}, block {block + 1}")
        for spare in axes[number, blocks:]:
            spare.axis("off")
        bar_of(figure, drawn, axes[number], "gate")
    return figure


@styled
def attention_figure(
    pictures: Sequence[Tensor], found: AttentionMaps | MotionAttention, xy: Sequence[float] | None = None
) -> Any:
    """Attention of the encoder (a row for each image: the heads' mean, then the first heads), or of motion tokens.

    Args:
        pictures: the images, or source and target of one pair.
        found: of :func:`~midway_zoo.analysis.attention_maps` or :func:`~midway_zoo.analysis.motion_attention`.
        xy: the point whose token looks; marked.
    """
    if isinstance(found, MotionAttention):
        return _motion_attention(pictures, found)
    heads = min(found.maps.shape[1], _MOST - 2)
    count = min(len(pictures), _MOST)
    figure, axes = page(count, heads + 2, height=count * cell_height(pictures[0], heads + 2, titled=False) + 0.4)
    for row in range(count):
        maps = found.maps[row].cpu().float()
        show(axes[row, 0], pictures[row], "image" if row == 0 else "")
        drawn_maps = [("mean of heads", maps.mean(0))] + [(f"head {head + 1}", maps[head]) for head in range(heads)]
        for column, (name, one) in enumerate(drawn_maps, 1):
            heat(axes[row, column], pictures[row], one, 0.0, float(one.max()), name if row == 0 else "")
        if xy is not None:
            point(axes[row, 0], xy, 0)
    who = "the token under the point" if xy is not None else "the class token"
    figure.suptitle(f"attention of {who}, block {found.block}; each map from 0 (dark) to its largest", fontsize=9)
    return figure


def _motion_attention(pictures: Sequence[Tensor], found: MotionAttention) -> Any:
    tokens = min(found.source.shape[1], _MOST - 2)
    figure, axes = page(2, tokens + 2, height=2 * cell_height(pictures[0], tokens + 2) + 0.2)
    for row, (name, maps) in enumerate((("source", found.source[0]), ("target", found.target[0]))):
        show(axes[row, 0], pictures[row], name)
        drawn = [(f"all {100 * float(maps.sum()) / found.source.shape[1]:.0f} %", maps.mean(0))]
        drawn += [
            (f"token {number + 1} {100 * float(maps[number].sum()):.0f} %", maps[number]) for number in range(tokens)
        ]
        for column, (title, one) in enumerate(drawn, 1):
            heat(axes[row, column], pictures[row], one, 0.0, float(one.max()), title)
    figure.suptitle(
        f"attention of motion tokens, level {found.level}, block {found.block}; percent: the frame's share of it; "
        "each map from 0 to its largest",
        fontsize=9,
    )
    return figure


@styled
def backward_figure(pictures: Sequence[Tensor], maps: Mapping[str, Tensor]) -> Any:
    """Images above feature maps {name: (B, D, h, w)}, each map's first three components as red, green and blue."""
    count = min(len(pictures), _MOST)
    columns = max(count, 3)
    figure, axes = page(
        len(maps) + 1,
        count,
        height=(len(maps) + 1) * cell_height(pictures[0], columns, 6.4),
        width=7.0 * count / columns,
    )
    for column in range(count):
        show(axes[0, column], pictures[column], "image" if column == 0 else "")
    for row, (name, values) in enumerate(maps.items(), 1):
        images = features_to_image(values[:count].float().cpu())
        for column in range(count):
            picture = images[column]
            assert isinstance(picture, Tensor)
            show(axes[row, column], torch.as_tensor(picture), name if column == 0 else "")
    return figure
