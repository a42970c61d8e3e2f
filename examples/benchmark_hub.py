"""What the Hub cache costs: bytes and requests of a download, time and memory of a cached load.

Runs against a loopback server with a file that it generates, from a source checkout:

    python examples/benchmark_hub.py [midway_vits | midway_vitb]
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm

import midway_zoo  # noqa: F401  (registers the encoders)
from midway_zoo.config import ARCHITECTURES
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import write_released

FETCH = """
import sys, time
import midway_zoo as mz
from midway_zoo import manifest
from midway_zoo.weights import hub
mz.register_weights(sys.argv[1] + ".bench", repo_id="lab/bench", file="bench.pth")
start = time.perf_counter()
print(hub.fetch(sys.argv[1] + ".bench", manifest.find(sys.argv[1] + ".bench"), ["teacher"])["teacher"])
print(time.perf_counter() - start)
"""


def peak() -> int:
    """Peak resident memory of this process in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def medians(actions, repeats: int = 15) -> list[float]:
    """Median seconds of each action; they take turns, so that a busy machine slows all alike."""
    times = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, record in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if turn:  # the first is to warm up
                record.append(time.perf_counter() - start)
    return [sorted(record)[repeats // 2] for record in times]


def main() -> None:
    architecture = sys.argv[1] if len(sys.argv) > 1 else "midway_vits"
    with tempfile.TemporaryDirectory() as folder, HubServer() as server:
        source = Path(folder) / "bench.pth"
        subprocess.run([sys.executable, __file__, "--write", architecture, str(source)], check=True)
        server.add_repo("lab/bench")
        server.add_file("lab/bench", "bench.pth", source, lfs=True)
        command = [sys.executable, "-c", FETCH, architecture]
        out = subprocess.run(
            command, env=server.environ(Path(folder) / "home"), check=True, capture_output=True, text=True
        )
        path, seconds = out.stdout.split()
        part, size = Path(path), Path(path).stat().st_size
        print(f"file {source.stat().st_size / 1e6:.1f} MB, encoder part {size / 1e6:.1f} MB")
        print(
            f"fetched {server.bytes_sent() / 1e6:.1f} MB ({server.bytes_sent() / size:.3f} x the part, "
            f"{server.bytes_sent() / source.stat().st_size:.1%} of the file) in {len(server.requests)} requests, "
            f"{float(seconds):.2f} s"
        )
        measure(architecture, part, size)


def measure(architecture: str, path: Path, size: int) -> None:
    """Cached load against the plain one, into the same model, and the peak memory of the former."""
    from safetensors.torch import load_file

    from midway_zoo.weights.hub import load_part

    model = timm.create_model(architecture)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    model.load_state_dict(load_part(path).tensors)
    print(f"peak memory of a cached load: at most {(peak() - before) / size:.2f} x the part beyond the model")
    plain, checked, unchecked = medians(
        [
            lambda: model.load_state_dict(load_file(path)),
            lambda: model.load_state_dict(load_part(path).tensors),
            lambda: model.load_state_dict(load_part(path, verify=False).tensors),
        ]
    )
    print(f"load_file + load_state_dict {plain * 1e3:.1f} ms")
    print(f"cached, SHA-256 checked     {checked * 1e3:.1f} ms, {checked / plain:.2f} x")
    print(f"cached, verify=False        {unchecked * 1e3:.1f} ms, {unchecked / plain:.2f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_released(Path(sys.argv[3]), ARCHITECTURES[sys.argv[2]])
    else:
        main()
