"""Side by side in one run: an optimizer step of the trainer and the same step written out plainly.

    python examples/benchmark_pretraining_step.py                      # ViT-S, 2 pairs, 2 cores, float32
    python examples/benchmark_pretraining_step.py --precision bf16     # the trainer in its recipes' precision
    python examples/benchmark_pretraining_step.py --device cuda --batch 20 --largest
    python examples/benchmark_pretraining_step.py --device cuda --batch 20 --largest --name midway_vitb

Both start from the same weights and see the same random views; that they agree in loss and gradients is checked
too. Steps are timed in turn. On a GPU the trainer runs compiled in bfloat16 and the reference in float16 with loss
scaling, as such code does; on a CPU both run in float32, unless --precision says otherwise for the trainer. Memory on
a CPU is the peak of a process that runs only the one: all of it (interpreter, libraries and model included), and
"step", what it rises above the memory that was in use once the model was built. On a GPU it is what torch allocated.
The processor's seconds ("CPU s") depend less on what else a machine does than the clock's.
FLOP are counted in the trainer's forward and backward, matrix products only.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from reference_step import ReferenceStep
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import make_accelerator
from midway_zoo.train.optim import set_hyperparameters
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.model import PretrainModel
from midway_zoo.train.tasks.pretrain.task import PretrainTask

Step = Callable[[dict[str, Tensor]], dict[str, Tensor] | dict[str, float]]
STEPS_PER_EPOCH = 1000
PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "A10G": 70, "A10": 125, "A6000": 155, "L40S": 362, "4090": 165}
"""Dense bfloat16 peaks in the makers' data sheets, by a part of the device's name."""


class StepTask(PretrainTask):
    """Pretraining without data: optimizer, schedules, clipping and averages are the trainer's."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.total_steps, self.steps_per_epoch = config, 300 * STEPS_PER_EPOCH, STEPS_PER_EPOCH
        torch.manual_seed(config.seed)
        self.model = PretrainModel(config).train()


