"""``midway-zoo analyse`` index, retrieve, latent and tracking."""

import argparse
import copy
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from midway_zoo import analysis, figures
from midway_zoo.analysis.carries import PROBES, REPLAYS
from midway_zoo.analysis.fresh import untrained
from midway_zoo.cli.readouts import network_of, print_table
from midway_zoo.cli.work.analysing import prepared, write
from midway_zoo.errors import InputError
from midway_zoo.inference.images import to_tensor
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import state_digest


def index(options: argparse.Namespace) -> None:
    """An index of the motion in a folder."""
    if len(options.outputs) != 1:
        raise InputError("an index is one file: pass -o once.")
    known = None
    if options.update and options.outputs[0].exists():
        known, options.force = analysis.MotionIndex.load(options.outputs[0]), True
    network = prepared(options)
    chosen = {name: getattr(options, name) for name in ("stride", "fps", "gap", "size", "level", "batch_size")}
    found = analysis.index_clips(network, options.root, known=known, **chosen)
    found.save(options.outputs[0], overwrite=options.force)
    sys.stdout.write(f"{len(found.clips)} clips, {len(found)} pairs\nwrote {options.outputs[0]}\n")


def retrieve(options: argparse.Namespace) -> None:
    """Find the clips that match a pair of frames."""
    network = prepared(options, options.source, options.target, options.index)
    found = analysis.MotionIndex.load(options.index)
    source, target = to_tensor(options.source), to_tensor(options.target)
    ways: list[Any] = [options.by] if options.by else ["motion", "appearance"]
    answers = {
        way: analysis.find_motion(network, found, source, target, by=way, top=options.top, size=options.size)
        for way in ways
    }
    rows = [["by", "clip", "cosine", "frame", "seconds"]]
    for way, matches in answers.items():
        for one in matches:
            seconds = "" if one.seconds is None else f"{one.seconds:.2f}"
            rows.append([way, one.clip, f"{one.score:.3f}", str(one.frame), seconds])
    print_table(rows)
    write(
        options,
        network,
        figure=lambda: figures.retrieval_figure(
            (source, target),
            {way: [(one, found.pair_of(one)) for one in matches] for way, matches in answers.items()},
        ),
        numbers={"answers": {way: [asdict(one) for one in matches] for way, matches in answers.items()}},
        source=str(options.source),
        target=str(options.target),
        index=str(options.index),
    )


def latent(options: argparse.Namespace) -> None:
    """Report what the latent carries."""
    network = prepared(options, *options.clips)
    found = analysis.latent_report(
        network,
        options.clips,
        pairs=options.pairs,
        pictures=options.pictures,
        motions=options.motions,
        frames=options.frames,
        stride=options.stride,
        textures=options.textures,
    )
    for kind, answers in found.figures.items():
        sys.stdout.write(f"\n{kind}, windows of {found.side} pixels, {found.pairs} pairs\n\n")
        rows = [["", *answers]]
        rows += [[f"{name}: R2", *(_shown(one["probes"][name]) for one in answers.values())] for name in PROBES]
        rows.append(["mean flow: error, px", *(_shown(one["flow_error"]) for one in answers.values())])
        rows.append(["the same, of the mean", *(_shown(one["flow_error_mean"]) for one in answers.values())])
        for name in answers["weights"]["leakage"]:
            rows.append([_NAMES[name], *(_shown(one["leakage"][name]) for one in answers.values())])
        for level in answers["weights"]["replay"]:
            for name in (*REPLAYS, "transfer"):
                values = (one["replay"][level][name] if "replay" in one else math.nan for one in answers.values())
                rows.append([f"replay, level {level}: {name}", *map(_shown, values)])
        print_table(rows)
    write(
        options,
        network,
        figure=lambda: figures.latent_figure(found),
        numbers=_plain({"pictures": found.figures, "side": found.side, "pairs": found.pairs}),
        clips=[str(path) for path in options.clips],
    )


_NAMES = {
    "thumbnail": "target's thumbnail: R2",
    "colour": "target's mean colour: R2",
    "same_picture": "nearest latent: same picture, %",
    "same_motion": "nearest latent: same motion, %",
    "chance_picture": "the same picture by chance, %",
    "chance_motion": "the same motion by chance, %",
}


def tracking(options: argparse.Namespace) -> None:
    """Every tracking rule of every network against the truth."""
    scores: dict[str, analysis.TruthScores] = {}
    chosen = {name: getattr(options, name) for name in ("pairs", "level", "draws", "textures")}
    networks = _networks(options)
    for label, network in networks.items():
        variants = {label: network} if options.alone else analysis.truth_variants(network, label)
        scores |= {variant: analysis.tracking_truth(one, **chosen) for variant, one in variants.items()}
    columns = ("pck_1", "pck_2", "moved_pck_1", "moved_pck_2", "hits", "copies")
    rows = [["network", "rule", *columns]]
    for name, found in scores.items():
        rows += [[name, rule, *(_percent(values[key]) for key in columns)] for rule, values in found.rules.items()]
    print_table(rows)
    first = next(iter(scores.values()))
    write(
        options,
        next(iter(networks.values())),
        figure=lambda: figures.truth_figure(scores),
        numbers=_plain({"networks": {name: asdict(found) for name, found in scores.items()}}),
        said=f"percent; {first.tokens} tokens can be tracked, {first.moved} of them move by a patch or more; "
        f"a token drawn at random hits {first.chance:.1f}",
        weights={name: state_digest(one) for name, one in networks.items()},
        pairs=options.pairs,
    )


def retrieval(options: argparse.Namespace) -> None:
    """Retrieval among generated clips by every network."""
    scores: dict[str, analysis.RetrievalScores] = {}
    chosen = {name: getattr(options, name) for name in ("motions", "pictures", "rounds", "textures")}
    networks = _networks(options)
    for label, network in networks.items():
        variants = {label: network} if options.alone else {label: network, f"{label}, untrained": untrained(network)}
        scores |= {variant: analysis.retrieval_truth(one, **chosen) for variant, one in variants.items()}
    first = next(iter(scores.values()))
    ways = list(dict.fromkeys(way for found in scores.values() for values in found.right.values() for way in values))
    rows = [["network", "motions", *ways]]
    for name, found in scores.items():
        rows += [[name, kind, *(_percent(values.get(way)) for way in ways)] for kind, values in found.right.items()]
    print_table(rows)
    write(
        options,
        next(iter(networks.values())),
        figure=lambda: figures.found_figure(scores),
        numbers=_plain({"networks": {name: asdict(found) for name, found in scores.items()}}),
        said=f"percent of {first.asked} queries whose nearest clip, of {first.clips}, makes the same motion; a clip "
        f"drawn at random does in {first.chance:.1f}",
        weights={name: state_digest(one) for name, one in networks.items()},
        rounds=options.rounds,
    )


def _networks(options: argparse.Namespace) -> dict[str, MidwayNetwork]:
    """The networks of a command that takes several, by their names in its figures."""
    models = list(dict.fromkeys(options.model))
    options.model = models[0]
    networks = [prepared(options)]
    for name in models[1:]:
        other = copy.copy(options)
        other.model = name
        networks.append(network_of(other))
    options.model = ", ".join(models)
    short = [Path(name).name for name in models]
    labels = short if len(set(short)) == len(short) else models
    return dict(zip(labels, networks, strict=True))


def _percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1f}"


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")


def _plain(value: Any) -> Any:
    """Values for JSON, which has no NaN and only strings as keys."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
