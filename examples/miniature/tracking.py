"""Perturbation tracking against the exact motion of generated scenes that nothing is trained on.

Figures come from two kinds of scenes, of the size that pretraining sees: those of the flow recipe ("pck_...") and those
of pretraining, whose camera moves as far here as camera and objects together do there ("fast_pck_..."). What moves less
than a patch, 8 pixels, is matched well by a copy: the share of copies is taken over source tokens that truly move by a
patch or more ("fast_identity_moved").
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import rows
import torch
from torch import Tensor

from midway_zoo.analysis import flow_at, identity_share, pck, sensitivity_matrix, track
from midway_zoo.inference.perturbation import matches
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.scenes import SceneBatch, SceneGenerator, ScenesConfig
from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.flow.config import FlowConfig

SEED = 0x7472_6163_6B  # of the scenes that are held out; no run should have it as its own
AT_ONCE = 8
PAPER: dict[str, int] = {"candidates": 5, "window": 0}
"""How the paper tracks: from token to token, to the one of the five most sensitive that looks most alike."""


def measure(network: MidwayNetwork, budget: rows.Budget) -> dict[str, float]:
    """All figures of a network, in percent; see :func:`pair_figures` and :func:`clip_figures`."""
    slow, fast = scenes(budget)
    figures = pair_figures(network, slow, budget)
    figures |= {f"fast_{key}": value for key, value in pair_figures(network, fast, budget).items()}
    return figures | clip_figures(network, slow, budget)


def scenes(budget: rows.Budget) -> tuple[ScenesConfig, ScenesConfig]:
    """Those of the flow recipe and fast ones, both of the size of pretraining's views."""
    flow = load_config(FlowConfig, rows.RECIPES / "flow.yaml", [*budget.flow, "out=unused"]).data.scenes
    pretraining = rows.pretrain_config(*budget.pretrain, "out=unused")
    seen, side = pretraining.data.scenes, pretraining.views.dynamics_size
    fast = replace(seen, camera=seen.camera + seen.motion)
    return tuple(replace(one, height=side, width=side, frames=2) for one in (flow, fast))  # type: ignore[return-value]


def held_out(config: ScenesConfig, count: int, at_once: int = AT_ONCE) -> Iterator[SceneBatch]:
    """The first ``count`` held-out scenes, in batches."""
    generator = SceneGenerator(config, SEED)
    for first in range(0, count, at_once):
        yield generator.render(range(first, min(first + at_once, count)))


def pair_figures(network: MidwayNetwork, config: ScenesConfig, budget: rows.Budget) -> dict[str, float]:
    """Every token of every pair, matched by its heat map.

    Returns:
        "pck_4", ...: percent of visible token centres found within so many pixels; "zero_pck_4", ...: if nothing
        moved; "identity_all": percent of all tokens whose heat map peaks where they are; of those that are seen and
        move a patch or more, "identity_moved": the same, "hit_moved": it peaks where they go; and "moved": how many
        these are.
    """
    found: dict[str, list[Tensor]] = {key: [] for key in ("predicted", "true", "start", "visible", "moved", "peak")}
    shares, grid, patch = [], (0, 0), (0.0, 0.0)
    for batch in held_out(config, budget.pairs):
        source, target = batch.frames.unbind(1)
        result = sensitivity_matrix(network, source, target, draws=budget.draws, batch_size=AT_ONCE)
        grid, matrix = result.grid, result.matrix.cpu()
        patch = (config.width / grid[1], config.height / grid[0])
        start = _centres(grid, config.width).expand(len(source), -1, -1)
        true = start + flow_at(batch.flow[:, 0], start)
        visible = _seen(batch, start)
        found["predicted"].append((matches(matrix, grid)[0] + 0.5) * torch.tensor(patch) - 0.5)
        found["true"].append(true)
        found["start"].append(start)
        found["visible"].append(visible)
        found["moved"].append(visible & (torch.linalg.vector_norm(true - start, dim=-1) >= min(patch)))
        found["peak"].append(matrix.argmax(-1))
        shares.append(identity_share(matrix))
    all_of = {key: torch.cat(values) for key, values in found.items()}
    visible, moved, peak = all_of["visible"], all_of["moved"], all_of["peak"]
    here = torch.arange(grid[0] * grid[1])
    goal = ((all_of["true"] + 0.5) / torch.tensor(patch)).floor().long()
    figures = _named(pck(all_of["predicted"], all_of["true"], visible=visible), "")
    figures |= _named(pck(all_of["start"], all_of["true"], visible=visible), "zero_")
    figures["identity_all"] = 100 * float(torch.cat(shares).float().mean())
    figures["identity_moved"] = _percent(peak == here, moved)
    figures["hit_moved"] = _percent(peak == goal[..., 1] * grid[1] + goal[..., 0], moved)
    return figures | {"moved": int(moved.sum())}


