"""Does a network know where things move? Every tracking rule against the exact motion of generated scenes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.fresh import ungated, untrained
from midway_zoo.analysis.rules import CANDIDATES
from midway_zoo.analysis.tracking import most_similar
from midway_zoo.bars import bar
from midway_zoo.checks import check_draws, check_integer
from midway_zoo.inference.batches import inference, normaliser
from midway_zoo.inference.flow import predict_flow
from midway_zoo.inference.perturbation import match_level, sensitivity_of
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.scenes import SceneBatch, SceneGenerator, ScenesConfig
from midway_zoo.weights.registry import Model, resolve_network

SEED = 0x7472_7574_68  # of held-out scenes; do not train with this seed
TOKENS = (1, 2)
"""Distances of PCK, in tokens."""
_AT_ONCE = 8


@dataclass(frozen=True)
class TruthScores:
    """How one network's tracking compares with the truth; all figures in percent, NaN if no token counts."""

    rules: dict[str, dict[str, float]]
    """By rule ("paper", "sensitivity", "similarity", "flow" where there is a head, and "still": nothing moves):
    "pck_1" and "pck_2" are the shares of all trackable tokens that end within 1 or 2 tokens of the truth, "moved_pck_1"
    and "moved_pck_2" those among tokens that move by a patch or more. Of the latter also "hits" (the rule finds the
    token where the point goes) and "copies" (it finds the token where the point was)."""
    tokens: int
    """Number of trackable tokens: visible in both frames, and not leaving the frame."""
    moved: int
    """Number of these that move by a patch or more."""
    chance: float
    """Hits expected for a token drawn at random."""
    level: int
    """Level of the forward dynamics that was perturbed."""


def tracking_truth(
    model: Model,
    *,
    pairs: int = 64,
    level: int | None = None,
    draws: int = 1,
    textures: str = "natural",
    seed: int = SEED,
) -> TruthScores:
    """Tracking of every token of generated pairs, by every rule, against the exact flow.

    Scenes have the network's native size. Their camera moves by up to 0.3 sides and objects by up to 0.1 more: one to
    three patches of a small network. A token's truth is the flow at the pixel at its middle; "hits" rounds it to whole
    tokens.

    Args:
        model: a network or a pretrained name.
        pairs: number of pairs.
        level: level of the forward dynamics to perturb, 2, 1 or 0; None for the highest that the network has.
        draws: random perturbations per token to average.
        textures: "natural", "procedural" or a folder of images; see :class:`~midway_zoo.scenes.ScenesConfig`.
        seed: seed of the scenes.

    Raises:
        InputError: for arguments that cannot be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    level = match_level(network, level)
    check_draws(draws, 0)
    check_integer("pairs", pairs, 1)
    totals: dict[str, dict[str, float]] = {}
    counts = [0, 0]
    with bar(total=pairs, unit=" pairs") as shown:
        for batch in scenes(network, pairs, textures, seed):
            truth = _Truth.of(batch, network.config.patch_size)
            for rule, ends in token_ends(network, batch, level, draws).items():
                scores = totals.setdefault(rule, {})
                for name, value in truth.score(ends).items():
                    scores[name] = scores.get(name, 0.0) + value
            counts[0] += int(truth.followed.sum())
            counts[1] += int(truth.moved.sum())
            shown.update(len(batch))
    rules = {
        rule: {name: _percent(value, counts[not name.startswith("pck")]) for name, value in scores.items()}
        for rule, scores in totals.items()
    }
    rows, columns = network.config.grid
    return TruthScores(rules, counts[0], counts[1], 100 / (rows * columns), level)


def _percent(value: float, count: int) -> float:
    return 100 * value / count if count else math.nan


def truth_variants(network: MidwayNetwork, name: str = "weights") -> dict[str, MidwayNetwork]:
    """A network and its baselines: with its gates held open, with random weights, and with random weights without
    gates.

    Holding the gates of trained weights open is not the same as training without gates; for that, pass such weights.
    """
    fresh = untrained(network)
    variants = {name: network}
    if network.require_dynamics().config.gating:
        variants[f"{name}, gates open"] = ungated(network)
    variants[f"{name}, untrained"] = fresh
    if fresh.require_dynamics().config.gating:
        variants[f"{name}, untrained, gates open"] = ungated(fresh)
    return variants


def scenes(network: MidwayNetwork, pairs: int, textures: str, seed: int) -> Iterator[SceneBatch]:
    """Held-out pairs at a network's native size, in batches."""
    height, width = network.config.img_size
    side = min(height, width)
    config = ScenesConfig(
        height=height,
        width=width,
        objects=(1, 4),
        motion=0.1 * side,
        camera=0.3 * side,
        textures=textures,
        natural=None if textures == "procedural" else 16,
    )
    generator = SceneGenerator(config, seed)
    for start in range(0, pairs, _AT_ONCE):
        yield generator.render(range(start, min(start + _AT_ONCE, pairs)))


