"""Does the motion latent find the clip with the same motion? Retrieval among generated clips of known motion."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.moved import MovedPairs, ScenePictures, circle_of_shifts, crossed_pairs, draw_motions
from midway_zoo.analysis.retrieval import cosines
from midway_zoo.bars import bar
from midway_zoo.checks import check_integer
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.registry import Model, resolve_network

SEED = 0x666F_756E_64  # of pictures and motions; do not train with this seed
MOTION_KINDS = ("shifts", "shifts, zoom and rotation")
BASELINES = ("appearance", "appearance of both frames", "pixels")
_ASKED = 1_000_000  # number of the queries' first picture, beyond all pictures of the clips
_BATCH = 32


@dataclass(frozen=True)
class RetrievalScores:
    """How often the nearest clip has the query's motion."""

    right: dict[str, dict[str, float]]
    """Percentage by kind of motion (:data:`MOTION_KINDS`), then by descriptor: "level 2", "level 1", "level 0", the
    motion latents of each level that the network has; "appearance", class tokens of the sources; "appearance of both
    frames", class tokens of source and target; "pixels", the difference of the frames at 8 x 8."""
    clips: int
    """Number of clips searched at a time: every motion with every picture."""
    asked: int
    """Number of queries per kind of motion."""
    chance: float
    """Percentage for a clip drawn at random. "appearance" is at chance for any network, since sources do not move."""


def retrieval_truth(
    model: Model,
    *,
    motions: int = 10,
    pictures: int = 5,
    asked: int = 4,
    rounds: int = 5,
    textures: str = "natural",
    seed: int = SEED,
) -> RetrievalScores:
    """Search clips of known motion by the motion of other clips, as :func:`~midway_zoo.analysis.find_motion` does.

    In each round every picture is moved by every motion, which gives a clip of two frames each; the queries are
    ``asked`` other pictures, moved by the same motions. A query counts as correct if the nearest clip has its motion.
    The motions are shifts by a ninth of the picture's side, evenly spread over all directions; and, separately,
    shifts, zoom and rotation together, drawn in each round as in :func:`~midway_zoo.analysis.latent_report`.

    Args:
        model: a network or a pretrained name.
        motions, pictures: how many make up the ``motions * pictures`` clips that are searched.
        asked: number of pictures of the queries; a round has ``asked * motions`` queries.
        rounds: number of rounds, each with other pictures and motions.
        textures: textures of generated scenes; see :class:`~midway_zoo.scenes.ScenesConfig`.
        seed: seed of pictures and motions.

    Raises:
        InputError: for arguments that cannot be used.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    network.require_dynamics()
    for name, value, least in (("motions", motions, 2), ("pictures", pictures, 1), ("asked", asked, 1)):
        check_integer(name, value, least)
    check_integer("rounds", rounds, 1)
    side = min(network.config.img_size)
    right: dict[str, dict[str, float]] = {kind: {} for kind in MOTION_KINDS}
    queries = rounds * asked * motions
    for number in bar(range(rounds), unit=" rounds"):
        shown = ScenePictures(side, textures=textures, seed=seed + number)
        for kind, scores in right.items():
            drawn = (
                circle_of_shifts(motions, side)
                if kind == MOTION_KINDS[0]
                else draw_motions(motions, side, seed=seed + number, movers=False)
            )
            clips, wanted = (
                _read(network, crossed_pairs(shown, range(first, first + count), drawn, side))
                for first, count in ((0, pictures), (_ASKED, asked))
            )
            for name, stored in clips.items():
                hits = _hits(wanted[name], stored, motions)
                scores[name] = scores.get(name, 0.0) + 100 * hits / queries
    return RetrievalScores(right, motions * pictures, queries, 100 / motions)


def _read(network: MidwayNetwork, pairs: MovedPairs) -> dict[str, Tensor]:
    """The descriptors of pairs, each (B, width)."""
    latents = infer_motion_latent(network, pairs.source, pairs.target, batch_size=_BATCH).levels
    first, second = (extract_features(network, one, batch_size=_BATCH).cls for one in (pairs.source, pairs.target))
    found = {f"level {level}": values.flatten(1) for level, values in latents.items()}
    gray = F.adaptive_avg_pool2d((pairs.target - pairs.source).mean(1, keepdim=True), 8)
    baselines = (first, torch.cat([first, second], dim=1), gray.flatten(1))
    return {
        name: values.float().cpu() for name, values in (found | dict(zip(BASELINES, baselines, strict=True))).items()
    }


def _hits(asked: Tensor, stored: Tensor, motions: int) -> int:
    """How many queries (q, width) are nearest to a clip (c, width) with their motion; both are ordered by picture, then
    by motion."""
    nearest = cosines(asked, stored).argmax(dim=1)
    return int((nearest % motions == torch.arange(len(asked)) % motions).sum())
