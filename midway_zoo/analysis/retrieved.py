"""Does the motion latent find the clip that moves alike? Retrieval among generated clips, whose motions are known."""

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

SEED = 0x666F_756E_64  # of pictures and motions; no training should have it as its own
MOTION_KINDS = ("shifts", "shifts, zoom and rotation")
BASELINES = ("appearance", "appearance of both frames", "pixels")
_ASKED = 1_000_000  # number of the first picture of the queries: none of the clips shows it
_BATCH = 32


@dataclass(frozen=True)
class RetrievalScores:
    """How often the nearest clip makes the query's motion."""

    right: dict[str, dict[str, float]]
    """Percent by kind of motions (:data:`MOTION_KINDS`), then by what is compared: "level 2", "level 1", "level 0", the
    motion latents of each level that the network has; "appearance", class tokens of the sources; "appearance of both
    frames", class tokens of source and target; "pixels", the difference of the frames at 8 x 8."""
    clips: int
    """That are searched at a time: every motion with every picture."""
    asked: int
    """Queries for each kind of motions."""
    chance: float
    """Percent of a clip drawn at random. "appearance" is at chance whatever the network: sources do not move."""


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
    """Search clips of known motion, as :func:`~midway_zoo.analysis.find_motion` does, for the motion of others.

    In each round ``pictures`` make each of ``motions``, one clip of two frames each, and ``asked`` pictures that no
    clip shows make them too. A query is answered rightly if the nearest clip makes the same motion. The motions are
    shifts of a ninth of the picture's side, evenly in all directions; then shifts, zoom and rotation together, drawn
    anew in each round as in :func:`~midway_zoo.analysis.latent_report`.

    Args:
        model: a network or a pretrained name.
        motions, pictures: of the clips that are searched, ``motions * pictures`` of them.
        asked: pictures of the queries of a round, ``asked * motions`` queries.
        rounds: with other pictures and motions each.
        textures: of generated scenes; see :class:`~midway_zoo.scenes.ScenesConfig`.
        seed: of pictures and motions.

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
            for way, stored in clips.items():
                hits = _hits(wanted[way], stored, motions)
                scores[way] = scores.get(way, 0.0) + 100 * hits / queries
    return RetrievalScores(right, motions * pictures, queries, 100 / motions)


def _read(network: MidwayNetwork, pairs: MovedPairs) -> dict[str, Tensor]:
    """What is compared, each (B, width)."""
    latents = infer_motion_latent(network, pairs.source, pairs.target, batch_size=_BATCH).levels
    first, second = (extract_features(network, one, batch_size=_BATCH).cls for one in (pairs.source, pairs.target))
    found = {f"level {level}": values.flatten(1) for level, values in latents.items()}
    grey = F.adaptive_avg_pool2d((pairs.target - pairs.source).mean(1, keepdim=True), 8)
    baselines = (first, torch.cat([first, second], dim=1), grey.flatten(1))
    return {
        name: values.float().cpu() for name, values in (found | dict(zip(BASELINES, baselines, strict=True))).items()
    }


def _hits(asked: Tensor, stored: Tensor, motions: int) -> int:
    """How many queries (q, width), motions running fastest, are nearest to a clip (c, width) of their motion."""
    nearest = cosines(asked, stored).argmax(dim=1)
    return int((nearest % motions == torch.arange(len(asked)) % motions).sum())