def clip_figures(network: MidwayNetwork, config: ScenesConfig, budget: rows.Budget) -> dict[str, float]:
    """Points followed from pair to pair through clips: "clip_pck_4", ..., over all frames but the first; the same by
    the paper's rule, "similar_clip_pck_4", ...; and of points that stay, "zero_clip_pck_4", ...."""
    config = replace(config, frames=budget.frames)
    places: dict[str, list[Tensor]] = {"clip_": [], "similar_clip_": [], "zero_clip_": []}
    true, visible = [], []
    for batch in held_out(config, budget.clips):
        for number in range(len(batch)):
            points = _points(number, budget.points, config.width)
            paths, seen = true_paths(batch, number, points)
            for prefix, rule in (("clip_", {}), ("similar_clip_", PAPER)):
                tracks = track(network, batch.frames[number], points, draws=budget.draws, **rule)
                places[prefix].append(tracks.xy[1:].cpu())
            places["zero_clip_"].append(points.expand(config.frames - 1, -1, -1))
            true.append(paths[1:])
            visible.append(seen[1:])
    figures = {}
    for prefix, found in places.items():
        figures |= _named(pck(torch.stack(found), torch.stack(true), visible=torch.stack(visible)), prefix)
    return figures


def _named(shares: dict[str, float], prefix: str) -> dict[str, float]:
    """Keys "pck_4", ..., "pck_mean", after a prefix."""
    return {f"{prefix}pck_{key.removeprefix('pck_')}": value for key, value in shares.items()}


def true_paths(batch: SceneBatch, number: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where points (n, 2) of the first frame of a clip are in all frames, (T, n, 2), and whether they are seen, (T, n).

    The flow is affine within an object, so that its bilinear value is exact where all four pixels around a point show
    the same one. From the first frame on in which they do not, or the point is covered, it counts as unseen.
    """
    flows, covered, instances = batch.flow[number], batch.occlusion[number], batch.instances[number]
    owner = _around(instances[:1], points[None])[0, :, :1]
    paths, seen = [points], [_whole(instances[:1], points[None])[0]]
    for flow, occlusion, after in zip(flows, covered, instances[1:], strict=True):
        here = paths[-1][None]
        gone = _around(occlusion[None], here).any(-1)[0]
        paths.append((here + flow_at(flow[None], here))[0])
        same = (_around(after[None], paths[-1][None])[0] == owner).all(-1)
        seen.append(seen[-1] & ~gone & same & paths[-1].isfinite().all(-1))
    return torch.stack(paths), torch.stack(seen)


def _seen(batch: SceneBatch, points: Tensor) -> Tensor:
    """Whether points (B, n, 2) of the first frame lie within one object and are seen in the second, (B, n)."""
    return _whole(batch.instances[:, 0], points) & ~_around(batch.occlusion[:, 0], points).any(-1)


def _whole(instances: Tensor, points: Tensor) -> Tensor:
    around = _around(instances, points)
    return (around == around[..., :1]).all(-1)


def _around(maps: Tensor, points: Tensor) -> Tensor:
    """Values of (B, H, W) at the four pixels around points (B, n, 2): (B, n, 4); the nearest ones at the border."""
    height, width = maps.shape[-2:]
    low = points.floor().long()
    corners = torch.stack([low, low + 1], dim=-1)  # (B, n, xy, 2)
    x, y = corners[:, :, 0].clamp(0, width - 1), corners[:, :, 1].clamp(0, height - 1)
    rows_of = torch.arange(len(maps))[:, None, None]
    return torch.stack([maps[rows_of, y, x], maps[rows_of, y, x.flip(-1)]], dim=-1).flatten(2)


def _centres(grid: tuple[int, int], side: int) -> Tensor:
    """Pixels (1, N, 2) of the centres of tokens, row by row."""
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    scale = torch.tensor([side / grid[1], side / grid[0]])
    return ((torch.stack([x, y], dim=-1).reshape(1, -1, 2) + 0.5) * scale - 0.5).float()


def _points(number: int, count: int, side: int) -> Tensor:
    """Points (n, 2) of clip ``number``, away from the border by an eighth, where the camera could take them out."""
    generator = torch.Generator().manual_seed(SEED + number)
    return side * (0.125 + 0.75 * torch.rand(count, 2, generator=generator))


def _percent(hits: Any, among: Tensor) -> float:
    """NaN where there is none."""
    return 100 * float(hits[among].float().mean()) if among.any() else float("nan")
