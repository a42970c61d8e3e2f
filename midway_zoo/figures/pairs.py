"""Figures of pairs of frames: heat maps, the sensitivity matrix, gates, attention and backward features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from midway_zoo import style
from midway_zoo.analysis import AttentionMaps, GateMaps, HeatMaps, MotionAttention
from midway_zoo.figures.canvas import bar_of, cell_height, colour, heat, page, palette, point, short, show, styled
from midway_zoo.visualize import features_to_image

_MOST = 6  # more points or columns would not be legible


@styled
def heat_figure(source: Tensor, targets: Sequence[Tensor], maps: HeatMaps, labels: Sequence[str] = ()) -> Any:
    """The source with its points beside the targets with their heat maps, a row per point; rings mark the peaks.

    Args:
        source: (3, H, W) in [0, 1].
        targets: T pictures (3, H, W); the first five are drawn.
        maps: result of :func:`~midway_zoo.analysis.heat_maps`; the first six points are drawn.
        labels: T names of the targets.
    """
    shown, points = min(len(targets), _MOST - 1), min(len(maps.xy), _MOST)
    names = list(labels) or [f"target {number + 1}" if len(targets) > 1 else "target" for number in range(shown)]
    columns = max(shown + 1, 3)
    names = [short(name, 90 // columns) for name in names]
    figure, axes = page(
        points,
        shown + 1,
        height=points * cell_height(source, columns, titled=False) + 0.2,
        width=7.0 * (shown + 1) / columns + 0.6,
    )
    low, high = float(maps.heatmaps[:shown, :points].min()), float(maps.heatmaps[:shown, :points].max())
    drawn, dot = None, 6.0 if columns < 4 else 4.5
    for row in range(points):
        show(axes[row, 0], source, "source" if row == 0 else "")
        point(axes[row, 0], maps.xy[row].tolist(), row, size=dot)
        for column in range(shown):
            title = names[column] if row == 0 else ""
            drawn = heat(axes[row, column + 1], targets[column], maps.heatmaps[column, row], low, high, title)
            point(axes[row, column + 1], maps.target_xy[column, row].tolist(), row, ring=True, size=dot)
    bar_of(figure, drawn, axes, "sensitivity (cosine)")
    return figure


@styled
def matrix_figure(matrix: Tensor, grid: tuple[int, int], title: str = "") -> Any:
    """A sensitivity matrix (N, N): a bright diagonal means identity, bright lines beside it mean motion."""
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
    """Source and target above the mean gates of pair ``row``: a row per level, a column per gated block."""
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
    """Attention of the encoder (a row per image: the mean of the heads, then the first heads), or of motion tokens.

    Args:
        pictures: the images, or source and target of one pair.
        found: result of :func:`~midway_zoo.analysis.attention_maps` or :func:`~midway_zoo.analysis.motion_attention`.
        xy: the point whose token attends, to be marked; None for the class token.
    """
    if isinstance(found, MotionAttention):
        return _motion_attention(pictures, found)
    heads = min(found.maps.shape[1], _MOST - 2)
    count = min(len(pictures), _MOST)
    grid = [
        {"mean of heads": maps.mean(0)} | {f"head {number + 1}": maps[number] for number in range(heads)}
        for maps in found.maps[:count].cpu().float()
    ]
    who = "the token under the point" if xy is not None else "the class token"
    figure, axes = _looks(pictures[:count], grid, f"attention of {who}, block {found.block}", ["image"] * count)
    if xy is not None:
        for one in axes[:, 0]:
            point(one, xy, 0)
    return figure


def _motion_attention(pictures: Sequence[Tensor], found: MotionAttention) -> Any:
    tokens = min(found.source.shape[1], _MOST - 2)
    grid = []
    for maps in (found.source[0].cpu().float(), found.target[0].cpu().float()):
        shares = [100 * float(one.sum()) for one in maps]
        named = {f"all {sum(shares) / len(shares):.0f} %": maps.mean(0)}
        grid.append(named | {f"token {one + 1} {shares[one]:.0f} %": maps[one] for one in range(tokens)})
    text = f"attention of motion tokens, level {found.level}, block {found.block}; percent: the frame's share of it"
    return _looks(pictures, grid, text, ["source", "target"])[0]


def _looks(
    pictures: Sequence[Tensor], grid: Sequence[Mapping[str, Tensor]], text: str, titles: Sequence[str]
) -> tuple[Any, Any]:
    """A row per picture: the picture and its attention maps, all on one scale, where 1 means evenly spread."""
    columns = len(grid[0]) + 1
    named = list(grid[0]) != list(grid[-1]) or titles[0] != titles[-1]  # otherwise the first row's titles hold for all
    height = len(pictures) * cell_height(pictures[0], columns, 6.5, titled=named) + 0.5
    figure, axes = page(len(pictures), columns, height=height)
    even = [{name: one / one.mean().clamp_min(1e-12) for name, one in row.items()} for row in grid]
    values = torch.cat([one.flatten() for row in even for one in row.values()])
    # Without the quantile, a few tokens with most of the attention would make all others look the same.
    top = max(1.0, float(values.quantile(0.99)))
    drawn = None
    for row, maps in enumerate(even):
        show(axes[row, 0], pictures[row], titles[row] if named or row == 0 else "")
        for column, (name, one) in enumerate(maps.items(), 1):
            drawn = heat(axes[row, column], pictures[row], one, 0.0, top, name if named or row == 0 else "")
    extend = "max" if float(values.max()) > top else "neither"
    bar_of(figure, drawn, axes, "attention (1: even)", extend=extend)
    figure.suptitle(text, fontsize=9, color=colour(style.INK))
    return figure, axes


@styled
def backward_figure(pictures: Sequence[Tensor], maps: Mapping[str, Tensor]) -> Any:
    """Images above feature maps {name: (B, D, h, w)}, whose first three components are red, green and blue."""
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