def token_ends(network: MidwayNetwork, batch: SceneBatch, level: int, draws: int) -> dict[str, Tensor]:
    """Where each rule takes the source's tokens: (B, N, 2) columns and rows in the target, by rule."""
    source, target = batch.frames.unbind(1)
    with inference(network):
        normalise = normaliser(network)
        images = normalise(source), normalise(target)
        grid, levels = network.grid_of(images[0]), network.encode_pair(*images)
        matrix = sensitivity_of(network, *levels, grid, level=level, draws=draws)
        own, others = (part[-1][:, 1:] for part in levels)
        alike = F.normalize(own.float(), dim=-1) @ F.normalize(others.float(), dim=-1).transpose(1, 2)
        best = {
            "paper": most_similar(matrix, own, others, CANDIDATES),
            "sensitivity": matrix.argmax(-1),
            "similarity": alike.argmax(-1),
            "still": torch.arange(matrix.shape[1], device=matrix.device).expand(len(matrix), -1),
        }
    ends = {rule: torch.stack([one % grid[1], one // grid[1]], dim=-1).float().cpu() for rule, one in best.items()}
    if network.flow_head is not None:
        patch = network.config.patch_size
        flow = predict_flow(network, source, target, method="head", batch_size=_AT_ONCE).flow
        assert isinstance(flow, Tensor)  # scenes have one size
        middle = slice(patch // 2, None, patch)
        step = flow[:, :, middle, middle].flatten(2).transpose(1, 2).cpu() / patch
        ends["flow"] = ends["still"] + step
    return ends


@dataclass(frozen=True)
class _Truth:
    """True ends of tokens (B, N)."""

    start: Tensor
    """(N, 2) columns and rows."""
    end: Tensor
    """(B, N, 2), in fractions of tokens."""
    followed: Tensor
    """(B, N) bool: visible in both frames, and ending on a token."""
    moved: Tensor
    """(B, N) bool: of these, by a patch or more."""

    @classmethod
    def of(cls, batch: SceneBatch, patch: int) -> "_Truth":
        middle = slice(patch // 2, None, patch)
        flow, hidden = batch.flow[:, 0, :, middle, middle] / patch, batch.occlusion[:, 0, middle, middle]
        rows, columns = hidden.shape[1:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        start = torch.stack([x, y], dim=-1).flatten(0, 1).float()
        step = flow.flatten(2).transpose(1, 2)
        goal = start + step.round()
        inside = ((goal >= 0) & (goal < goal.new_tensor([columns, rows]))).all(-1)
        followed = inside & ~hidden.flatten(1)
        return cls(start, start + step, followed, followed & (torch.linalg.vector_norm(step, dim=-1) >= 1))

    def score(self, ends: Tensor) -> dict[str, float]:
        """How many tokens ``ends`` (B, N, 2) get right, by figure."""
        apart = torch.linalg.vector_norm(ends - self.end, dim=-1)
        goal, found = self.start + (self.end - self.start).round(), ends.round()
        counts = {}
        for bound in TOKENS:
            near = apart <= bound
            counts[f"pck_{bound}"] = float((near & self.followed).sum())
            counts[f"moved_pck_{bound}"] = float((near & self.moved).sum())
        counts["hits"] = float(((found == goal).all(-1) & self.moved).sum())
        counts["copies"] = float(((found == self.start).all(-1) & self.moved).sum())
        return counts
