"""Optical flow of one pair, side by side with torchvision's raft_small: time and peak memory.

    python examples/benchmark_flow.py [--device cuda] [--rounds 3] [--threads 2]

Both have random weights. `direct` gives the whole image to the network at once, `tiled` cuts it into tiles of the
head's training size (320 x 384) with the overlap of the protocol's validation, 0.7. Times are medians of interleaved
rounds; peak memory is that of a process of its own (Linux), above what it held once the model was built. On CUDA both
run in bfloat16.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.models.optical_flow import raft_small

import midway_zoo as mz

SIZES = {"384x320": (320, 384), "1024x436": (436, 1024)}
KINDS = ("raft_small", "direct", "tiled")


def predictor(kind: str, size: tuple[int, int], device: str) -> Callable[[], object]:
    """A function that predicts the flow of one pair (height, width)."""
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(1, 3, *size, generator=generator).to(device) for _ in range(2))
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    if kind == "raft_small":
        raft = raft_small(weights=None).to(device).eval()
        height, width = (-side % 8 for side in size)
        padded = [torch.nn.functional.pad(2 * image - 1, (0, width, 0, height)) for image in (source, target)]

        def run() -> object:
            with torch.inference_mode(), autocast:
                return raft(*padded)[-1]

        return run
    network = mz.create_model("midway_vits", flow_head=True).to(device)
    options = {"tile": tuple(-(-side // 16) * 16 for side in size)} if kind == "direct" else {"overlap": 0.7}
    options["size"] = "full"

    def run() -> object:
        with autocast:
            return mz.predict_flow(network, source, target, method="head", **options).flow

    return run


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall-clock time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_mib(kind: str, name: str, device: str) -> float:
    """Peak memory of one call, in MiB above the built model; measured in this process."""
    run = predictor(kind, SIZES[name], device)
    if device == "cuda":
        run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = peak_kib()
    run()
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    """Most memory that this process has held, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(options.threads)
    if options.memory:
        print(json.dumps(peak_mib(*options.memory, options.device)))
        return
    print(f"{'size':10} {'model':28} {'s per pair':>11} {'of raft_small':>14} {'peak MiB':>9}")
    for name, size in SIZES.items():
        runs = {kind: predictor(kind, size, options.device) for kind in KINDS if (kind, name) != ("tiled", "384x320")}
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {kind: [] for kind in runs}
        for _ in range(options.rounds):
            for kind, run in runs.items():
                times[kind].append(seconds(run, options.device))
        base = statistics.median(times["raft_small"])
        for kind in runs:
            again = [sys.executable, __file__, "--device", options.device, "--threads", str(options.threads)]
            memory = subprocess.run([*again, "--memory", kind, name], check=True, capture_output=True, text=True)
            took = statistics.median(times[kind])
            label = kind if kind == "raft_small" else f"midway_vits + DPT, {kind}"
            print(f"{name:10} {label:28} {took:11.3f} {took / base:14.2f} {float(memory.stdout):9.0f}", flush=True)


if __name__ == "__main__":
    main()
