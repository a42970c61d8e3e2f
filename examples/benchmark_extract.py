"""What extraction costs: throughput against a plain loop, at 1 and 2 workers of Ray, and memory over many small items.

    python examples/benchmark_extract.py throughput [--model NAME] [--clips 24] [--frames 64] [--ray]
    python examples/benchmark_extract.py memory [--items 10000]

The plain loop is what one would write for a folder of clips: read, ``extract_features``, ``infer_motion_latents``,
``save_file``. It reads and encodes each clip once for either function; "features" alone is the loop with the first
only. Clips are H.264 of generated noise that drifts; times are of the work alone, without starting Python or Ray's
workers, and the best of the repetitions, since other programs may share the machine.
"""

import argparse
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import midway_zoo as mz
from midway_zoo.extract import Running, Settings, extract
from midway_zoo.inference.video_writer import write_video


def make_clips(folder: Path, clips: int, frames: int, height: int = 360, width: int = 640) -> None:
    """Videos of blurred noise that drifts."""
    for index in range(clips):
        noise = torch.rand(1, 3, height // 8, (width + 2 * frames) // 8, generator=torch.manual_seed(index))
        wide = torch.nn.functional.interpolate(noise, (height, width + 2 * frames), mode="bicubic").clamp(0, 1)[0]
        images = [(wide[:, :, 2 * t : 2 * t + width] * 255).to(torch.uint8) for t in range(frames)]
        write_video(folder / f"{index:03}.mp4", images, fps=25)


def plain_loop(network: mz.MidwayNetwork, folder: Path, out: Path, size: int, batch: int, *, motion: bool) -> None:
    """As one would write it."""
    for path in sorted(folder.glob("*.mp4")):
        images = [frame.image for frame in mz.read_video(path)]
        features = mz.extract_features(network, images, blocks=(11,), size=size, batch_size=batch)
        tensors = {"cls": features.cls, "block11": features.maps[11]}
        if motion:
            tensors["motion"] = mz.infer_motion_latents(network, images, size=size, batch_size=batch).tokens
        save_file(tensors, out / f"{path.stem}.safetensors")


def throughput(options: argparse.Namespace) -> None:
    """Frames per second of each way, and their ratio to the plain loop."""
    network = mz.create_model(options.model, pretrained=options.model.count(".") > 0)
    total = options.clips * options.frames
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clips"
        folder.mkdir()
        make_clips(folder, options.clips, options.frames)
        for motion in (False, True):
            settings = Settings(what=("features", "motion") if motion else ("features",), size=options.size)
            best: dict[str, float] = {}
            for turn in range(options.repeat):
                out = Path(name) / f"plain{turn}{motion}"
                out.mkdir()
                start = time.perf_counter()
                plain_loop(network, folder, out, options.size, options.batch_size, motion=motion)
                best["plain loop"] = min(best.get("plain loop", 1e9), time.perf_counter() - start)
                for ray in (0, 1, 2) if options.ray else (0,):
                    way = f"ray, {ray} worker(s)" if ray else "extract"
                    seconds = _extracted(network, folder, Path(name) / f"{ray}{turn}{motion}", settings, ray, options)
                    best[way] = min(best.get(way, 1e9), seconds)
            for way, seconds in best.items():
                rate, ratio = total / seconds, best["plain loop"] / seconds
                print(f"{'+'.join(settings.what):16} {way:18} {rate:8.1f} frames/s   {ratio:5.2f} of the plain loop")


def _extracted(
    network: mz.MidwayNetwork, folder: Path, out: Path, settings: Settings, ray: int, options: argparse.Namespace
) -> float:
    """Seconds from the first file to the last, so without what starts the workers; without Ray all."""
    engine = {"engine": "ray", "workers": ray} if ray else {}
    start = time.perf_counter()
    summary = extract(network, folder, out, settings, Running(batch_size=options.batch_size, shard_items=1, **engine))
    assert summary.items == options.clips
    if not ray:
        return time.perf_counter() - start
    times = sorted(path.stat().st_mtime for path in (out / "data").iterdir())
    later = len(times) - ray  # the first of every worker marks its beginning
    return (times[-1] - times[ray - 1]) * len(times) / later


def resident() -> float:
    """Megabytes in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def memory(options: argparse.Namespace) -> None:
    """Memory while many small pictures go through, by tenths of the way."""
    network = mz.create_model(options.model, pretrained=options.model.count(".") > 0)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "pictures", Path(name) / "out"
        folder.mkdir()
        random = np.random.default_rng(0)
        for index in range(options.items):
            Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(folder / f"{index:06}.png")
        found: list[tuple[int, float]] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                found.append((len(list(out.glob("data/part-*"))), resident()))

        thread = threading.Thread(target=watch)
        thread.start()
        start = time.perf_counter()
        try:
            settings = Settings(size=32, blocks=())
            summary = extract(network, folder, out, settings, Running(batch_size=16))
        finally:
            ended.set()
            thread.join()
        seconds, shards = time.perf_counter() - start, max(count for count, _ in found)
        print(f"{summary.items} items in {seconds:.0f} s, {summary.items / seconds:.0f} a second, {shards} shards")
        for tenth in range(1, 11):
            there = [size for count, size in found if 0 < count <= shards * tenth / 10]
            print(f"  {tenth * 10:3} % of the shards: {there[-1] if there else 0:6.0f} MB")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("throughput", "memory"))
    parser.add_argument("--model", default="midway_nano.scenes")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--ray", action="store_true", help="also 1 and 2 workers of Ray")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {options.model}, Python {sys.version[:6]}")
    (throughput if options.what == "throughput" else memory)(options)


if __name__ == "__main__":
    main()
