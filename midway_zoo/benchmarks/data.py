"""``midway-zoo benchmark data``: preparation of training data, on one core like a worker of the loader."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midway_zoo.benchmarks.measuring import Comparison, How, Way, compare
from midway_zoo.benchmarks.networks import drifting, sides
from midway_zoo.benchmarks.pil_views import Frame, PilViews
from midway_zoo.errors import MissingFileError
from midway_zoo.inference.video import read_video
from midway_zoo.inference.video_file import import_av
from midway_zoo.inference.video_writer import write_video
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.generator import SceneGenerator
from midway_zoo.train.data.frame_pairs import PairStream
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.photometric import augment
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import build_index
from midway_zoo.train.data.views import ViewSampler, ViewsConfig

PARTS = ("views", "scenes", "decoding")
_PAIRS = 8


def measure(
    how: How,
    *,
    parts: Sequence[str] = PARTS,
    video: Path | None = None,
    video_size: str = "960x540",
    batch: int = 8,
    scenes: Sequence[str] = ("64x64", "384x320"),
    textures: str = "procedural",
    height: int = 360,
    gop: int = 15,
) -> Iterator[Comparison]:
    """Compare views of a pair with PIL's, and visits to a clip with a seek per frame; measure rendered scenes.

    Without a video, frames and clip are generated at ``video_size``.
    """
    if video is not None and not video.is_file():
        raise MissingFileError(f"there is no video {video}.")
    with _one_thread():
        if "views" in parts:
            yield from _views(sides(video_size), video, how)
        if "scenes" in parts:
            for each in map(sides, scenes):
                yield _scenes(each, batch, textures, how)
        if "decoding" in parts:
            with tempfile.TemporaryDirectory() as name:
                yield _decoding(
                    video or _clip(Path(name), sides(video_size)), Path(name) / "prepared", height, gop, how
                )


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _views(size: tuple[int, int], video: Path | None, how: How) -> Iterator[Comparison]:
    """Like is compared with like: with an accelerator for the photometric part, only cutting is left for the core."""
    how = How(rounds=8 * how.rounds, warmup=3)  # they take milliseconds
    pairs = itertools.cycle(_from_video(video) if video else _generated(size))
    config = ViewsConfig()
    sampler, reference, rng = ViewSampler(config), PilViews(config), np.random.default_rng(0)

    def cut(source: Frame, target: Frame) -> dict[str, Tensor]:
        return sampler(torch.from_numpy(source).permute(2, 0, 1), torch.from_numpy(target).permute(2, 0, 1), rng)

    def everything(source: Frame, target: Frame) -> object:
        views = cut(source, target)
        groups = [views[name] for name in ("dynamics", "globals", "locals")]
        parameters = views["photometric"].split([len(group) for group in groups])
        return [augment(group, theirs) for group, theirs in zip(groups, parameters, strict=True)]

    shape = next(pairs)[0].shape
    title = f"the {6 + 2 * config.local_crops} views of a pair of {shape[1]} x {shape[0]}, one core"
    for what, ours, theirs in (
        ("cut", cut, lambda source, target: reference.cut(source, target, rng)),
        ("cut and photometry", everything, lambda source, target: reference(source, target, rng)),
    ):
        ways = [Way("PIL", partial(_next, pairs, theirs)), Way("ours", partial(_next, pairs, ours))]
        yield compare(f"{title}, {what}", ways, how, unit="pairs", peer="PIL")


def _next(pairs: Iterator[tuple[Frame, Frame]], run: Callable[[Frame, Frame], object]) -> object:
    return run(*next(pairs))


def _generated(size: tuple[int, int]) -> list[tuple[Frame, Frame]]:
    frames = [drifting(2, size, seed) for seed in range(_PAIRS)]
    arrays = [(pair * 255).byte().permute(0, 2, 3, 1).contiguous().numpy() for pair in frames]
    return [(array[0], array[1]) for array in arrays]


def _from_video(path: Path) -> list[tuple[Frame, Frame]]:
    """Pairs half a second apart."""
    frames = itertools.islice(read_video(path, fps=2), _PAIRS + 1)
    images: list[Frame] = [frame.image.permute(1, 2, 0).contiguous().numpy() for frame in frames]
    return list(itertools.pairwise(images))


def _scenes(size: tuple[int, int], batch: int, textures: str, how: How) -> Comparison:
    """To be compared with the pairs per second that the model takes: a slower source would starve it."""
    config = ScenesConfig(height=size[0], width=size[1], textures=textures)
    generator, number = SceneGenerator(config, seed=0, device=str(how.device)), itertools.count(0, batch)

    def render() -> object:
        start = next(number)
        return generator.render(range(start, start + batch))

    title = f"scenes of {size[1]} x {size[0]} rendered, {batch} at a time"
    return compare(title, [Way(textures, render)], how, unit="pairs", items=batch)


def _clip(folder: Path, size: tuple[int, int]) -> Path:
    path = folder / "clip.mp4"
    write_video(path, [(frame * 255).byte() for frame in drifting(90, size)], fps=30)
    return path


def _decoding(video: Path, out: Path, height: int, gop: int, how: How) -> Comparison:
    """All pairs of a visit in one ordered pass, before and after ``train prepare``, against opening the file per
    frame."""
    prepare(video, out, height=height, gop=gop, workers=1)
    raw, prepared = build_index(video), build_index(out)
    stream, clip, small = PairStream(raw, seed=0), raw.videos[0], prepared.videos[0]
    times = clip.seconds(30.0)

    def visits(read: Callable[[list[int]], Any]) -> Callable[[], object]:
        numbers = itertools.count()

        def visit() -> object:
            number = next(numbers)
            pairs = [stream.pair(number * stream.repeats + repeat) for repeat in range(stream.repeats)]
            return read([frame for pair in pairs for frame in (pair.source, pair.target)])

        return visit

    naive = "a seek for each frame"
    readers: dict[str, Callable[[list[int]], Any]] = {
        naive: lambda frames: _naive(video, [float(times[index]) for index in frames]),
        "visit": lambda frames: _visit(raw.base, clip, frames, None),
        f"visit, scaled to {height}": lambda frames: _visit(raw.base, clip, frames, height),
        "visit, prepared": lambda frames: _visit(prepared.base, small, frames, None),
    }
    ways = [Way(name, visits(read), memory=False) for name, read in readers.items()]
    title = f"decoding {stream.repeats} pairs of {video.name}, {clip.width} x {clip.height}, {clip.frames} frames"
    return compare(title, ways, how, unit="pairs", items=stream.repeats, peer=naive)


def _visit(base: Path, clip: IndexedVideo, frames: list[int], short_side: int | None) -> None:
    images, failed = clip.read(base, frames, short_side)
    assert len(images) == len(set(frames)), failed


def _naive(path: Path, seconds: list[float]) -> None:
    """Every frame on its own: open, seek to the previous key frame, decode up to the frame, convert, close."""
    for wanted in seconds:
        with import_av().open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(round(wanted / stream.time_base), stream=stream, backward=True)
            frame = next(frame for frame in container.decode(stream) if frame.time >= wanted - 1e-3)
            frame.to_ndarray(format="rgb24")
