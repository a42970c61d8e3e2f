"""What a visit to a clip costs: five pairs in one ordered pass, against opening and seeking for each frame.

    python examples/benchmark_pretraining_data.py VIDEO [--visits 12] [--height 360] [--gop 15]

The visits take turns with the naive reader on the same frames, so that a busy machine slows both alike. All
decode on one thread, as a worker of a data loader does.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import torch

from midway_zoo.train.data.frame_pairs import PairStream
from midway_zoo.train.data.indexed_video import IndexedVideo
from midway_zoo.train.data.prepare import prepare
from midway_zoo.train.data.video_index import build_index


def naive(path: Path, seconds: list[float]) -> None:
    """Every frame for itself: open, seek to the keyframe before, decode up to it, convert, close."""
    for wanted in seconds:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            container.seek(round(wanted / stream.time_base), stream=stream, backward=True)
            frame = next(frame for frame in container.decode(stream) if frame.time >= wanted - 1e-3)
            frame.to_ndarray(format="rgb24")


def visit(base: Path, clip: IndexedVideo, frames: list[int], short_side: int | None = None) -> None:
    """All frames in one ordered pass."""
    images, failed = clip.read(base, frames, short_side)
    assert len(images) == len(set(frames)), failed


def decoding(video: Path, visits: int, height: int, gop: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prepared"
        report = prepare(video, out, height=height, gop=gop)
        raw, prepared = build_index(video), build_index(out)
        stream = PairStream(raw, seed=0)
        clip, small = raw.videos[0], prepared.videos[0]
        times = clip.seconds(30.0)
        names = ["naive, raw", "visit, raw", f"visit, raw, scaled to {height}", "visit, prepared"]
        record: dict[str, list[float]] = {name: [] for name in names}
        for number in range(visits + 1):
            pairs = [stream.pair(number * stream.repeats + repeat) for repeat in range(stream.repeats)]
            frames = [frame for pair in pairs for frame in (pair.source, pair.target)]
            actions = [
                lambda wanted=frames: naive(video, [float(times[index]) for index in wanted]),
                lambda wanted=frames: visit(raw.base, clip, wanted),
                lambda wanted=frames: visit(raw.base, clip, wanted, height),
                lambda wanted=frames: visit(prepared.base, small, wanted),
            ]
            for name, action in zip(names, actions, strict=True):
                start = time.perf_counter()
                action()
                if number:  # the first is to warm up
                    record[name].append(time.perf_counter() - start)
        print(f"{video.name}: {clip.width} x {clip.height}, {clip.frames} frames; {stream.repeats} pairs per visit")
        print(report)
        print(f"{'':<28}{'ms per visit':>14}{'pairs/s':>10}{'speed-up (median of visits)':>30}")
        for name in names:
            ratio = statistics.median(base / own for base, own in zip(record[names[0]], record[name], strict=True))
            median = statistics.median(record[name])
            print(f"{name:<28}{median * 1e3:>14.1f}{stream.repeats / median:>10.1f}{ratio:>30.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--visits", type=int, default=12)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--gop", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    decoding(arguments.video, arguments.visits, arguments.height, arguments.gop)


if __name__ == "__main__":
    main()
