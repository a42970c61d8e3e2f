"""Side by side in one run: encoder against timm's own ViT, a clip against separate pairs, import against timm's.

    python examples/benchmark_inference.py [--rounds 7] [--threads 2]

Prints ratios; absolute times depend on the machine. Weights are random: they do not change the time.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch

import midway_zoo as mz


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of both, run in turn, and the median of theirs / ours pair by pair."""
    ours(), theirs()  # warm-up
    pairs = []
    for _ in range(rounds):
        times = []
        for run in (ours, theirs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        pairs.append(times)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(second / first for first, second in pairs)


def encoder(rounds: int) -> str:
    images = torch.rand(8, 3, 224, 224)
    midway = timm.create_model("midway_vits").eval()
    reference = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    with torch.inference_mode():
        a, b, speed = ratio(lambda: midway(images), lambda: reference(images), rounds)
    return f"encoder, 8 images: midway_vits {8 / a:.1f}/s, vit_small_patch16_224 {8 / b:.1f}/s, ratio {speed:.3f}"


def clip(rounds: int) -> str:
    model = mz.create_model("midway_vits")
    frames = torch.rand(16, 3, 224, 224)

    def pairs() -> None:
        for source, target in itertools.pairwise(frames):
            mz.infer_motion_latent(model, source, target)

    a, b, speed = ratio(lambda: mz.infer_motion_latents(model, frames), pairs, rounds)
    return f"16-frame clip: {a:.2f} s, 15 separate pairs: {b:.2f} s, ratio {speed:.2f}"


def imports(rounds: int) -> str:
    def run(module: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True)

    a, b, _ = ratio(run("midway_zoo"), run("timm"), rounds)
    return f"import midway_zoo: {a:.2f} s, import timm: {b:.2f} s, difference {a - b:+.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, timm {timm.__version__}, {options.threads} threads")
    for part in (encoder, clip, imports):
        print(part(options.rounds), flush=True)


if __name__ == "__main__":
    main()