class TrainerStep:
    """What midway_zoo.train.loop does in a step."""

    def __init__(self, config: PretrainConfig) -> None:
        self.task, self.accelerator = StepTask(config), make_accelerator(config)
        if config.compile:
            self.task.model.compile()
        self.model, self.optimizer = self.accelerator.prepare(self.task.model, self.task.optimizer())
        self.step = STEPS_PER_EPOCH  # past the epoch in which the last layer is frozen

    def __call__(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        hyper = self.task.hyperparameters(self.step)
        set_hyperparameters(self.optimizer, hyper.lr, hyper.weight_decay)
        with self.accelerator.autocast():
            losses = self.model(views)
        self.accelerator.backward(losses["loss"])
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(self.optimizer)
        self.task.before_update(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.task.after_update(self.step)
        self.step += 1
        return {name: value.detach() for name, value in losses.items()}


def reference(config: PretrainConfig, device: str) -> ReferenceStep:
    """The plain step, with the plain optimizer."""
    task = StepTask(config)
    task.model.to(device)
    dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    kept = ("params", "weight_decay", "scheduled")
    groups = [{key: group[key] for key in kept} for group in task.optimizer().param_groups]
    optimizer = torch.optim.AdamW(groups)
    return ReferenceStep(task.model, optimizer, dtype)


def settings(options: argparse.Namespace, batch: int, **changes: object) -> PretrainConfig:
    values = {"out": "unused", "data.root": "unused", "batch_size": batch, "network.name": options.name}
    values |= {"head.out": options.prototypes, "trackers": [], "network.resample": "timm"} | changes
    return load_config(PretrainConfig, None, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def random_views(config: PretrainConfig, batch: int, device: str) -> dict[str, Tensor]:
    """Noise in the shapes of normalised views."""
    views, generator = config.views, torch.Generator().manual_seed(0)
    sizes = {"dynamics": (2, views.dynamics_size), "globals": (4, views.global_size)}
    sizes["locals"] = (2 * views.local_crops, views.local_size)
    shapes = {key: (count, batch, 3, size, size) for key, (count, size) in sizes.items()}
    return {key: torch.randn(shape, generator=generator).to(device) for key, shape in shapes.items()}


def disturb(model: PretrainModel) -> None:
    """Noise on all weights (the same for the same shapes), so that no term is zero and EMA copies differ."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.dino.center):
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator).to(tensor))


def differences(config: PretrainConfig, views: dict[str, Tensor]) -> tuple[float, float]:
    """Largest relative difference of the losses and, over all tensors, of the gradients of trainer and reference."""
    device = views["globals"].device
    models = [StepTask(config).model.to(device) for _ in range(2)]
    for model in models:
        disturb(model)
    ours = models[0](views)["loss"]
    theirs, _, _ = ReferenceStep(models[1], torch.optim.SGD(models[1].parameters(), lr=0.0), None).losses(views)
    ours.backward()
    theirs.backward()
    grads = [{name: p.grad for name, p in model.named_parameters() if p.requires_grad} for model in models]
    apart = [_relative(grads[0][name], expected) for name, expected in grads[1].items()]
    return _relative(ours, theirs), max(apart)


def _relative(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).norm() / expected.norm()).item()


def flops_per_step(config: PretrainConfig, views: dict[str, Tensor]) -> float:
    """Floating-point operations of the trainer's forward and backward."""
    model = StepTask(config).model.to(views["globals"].device)
    # Fused attention is not counted everywhere; its plain form is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(views)["loss"].backward()
    return counter.get_total_flops()


def interleaved(
    steps: dict[str, Step], views: dict[str, Tensor], rounds: int, warmup: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and processor seconds of each step in each round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for index in range(-warmup, rounds):
        for name, step in steps.items():
            synchronise(views)
            start = time.perf_counter(), time.process_time()
            step(views)
            synchronise(views)
            if index >= 0:
                times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return times


def synchronise(views: dict[str, Tensor]) -> None:
    if views["globals"].is_cuda:
        torch.cuda.synchronize()


def builders(options: argparse.Namespace, batch: int) -> dict[str, Callable[[], Step]]:
    cuda = options.device == "cuda"
    plain = settings(options, batch, precision="fp16" if cuda else "no")
    ours = settings(
        options, batch, precision=options.precision or ("bf16" if cuda else "no"), compile=cuda or options.compile
    )
    return {"reference": lambda: reference(plain, options.device), "trainer": lambda: TrainerStep(ours)}


def cpu_memory(options: argparse.Namespace, name: str) -> tuple[float, float]:
    """Peak resident GB of a process that runs two steps of one implementation: all of it, and above the model."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result["peak"], result["peak"] - result["model"]


def run_only(options: argparse.Namespace) -> None:
    step = builders(options, options.batch)[options.only]()
    views = random_views(settings(options, options.batch), options.batch, "cpu")
    model = peak_resident()
    for _ in range(2):
        step(views)
    print(json.dumps({"model": model, "peak": peak_resident()}))


def peak_resident() -> float:
    """GB that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def cuda_memory(build: Callable[[], Step], views: dict[str, Tensor]) -> tuple[float, float]:
    """Peak allocated GB over two steps, all of it and above the model; infinite if it does not fit."""
    gc.collect()
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step = build()
        model = torch.cuda.memory_allocated() / 1e9
        for _ in range(2):
            step(views)
        torch.cuda.synchronize()
    except torch.cuda.OutOfMemoryError:
        return float("inf"), float("inf")
    peak = torch.cuda.max_memory_allocated() / 1e9
    return peak, peak - model


def largest_batch(options: argparse.Namespace, name: str) -> int:
    """Largest batch that fits, to an eighth."""

    def fits(batch: int) -> bool:
        views = random_views(settings(options, batch), batch, options.device)
        return cuda_memory(builders(options, batch)[name], views)[0] < float("inf")

    low, high = 0, options.batch
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def report(options: argparse.Namespace, batches: dict[str, int]) -> None:
    """Time the two, each at its batch, and print a table."""
    memory, times = {}, {}
    views = {name: random_views(settings(options, batch), batch, options.device) for name, batch in batches.items()}
    for name, batch in batches.items():
        build = builders(options, batch)[name]
        memory[name] = cuda_memory(build, views[name]) if options.device == "cuda" else cpu_memory(options, name)
    if len(set(batches.values())) == 1:
        made = {name: builders(options, batch)[name]() for name, batch in batches.items()}
        times = interleaved(made, next(iter(views.values())), options.rounds, options.warmup)
    else:  # at its largest batch each needs the whole device
        for name, batch in batches.items():
            made = {name: builders(options, batch)[name]()}
            times |= interleaved(made, views[name], options.rounds, options.warmup)
            made.clear()
            gc.collect()
            torch.cuda.empty_cache()
    peak = peak_flops(options)
    columns = {"pairs": 6, "s/step": 8, "pairs/s": 9, "speed-up": 9, "CPU s": 7, "speed-up ": 10}
    columns |= {"GB": 8, "of": 7, "step GB": 9, "of ": 7, "MFU": 6}
    print(" " * 13 + "".join(f"{column:>{width}}" for column, width in columns.items()))
    rate = {name: batches[name] / statistics.median(wall for wall, _ in both) for name, both in times.items()}
    work = {name: statistics.median(cpu for _, cpu in both) / batches[name] for name, both in times.items()}
    for name, batch in batches.items():
        whole, step = (
            f"{gb:>8.2f}{gb / base:>7.0%}" for gb, base in zip(memory[name], memory["reference"], strict=True)
        )
        mfu = f"{flops_per_pair(options) * rate[name] / peak:.0%}" if peak else "-"
        speed = f"{batch / rate[name]:>8.3f}{rate[name]:>9.2f}{rate[name] / rate['reference']:>9.2f}"
        speed += f"{work[name] * batch:>7.2f}{work['reference'] / work[name]:>10.2f}"
        print(f"{name:<13}{batch:>6}{speed}{whole} {step}{mfu:>6}")


_FLOPS: dict[str, float] = {}


def flops_per_pair(options: argparse.Namespace) -> float:
    """Those of the trainer, for both: what the reference computes beyond them is no use."""
    if options.name not in _FLOPS:
        config = settings(options, 2)
        _FLOPS[options.name] = flops_per_step(config, random_views(config, 2, options.device)) / 2
    return _FLOPS[options.name]


def peak_flops(options: argparse.Namespace) -> float | None:
    if options.peak_tflops or options.device == "cpu":
        return options.peak_tflops and 1e12 * options.peak_tflops
    name = torch.cuda.get_device_name()
    return next((1e12 * tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="midway_vits")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=2, help="pairs of a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPU cores")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), help="of the trainer")
    parser.add_argument("--compile", action="store_true", help="compile the trainer's step on a CPU too")
    parser.add_argument("--prototypes", type=int, default=65536)
    parser.add_argument("--largest", action="store_true", help="also the largest batch that fits the GPU")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the model FLOP utilisation")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.only:
        run_only(options)
        return
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} CPU threads"
    print(f"torch {torch.__version__}, {device}, {options.name}, medians of {options.rounds} rounds", flush=True)
    report(options, dict.fromkeys(builders(options, options.batch), options.batch))
    exact = settings(options, 2, **{"network.drop_path": 0})
    loss, gradient = differences(exact, random_views(exact, 2, options.device))
    print(f"in float32 trainer and reference differ by {loss:.1e} (loss) and at most {gradient:.1e} (gradients)")
    print(f"{flops_per_pair(options) / 1e9:.0f} GFLOP a pair")
    if options.largest:
        report(options, {name: largest_batch(options, name) for name in builders(options, options.batch)})


if __name__ == "__main__":
    main()
