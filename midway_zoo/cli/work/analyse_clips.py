"""``midway-zoo analyse`` track, similarity and pca."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from midway_zoo import analysis, figures
from midway_zoo.cli.work.analysing import again, clip_frames, labels_of, prepared, shown_times, write
from midway_zoo.inference.frames import Frame


def track(options: argparse.Namespace) -> None:
    """Track points through a clip by one rule or several."""
    network = prepared(options, options.video)
    rules = list(dict.fromkeys(options.rule or ["paper"]))
    frames = clip_frames(options.video, options)
    chosen = {name: getattr(options, name) for name in ("size", "level", "draws", "seed")}
    found = {rule: analysis.track_by(network, again(frames), options.at, rule, **chosen) for rule in rules}
    images, labels = [frame.image for frame in frames], labels_of(frames)
    ways = {rule: one.xy.cpu() for rule, one in found.items()}
    tensors = {f"xy_{rule}": one.xy for rule, one in found.items()}
    tensors |= {f"confidence_{rule}": one.confidence for rule, one in found.items()}
    times = found[rules[0]].pts_seconds
    write(
        options,
        network,
        figure=lambda: figures.tracks_figure(images, ways, labels=labels),
        tensors=tensors if times is None else tensors | {"pts_seconds": times},
        film=_film(frames, lambda index: figures.tracks_figure(images, ways, labels=labels, columns=[index])),
        said="\n".join(f"{rule}: {one}" for rule, one in found.items()),
        video=str(options.video),
        points=options.at,
    )


def similarity(options: argparse.Namespace) -> None:
    """Similarity of the motions along a clip."""
    network = prepared(options, options.video)
    frames = clip_frames(options.video, options)
    found = analysis.clip_similarity(
        network, again(frames), gap=options.gap, size=options.size, batch_size=options.batch_size
    )
    tensors = {"similarity": found.similarity, "tokens": found.latents.tokens}
    if found.latents.pts_seconds is not None:
        tensors["pts_seconds"] = found.latents.pts_seconds
    write(
        options,
        network,
        figure=lambda: figures.similarity_figure(found, [frame.image for frame in frames], labels=labels_of(frames)),
        tensors=tensors,
        said=str(found),
        video=str(options.video),
    )


def pca(options: argparse.Namespace) -> None:
    """Principal components over time."""
    network = prepared(options, options.video)
    frames = clip_frames(options.video, options)
    found = analysis.principal_components(
        network,
        again(frames),
        block=options.block,
        backward=options.backward,
        foreground=not options.whole,
        frames=options.frames,
        size=options.size,
        batch_size=options.batch_size,
    )
    images, labels = [frame.image for frame in frames], labels_of(frames)
    share = 100 * float(found.foreground.float().mean())
    write(
        options,
        network,
        figure=lambda: figures.components_figure(images, found, labels=labels),
        tensors={
            "colours": found.colours,
            "foreground": found.foreground,
            "first": found.first,
            "explained": found.explained,
        },
        film=_film(frames, lambda index: figures.components_figure(images, found, labels=labels, columns=[index])),
        said=f"{len(frames)} frames, grid {found.grid}; {share:.0f} % of tokens are foreground",
        video=str(options.video),
        grid=found.grid,
    )


def _film(frames: list[Frame], draw: Callable[[int], Any]) -> Callable[[], Iterator[tuple[Tensor, float, float]]]:
    """A figure per frame, all cropped to the size of the first."""

    def film() -> Iterator[tuple[Tensor, float, float]]:
        size: torch.Size | None = None
        for index, (begin, end) in enumerate(shown_times(frames)):
            picture = figures.figure_to_tensor(draw(index))
            size = size or picture.shape
            yield picture[:, : size[1], : size[2]], begin, end

    return film
