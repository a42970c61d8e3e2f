"""``midway-zoo benchmark extract``: the cost of extraction compared with a plain loop, and its memory over many small
items."""

import itertools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from midway_zoo.benchmarks.measuring import Comparison, Elapsed, How, Way, compare
from midway_zoo.benchmarks.memory import resident_mib
from midway_zoo.benchmarks.networks import drifting, network_of, sides
from midway_zoo.extract import Running, Settings, extract
from midway_zoo.extract.compute import Extractor
from midway_zoo.extract.decoding import Piece, Reader
from midway_zoo.extract.items import find_items
from midway_zoo.inference.clips import infer_motion_latents
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.video import read_video
from midway_zoo.inference.video_writer import write_video
from midway_zoo.models.network import MidwayNetwork

PARTS = ("throughput", "memory")
PLAIN = "plain loop"


def measure(
    how: How,
    *,
    model: str = "midway_nano.scenes",
    parts: Sequence[str] = ("throughput",),
    clips: int = 24,
    frames: int = 64,
    video_size: str = "640x360",
    size: int = 128,
    batch: int = 16,
    readers: Sequence[int] = (),
    workers: Sequence[int] = (),
    items: int = 10_000,
) -> Iterator[Comparison]:
    """Frames per second of each way and of decoding alone, with more decoding threads, and with Ray for each number of
    workers; memory at each tenth of the work."""
    network = network_of(model, how.device)
    with tempfile.TemporaryDirectory() as name:
        if "throughput" in parts:
            folder = Path(name) / "clips"
            folder.mkdir()
            for index in range(clips):
                images = [(frame * 255).byte() for frame in drifting(frames, sides(video_size), index)]
                write_video(folder / f"{index:03}.mp4", images, fps=25)
            work = _Work(network, folder, Path(name), clips, batch)
            for what in (("features",), ("features", "motion")):
                settings = Settings(what=what, size=size)
                title = f"extraction of {'+'.join(what)}, {clips} clips of {frames} frames of {video_size}"
                yield compare(
                    title, work.ways(settings, readers, workers), how, unit="frames", items=clips * frames, peer=PLAIN
                )
        if "memory" in parts:
            yield _memory(network, Path(name), items)


class _Work:
    """The ways to process a folder of clips; each run has its own folder of results."""

    def __init__(self, network: MidwayNetwork, folder: Path, out: Path, clips: int, batch: int) -> None:
        self.network, self.folder, self.clips, self.batch = network, folder, clips, batch
        self._outs = (out / f"out{number}" for number in itertools.count())

    def ways(self, settings: Settings, readers: Sequence[int], workers: Sequence[int]) -> list[Way]:
        ways = [
            Way(PLAIN, lambda: self.plain(settings)),
            Way("extract", lambda: self.extracted(settings, 0)),
            Way("decoding alone", lambda: self.decoded(settings)),
        ]
        for count in readers:
            run = lambda count=count: self.extracted(settings, 0, count)  # noqa: E731
            ways.append(Way(f"extract, {count} reader(s)", run))
        for count in workers:
            run = lambda count=count: self.extracted(settings, count)  # noqa: E731
            ways.append(Way(f"extract, Ray, {count} worker(s)", run, memory=False))
        return ways

    def plain(self, settings: Settings) -> None:
        """The loop as one would write it."""
        out = next(self._outs)
        out.mkdir()
        size: Any = settings.size
        for path in sorted(self.folder.glob("*.mp4")):
            images = [frame.image for frame in read_video(path)]
            features = extract_features(self.network, images, blocks=(11,), size=size, batch_size=self.batch)
            tensors: dict[str, Any] = {"cls": features.cls, "block11": features.maps[11]}
            if "motion" in settings.what:
                latents = infer_motion_latents(self.network, images, size=size, batch_size=self.batch)
                tensors["motion"] = latents.tokens
            save_file(tensors, out / f"{path.stem}.safetensors")

    def decoded(self, settings: Settings) -> None:
        """A reader's share: frames prepared for the network, without running it."""
        listing = find_items(str(self.folder), settings.images_are)
        reader = Reader(listing.base, Extractor(self.network, settings).look(self.batch), set())
        for item in listing.items:
            for _ in reader.read(Piece((item,))):
                pass

    def extracted(self, settings: Settings, workers: int, readers: int = 1) -> Elapsed | None:
        """Time of extraction; with Ray from the first file to the last, without starting the workers."""
        out = next(self._outs)
        running: dict[str, Any] = {"engine": "ray", "workers": workers} if workers else {}
        running |= {"batch_size": self.batch, "shard_items": 1, "readers": readers}
        summary = extract(self.network, self.folder, out, settings, Running(**running))
        assert summary.items == self.clips, summary
        if not workers:
            return None
        times = sorted(path.stat().st_mtime for path in (out / "data").iterdir())
        # Every worker's first file marks its start.
        return Elapsed((times[-1] - times[workers - 1]) * len(times) / (len(times) - workers))


def _memory(network: MidwayNetwork, folder: Path, items: int) -> Comparison:
    """Resident memory while many small pictures are processed."""
    pictures, out = folder / "pictures", folder / "memory"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for index in range(items):
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(pictures / f"{index:06}.png")
    found: list[tuple[int, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            found.append((len(list(out.glob("data/part-*"))), resident_mib()))

    def run() -> None:
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            summary = extract(network, pictures, out, Settings(size=32, blocks=()), Running(batch_size=16))
        finally:
            ended.set()
            thread.join()
        assert summary.items == items, summary

    start = time.perf_counter()
    once = How(device=network.device, rounds=1, warmup=0)
    title = f"extraction of {items} pictures of 48 x 48"
    result = compare(title, [Way("extract", run, memory=False)], once, unit="items", items=items)
    found.append((max((count for count, _ in found), default=0), resident_mib()))
    shards = found[-1][0]
    levels = []
    for tenth in range(1, 11):
        there = [size for count, size in found if 0 < count <= shards * tenth / 10]
        levels.append(f"{there[-1]:.0f}" if there else "-")
    taken = time.perf_counter() - start
    return result.noting(f"resident MiB at each tenth of {shards} shards: {', '.join(levels)} ({taken:.0f} s in all)")
