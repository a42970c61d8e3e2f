"""What the Hub cache costs: bytes, requests and seconds of a download, time and memory of a cached load.

Runs against a loopback server with a file that it generates, from a source checkout:

    python examples/benchmark_hub.py [midway_vits | midway_vitb] [--mbits 100] [--latency 0.1]

The file has the structure of the released ones: optimizer included, storages in the text order of their numbers and
without alignment, as torch 2.2 wrote them. With --mbits the server sends no more than that on all connections
together, and answers each request after --latency seconds (the first of a connection after twice that); encoder,
network and, by ``hf_hub_download``, the whole file are then fetched through it, in this order.
"""

import argparse
import functools
import itertools
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch

import midway_zoo  # noqa: F401  (registers the encoders)
from midway_zoo.config import ARCHITECTURES
from tests.weights import as_trained, released_files
from tests.weights.hub.hub_server import HubServer

FETCH = """
import sys, time
import midway_zoo as mz
from huggingface_hub import hf_hub_download
from midway_zoo import manifest
from midway_zoo.weights import hub
name = sys.argv[1] + ".bench"
mz.register_weights(name, repo_id="lab/bench", file="bench.pth")
start = time.perf_counter()
if sys.argv[2] == "file":
    paths = [hf_hub_download("lab/bench", "bench.pth")]
else:
    paths = hub.fetch(name, manifest.find(name), sys.argv[2].split("+")).values()
print(time.perf_counter() - start, *paths, sep="\\n")
"""

WANTED = {"encoder": "teacher", "network": "teacher+dynamics", "whole file": "file"}


def write(path: Path, architecture: str) -> None:
    """Write a file as large as the released ones, without ever holding it: its numbers are zeros of sparse files."""
    with tempfile.TemporaryDirectory() as folder:
        count = itertools.count()

        def zeros(shape) -> torch.Tensor:
            name = str(Path(folder) / str(next(count)))
            return torch.from_file(name, shared=True, size=math.prod(shape)).view(shape)

        def adamw(parameters, **_):
            state = as_trained.adamw(parameters, moments=False)
            for place, parameter in enumerate(sorted(parameters, key=lambda parameter: parameter.ndim < 2)):
                state["state"][place] |= {"exp_avg": zeros(parameter.shape), "exp_avg_sq": zeros(parameter.shape)}
            return state

        # Heads as large as the released ones, of 65,536 prototypes: they lie between the encoders.
        heads = functools.partial(released_files.head_entries, hidden=2048, bottleneck=256, out=65536)
        released_files.head_entries, released_files.adamw = heads, adamw
        released_files.formula_tensor = lambda name, shape, seed: zeros(shape)
        released_files.write_released(path, ARCHITECTURES[architecture])


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


def fetch(server: HubServer, architecture: str, what: str, home: Path) -> list[Path]:
    """Fetch in a process of its own, with an empty cache, and print what it cost."""
    server.reset()
    command = [sys.executable, "-c", FETCH, architecture, WANTED[what]]
    source = str(Path(__file__).parents[1])
    environ = {**server.environ(home), "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    out = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    seconds, *paths = out.stdout.splitlines()
    size = sum(Path(path).stat().st_size for path in paths)
    sent = server.bytes_sent()
    print(
        f"{what:10}  {size / 1e6:7.1f} MB, sent {sent / 1e6:7.1f} MB ({sent / size:.3f} x) in {len(server.requests):3} "
        f"requests, {float(seconds):6.1f} s",
        flush=True,
    )
    return [Path(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", nargs="?", default="midway_vits")
    parser.add_argument("--mbits", type=float, help="of the line; without it only the encoder is fetched")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    options = parser.parse_args()
    rate = options.mbits * 1e6 if options.mbits else None
    with (
        tempfile.TemporaryDirectory() as folder,
        HubServer(bits_per_second=rate, latency=options.latency) as server,
    ):
        source = Path(folder) / "bench.pth"
        subprocess.run([sys.executable, __file__, "--write", options.architecture, str(source)], check=True)
        server.add_repo("lab/bench")
        server.add_file("lab/bench", "bench.pth", source, lfs=True)
        print(f"{options.architecture}, file of {source.stat().st_size / 1e6:.1f} MB", flush=True)
        for what in WANTED if rate else ("encoder",):
            paths = fetch(server, options.architecture, what, Path(folder) / what)
            if what == "encoder":
                part = paths[0]
        if not rate:
            measure(options.architecture, part, part.stat().st_size)


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
        write(Path(sys.argv[3]), sys.argv[2])
    else:
        main()
