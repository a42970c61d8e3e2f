"""How many generated pairs are rendered per second, and per second of CPU time, which other programs do not change.

    python examples/benchmark_scenes.py [--sizes 64x64 384x320] [--device cpu] [--threads 1] [--seconds 3]
        [--textures FOLDER]

Compare with how many pairs per second the model takes: a source that is slower starves it.
"""

import argparse
import time

import torch

from midway_zoo.scenes import SceneGenerator, ScenesConfig


def pairs_per_second(generator: SceneGenerator, batch: int, seconds: float) -> tuple[float, float]:
    def render(start: int) -> None:
        generator.render(range(start, start + batch))
        if generator.device.type == "cuda":
            torch.cuda.synchronize(generator.device)

    render(0)  # warm-up
    done, begin, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - begin) < seconds:
        render(done)
        done += batch
    return done / elapsed, done / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["64x64", "384x320"], help="width x height, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--textures", default="procedural")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, batches of {options.batch}")
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        config = ScenesConfig(height=height, width=width, textures=options.textures)
        generator = SceneGenerator(config, seed=0, device=options.device)
        wall, cpu = pairs_per_second(generator, options.batch, options.seconds)
        per_core = f", {cpu:.1f} per CPU second" if options.device == "cpu" else ""
        print(f"{width} x {height}: {wall:.1f} pairs/s{per_core}", flush=True)


if __name__ == "__main__":
    main()
