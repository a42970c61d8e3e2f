"""``midway-zoo flow``."""

import argparse
from pathlib import Path

from midway_zoo.cli.work.flow_outputs import FlowFolder, FlowTable, FlowVideo, Output
from midway_zoo.cli.work.outputs import Progress, check_suffix, description, kept_on_interrupt, taken_back
from midway_zoo.cli.work.running import TABLES, load, report
from midway_zoo.errors import InputError, OutputExistsError
from midway_zoo.files import write_png
from midway_zoo.flow.formats import check_ending, write_flow
from midway_zoo.inference.clips import flow_of_clip
from midway_zoo.inference.flow import flow_of_pairs
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import FrameSource, open_frames
from midway_zoo.inference.spool import TensorSpool
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import FlowPrediction
from midway_zoo.visualize import STILL, above_legend, flow_legend, flow_to_image

_OPTIONS = ("method", "size", "tile", "overlap", "coarse", "refine", "mirrored", "draws", "seed", "batch_size")


def run_flow(options: argparse.Namespace) -> None:
    """Flow of two images or of a clip."""
    if options.target is None:
        _check_clip(options)
    else:
        _check_pair(options)
    chosen = FlowOptions(**{name: getattr(options, name) for name in _OPTIONS})
    network = load(options)
    if options.target is None:
        _of_clip(options, network, chosen)
    else:
        _of_pair(options, network, chosen)


def _check_pair(options: argparse.Namespace) -> None:
    check_ending(options.output, TABLES)
    if options.stride != 1 or options.fps is not None:
        raise InputError("--stride and --fps are for a video; leave out B to pass one.")
    if options.format:
        raise InputError(
            "--format is for a folder of flow files of a video; otherwise the ending of the output decides."
        )


def _check_clip(options: argparse.Namespace) -> None:
    if options.picture:
        raise InputError("--picture is for two images; for a video write an .mp4.")
    if options.format or not options.output.suffix or options.output.is_dir():
        taken = options.output.is_dir() and any(options.output.iterdir())
        if options.output.exists() and not options.output.is_dir():
            raise InputError(f"{options.output} is a file; with --format the output is a folder.")
        if taken and not options.force:
            raise OutputExistsError(f"{options.output} exists and is not empty; pass --force, or another folder.")
        return
    check_suffix(options.output, (".mp4", *TABLES), "flows of a video (for two images pass A and B)")


def _of_pair(options: argparse.Namespace, network: MidwayNetwork, chosen: FlowOptions) -> None:
    prediction = flow_of_pairs(network, options.source, options.target, chosen)
    flow = prediction.flow[0]
    facts = description(options, network, source=str(options.source), target=str(options.target), grid=prediction.grid)
    with taken_back(options.picture):
        if options.picture:
            longest = _longest(prediction)
            shown = options.max_flow or max(longest, STILL)  # noise should look pale
            picture = flow_to_image(flow, max_flow=shown)
            picture = above_legend(picture, flow_legend(picture.shape[2], shown, longest=longest))
            write_png(options.picture, picture, metadata=facts, overwrite=options.force)
        if options.output.suffix.lower() in TABLES:
            with TensorSpool(options.output) as spool:
                spool.add("flow", flow[None])
                spool.add("confidence", prediction.confidence[0][None])
                spool.write(facts, overwrite=options.force)
        else:
            write_flow(options.output, flow, overwrite=options.force)
    report(options, prediction)


def _longest(prediction: FlowPrediction) -> float:
    return float(prediction.flow[0].float().norm(dim=0).nan_to_num(0).max())


def _of_clip(options: argparse.Namespace, network: MidwayNetwork, chosen: FlowOptions) -> None:
    progress = Progress()
    facts = description(options, network, video=str(options.source))
    with _output(options, network, chosen, facts) as output:
        with kept_on_interrupt(progress):
            for prediction in flow_of_clip(network, options.source, chosen, stride=options.stride, fps=options.fps):
                output.add(prediction)
                times = prediction.pts_seconds
                progress.step(1, None if times is None else float(times[0, 1]))
        output.finish(progress.done)
    progress.end(options.output, "pairs")
    report(options, f"{progress.done} pairs, method={chosen.resolved(network).method!r}")


def _output(
    options: argparse.Namespace, network: MidwayNetwork, chosen: FlowOptions, facts: dict[str, object]
) -> Output:
    path: Path = options.output
    if path.suffix.lower() in TABLES:
        return FlowTable(path, facts, overwrite=options.force)
    if path.suffix.lower() == ".mp4" and not options.format:
        return FlowVideo(
            path,
            _frames(options),
            options.max_flow or first_look(network, options, chosen),
            facts,
            overwrite=options.force,
        )
    return FlowFolder(path, options.format or "flo", facts, overwrite=options.force)


def _frames(options: argparse.Namespace) -> FrameSource:
    return open_frames(options.source, stride=options.stride, fps=options.fps)


_LOOKED, _WITHIN = 5, 600  # number of pairs to estimate it from, and of first frames that they are spread over


def first_look(network: MidwayNetwork, options: argparse.Namespace, chosen: FlowOptions) -> float:
    """Estimate a length in pixels for full saturation that few vectors of a video exceed.

    It comes from some pairs, spread over the first frames, since the scale must be known before the first picture.
    """
    total = min(_frames(options).total or _WITHIN, _WITHIN)
    wanted = (
        {round((total - 2) * place / (_LOOKED - 1)) for place in range(_LOOKED)} if total > _LOOKED else {*range(total)}
    )
    lengths, before = [], None
    for index, frame in enumerate(_frames(options)):
        if index - 1 in wanted and before is not None:
            flow = flow_of_pairs(network, before.image, frame.image, chosen).flow[0]
            lengths.append(float(flow.norm(dim=0).flatten()[::7].float().quantile(0.99)))
        before = frame if index in wanted else None
        if index > max(wanted):
            break
    return max(max(lengths, default=0.0) * 1.25, STILL)
