"""``midway-zoo analyse`` index, retrieve, latent and tracking."""

import argparse
import copy
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo import analysis, figures
from midway_zoo.analysis.carries import PROBES, REPLAYS
from midway_zoo.cli.readouts import network_of, print_table
from midway_zoo.cli.work.analysing import prepared, write
from midway_zoo.errors import InputError, MidwayZooError
from midway_zoo.inference.frames import open_frames
from midway_zoo.inference.images import to_tensor
from midway_zoo.storage import state_digest


def index(options: argparse.Namespace) -> None:
    """An index of the motion in a folder."""
    if len(options.outputs) != 1:
        raise InputError("an index is one file: pass -o once.")
    known = None
    if options.update and options.outputs[0].exists():
        known, options.force = analysis.MotionIndex.load(options.outputs[0]), True
    network = prepared(options)
    chosen = {name: getattr(options, name) for name in ("stride", "fps", "gap", "size", "batch_size")}
    found = analysis.index_clips(network, options.root, known=known, **chosen)
    found.save(options.outputs[0], overwrite=options.force)
    sys.stdout.write(f"{len(found.clips)} clips, {len(found)} pairs\nwrote {options.outputs[0]}\n")


def retrieve(options: argparse.Namespace) -> None:
    """Clips that answer a pair of frames."""
    network = prepared(options, options.source, options.target, options.index)
    found = analysis.MotionIndex.load(options.index)
    source, target = to_tensor(options.source), to_tensor(options.target)
    ways: list[Any] = [options.by] if options.by else ["motion", "appearance"]
    size = options.size if options.size is not None else found.options.get("size")
    size = tuple(size) if isinstance(size, list) else size
    answers = {
        way: analysis.find_motion(network, found, source, target, by=way, top=options.top, size=size) for way in ways
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
            {way: [(one, *_frames_of(found, one)) for one in matches] for way, matches in answers.items()},
        ),
        numbers={"answers": {way: [asdict(one) for one in matches] for way, matches in answers.items()}},
        source=str(options.source),
        target=str(options.target),
        index=str(options.index),
    )


def _frames_of(found: analysis.MotionIndex, match: analysis.Match) -> tuple[Tensor | None, Tensor | None]:
    """The pair of a match, if its clip is still where it was."""
    path = Path(found.root) / match.clip
    chosen = found.options
    rate = None if path.is_dir() else chosen["fps"]
    wanted = {match.frame: 0, match.frame + chosen["gap"]: 1}
    pair: list[Tensor | None] = [None, None]
    try:
        for number, frame in enumerate(open_frames(path, stride=chosen["stride"] if rate is None else 1, fps=rate)):
            if number in wanted:
                pair[wanted[number]] = frame.image
            if number >= match.frame + chosen["gap"]:
                break
    except MidwayZooError:
        return None, None
    return pair[0], pair[1]


def latent(options: argparse.Namespace) -> None:
    """What the latent carries."""
    network = prepared(options, *options.clips)
    found = analysis.latent_report(
        network,
        options.clips,
        pairs=options.pairs,
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
    """Every rule of tracking against the truth, of every network."""
    models = options.model
    options.model = models[0]
    network = prepared(options)
    scores: dict[str, analysis.TruthScores] = {}
    digests = {}
    for name in models:
        one = network
        if name != models[0]:
            other = copy.copy(options)
            other.model = name
            one = network_of(other)
        digests[name] = state_digest(one)
        label = Path(name).name
        variants = {label: one} if options.alone else analysis.truth_variants(one, label)
        for variant, net in variants.items():
            scores[variant] = analysis.tracking_truth(
                net, pairs=options.pairs, level=options.level, draws=options.draws, textures=options.textures
            )
    columns = ("pck_1", "pck_2", "moved_pck_1", "moved_pck_2", "hits", "copies")
    rows = [["network", "rule", *columns]]
    for name, found in scores.items():
        rows += [[name, rule, *(f"{values[key]:.1f}" for key in columns)] for rule, values in found.rules.items()]
    print_table(rows)
    first = next(iter(scores.values()))
    options.model = ", ".join(models)
    write(
        options,
        network,
        figure=lambda: figures.truth_figure(scores),
        numbers={"networks": {name: asdict(found) for name, found in scores.items()}},
        said=f"percent; {first.tokens} tokens can be followed, {first.moved} of them move by a patch or more; "
        f"a token drawn at random hits {first.chance:.1f}",
        weights=digests,
        pairs=options.pairs,
    )


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    """JSON has no NaN (null), and names only as keys."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
