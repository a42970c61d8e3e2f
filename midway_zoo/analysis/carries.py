"""What does the motion latent carry: motion, or appearance? Figures of a network beside those of random weights.

replay      the latent of one pair is applied to the source of another pair with the same motion. How far is the
            prediction from the target, compared with the pair's own latent, that of another motion, and of no motion?
probes      how much of the mean flow, zoom, rotation and number of movers can a linear map read from the latent?
leakage     how much of the target's appearance can a linear map read from it, and does the nearest latent belong to
            the same picture or to the same motion?

All are measured on pairs of known motion (:mod:`midway_zoo.analysis.moved`), from generated scenes and from real clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.fresh import untrained
from midway_zoo.analysis.latents import centred
from midway_zoo.analysis.moved import (
    FramePictures,
    MovedPairs,
    Pictures,
    ScenePictures,
    crossed_pairs,
    draw_motions,
    moved_pairs,
)
from midway_zoo.analysis.probes import explained, linear_probe, split_by
from midway_zoo.checks import check_integer
from midway_zoo.inference.batches import inference, normaliser
from midway_zoo.inference.frames import ClipLike
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.registry import Model, resolve_network

SEED = 0x6C61_7465_6E74  # of pictures; do not train with this seed
PROBES = ("mean flow", "zoom", "rotation", "movers")
REPLAYS = ("own", "replayed", "other", "still", "copy")
_THUMB = 4
_GAIN = 2e-3  # differences below this fraction of the error count as none
_BATCH = 32


@dataclass(frozen=True)
class LatentReport:
    """Figures by kind of pictures ("scenes", "clips"), then by what is measured ("weights", "random", "pixels").

    Each entry is a dict: "replay" {level: {"own", "replayed", "other", "still", "copy", "transfer"}} (not for pixels),
    "probes" {name: R^2}, "flow_error" and "flow_error_mean" in pixels, "leakage" {"thumbnail": R^2, "colour": R^2,
    "same_picture", "same_motion", "chance_picture", "chance_motion": percent}.
    """

    figures: dict[str, dict[str, dict[str, Any]]]
    side: int
    """Side of the windows in pixels."""
    pairs: int
    """Number of pairs of the probes, for each kind of pictures."""


def latent_report(
    model: Model,
    clips: Sequence[ClipLike] = (),
    *,
    pairs: int = 1024,
    pictures: int = 16,
    motions: int = 8,
    frames: int = 48,
    stride: int = 1,
    textures: str = "natural",
    seed: int = SEED,
) -> LatentReport:
    """Everything that this module measures, of a network and of random weights of its shape.

    Args:
        model: a network or a pretrained name.
        clips: real clips, each as in :func:`~midway_zoo.infer_motion_latents`, whose frames are moved by known motions
            too. With 20 clips or more, probes are tested on other clips than they are fitted on; with fewer, on other
            frames of the same clips. These look much the same, which makes appearance seem easier to read than it is.
        pairs: number of pairs for the probes, each with its own picture (or place in a clip) and motion; a fifth of
            them is for testing.
        pictures, motions: how many for replay and neighbours, where every picture makes every motion.
        frames, stride: how many frames of each clip are taken, and their distance.
        textures: textures of generated scenes; see :class:`~midway_zoo.scenes.ScenesConfig`.
        seed: seed of pictures and motions.

    Raises:
        InputError: for arguments or clips that cannot be used, or clips of fewer than five frames together.
        ConfigError: if the network is an encoder alone.
    """
    network = resolve_network(model)
    network.require_dynamics()
    for name, value, least in (("pairs", pairs, 40), ("pictures", pictures, 2), ("motions", motions, 2)):
        check_integer(name, value, least)
    side = min(network.config.img_size)
    kinds: dict[str, Pictures] = {"scenes": ScenePictures(side, textures=textures, seed=seed)}
    if clips:
        kinds["clips"] = FramePictures(clips, side, frames=frames, stride=stride, seed=seed)
    answers = {"weights": network, "random": untrained(network)}
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, shown in kinds.items():
        probed = _probe_pairs(shown, pairs, side, seed)
        crossed = _crossed_pairs(shown, pictures, motions, side, seed)
        groups = torch.tensor([shown.group(int(number)) for number in probed.pictures])
        found = {name: _answer(one, probed, crossed, groups, motions) for name, one in answers.items()}
        found["pixels"] = _read(_pixels(probed), _pixels(crossed), probed, groups, motions)
        figures[kind] = found
    return LatentReport(figures, side, pairs)


def replay_errors(network: MidwayNetwork, crossed: MovedPairs, motions: int) -> dict[int, dict[str, float]]:
    """Errors 2 - 2 cos of predicted patches against the target's, per level, for latents from elsewhere.

    Args:
        network: a network with dynamics.
        crossed: pairs of every picture with every motion, ordered by picture, then by motion.
        motions: number of motions.

    Returns:
        Level -> mean errors in [0, 4]: "own", with the pair's own latent; "replayed", with that of the next picture
        under the same motion; "other", of the next picture under the next motion; "still", of the source paired with
        itself; "copy", of the source's own features instead of a prediction. "transfer" is the share of the gain over
        another motion's latent that the replayed latent keeps: (other - replayed) / (other - own); NaN if there is
        next to no gain.
    """
    latents, still = (
        _latents(network, crossed.source, crossed.target),
        _latents(network, crossed.source, crossed.source),
    )
    count = len(crossed.source)
    place = torch.arange(count)
    same = (place + motions) % count
    other = same // motions * motions + (same + 1) % motions
    sums: dict[int, dict[str, float]] = {}
    with inference(network):
        dynamics, normalise = network.require_dynamics(), normaliser(network)
        for rows in place.split(_BATCH):
            source, target = normalise(crossed.source[rows]), normalise(crossed.target[rows])
            grid = network.grid_of(source)
            first, second = network.encode_pair(source, target)
            for level, backward in dynamics.backward_features(first).items():
                sent = {"own": latents[level][rows], "replayed": latents[level][same[rows]]}
                sent |= {"other": latents[level][other[rows]], "still": still[level][rows]}
                found = {name: dynamics.predict(level, one, backward, grid)[0] for name, one in sent.items()}
                found["copy"] = first[level]
                for name, tokens in found.items():
                    cosine = F.cosine_similarity(tokens[:, 1:].float(), second[level][:, 1:].float(), dim=-1)
                    errors = sums.setdefault(level, dict.fromkeys(REPLAYS, 0.0))
                    errors[name] += float((2 - 2 * cosine.mean(dim=1)).sum()) / count
    for errors in sums.values():
        gain = errors["other"] - errors["own"]
        known = gain > _GAIN * errors["other"]
        errors["transfer"] = (errors["other"] - errors["replayed"]) / gain if known else float("nan")
    return sums


def neighbours(latents: Tensor, motions: int) -> dict[str, float]:
    """Percentage of crossed latents (pictures * motions, width) whose nearest neighbour has the same picture, or the
    same motion, beside the percentage expected by chance."""
    unit = F.normalize(centred(latents), dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
    place = torch.arange(len(latents))
    same_picture = place // motions == nearest // motions
    same_motion = place % motions == nearest % motions
    pictures, others = len(latents) // motions, len(latents) - 1
    return {
        "same_picture": 100 * float(same_picture.float().mean()),
        "same_motion": 100 * float(same_motion.float().mean()),
        "chance_picture": 100 * (motions - 1) / others,
        "chance_motion": 100 * (pictures - 1) / others,
    }


def _answer(
    network: MidwayNetwork, probed: MovedPairs, crossed: MovedPairs, groups: Tensor, motions: int
) -> dict[str, Any]:
    def flat(pairs: MovedPairs) -> Tensor:
        final = infer_motion_latent(network, pairs.source, pairs.target, batch_size=_BATCH).tokens
        return final.flatten(1).float().cpu()

    return {
        "replay": replay_errors(network, crossed, motions),
        **_read(flat(probed), flat(crossed), probed, groups, motions),
    }


def _read(features: Tensor, crossed: Tensor, pairs: MovedPairs, groups: Tensor, motions: int) -> dict[str, Any]:
    """Probes and leakage of features (B, width) of the probed pairs and of the crossed ones."""
    split = split_by(groups)
    truth = _truth(pairs)

    def probe(values: Tensor) -> float:
        return explained(linear_probe(features, values, split), values[split.test])

    mean = truth["mean flow"]
    found = linear_probe(features, mean, split)
    apart = torch.linalg.vector_norm(found - mean[split.test], dim=1)
    rest = torch.linalg.vector_norm(mean[split.fit].mean(0) - mean[split.test], dim=1)
    thumbnail = F.adaptive_avg_pool2d(pairs.target, _THUMB).flatten(1)
    return {
        "probes": {name: probe(values) for name, values in truth.items()},
        "flow_error": float(apart.mean()),
        "flow_error_mean": float(rest.mean()),
        "leakage": {
            "thumbnail": probe(thumbnail),
            "colour": probe(pairs.target.mean((2, 3))),
            **neighbours(crossed, motions),
        },
    }


def _truth(pairs: MovedPairs) -> dict[str, Tensor]:
    """The quantities that are probed, each (B, k)."""
    values: dict[str, Callable[[], Tensor]] = {
        "mean flow": lambda: pairs.flow.mean((2, 3)),
        "zoom": lambda: pairs.motions.zoom.log()[:, None],
        "rotation": lambda: pairs.motions.angle[:, None],
        "movers": lambda: pairs.motions.movers.float()[:, None],
    }
    return {name: values[name]() for name in PROBES}


def _pixels(pairs: MovedPairs) -> Tensor:
    """Input of the probes without a network, (B, 128): difference of the frames at 8 x 8 in grayscale, and the
    source."""
    gray = [F.adaptive_avg_pool2d(image.mean(1, keepdim=True), 8).flatten(1) for image in (pairs.source, pairs.target)]
    return torch.cat([gray[1] - gray[0], gray[0]], dim=1)


def _probe_pairs(pictures: Pictures, count: int, side: int, seed: int) -> MovedPairs:
    return moved_pairs(pictures, range(count), draw_motions(count, side, seed=seed), side, seed=seed)


def _crossed_pairs(pictures: Pictures, count: int, motions: int, side: int, seed: int) -> MovedPairs:
    """Every picture under every motion, ordered by picture, then by motion; the probes do not see these pictures."""
    drawn = draw_motions(motions, side, seed=seed + 1, movers=False)
    return crossed_pairs(pictures, range(1_000_000, 1_000_000 + count), drawn, side, seed=seed)


def _latents(network: MidwayNetwork, source: Tensor, target: Tensor) -> dict[int, Tensor]:
    return infer_motion_latent(network, source, target, batch_size=_BATCH).levels
