"""``midway-zoo benchmark``: speed compared with peers. What measures is imported when it runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midway_zoo.cli.inference import integers
from midway_zoo.cli.train import positive

DESCRIPTION = (
    "Measure how fast something is compared with a peer: after a warm-up both take turns in the same run, so that "
    "other load slows both alike. Prints medians with quartiles, ratios, peak memory, and the performance relative "
    "to a large matrix product. All speed figures of the documentation come from here."
)
SUBJECTS = {
    "encoder": ("images to tokens, against timm's ViT", "model batch size device dtype compile"),
    "motion": ("motion latents of a clip, against single pairs", "model batch size frames device dtype compile"),
    "flow": (
        "optical flow, against torchvision's RAFT and OpenCV's DIS",
        "model sizes zero_shot parts:head,tiles,directions,zero-shot device dtype compile",
    ),
    "stream": ("frame by frame as from a camera, against single pairs", "model video_size stream_frames flow device"),
    "load": ("a network from the cache, against safetensors' load_file", "model=midway_vitb"),
    "hub": ("parts of a file over a line, against hf_hub_download", "architecture mbits latency prototypes"),
    "data": (
        "preparation of training data on one core: views against PIL's, scenes, decoding against a seek per frame",
        "parts:views,scenes,decoding video video_size=960x540 batch scenes textures height gop device",
    ),
    "train": (
        "a pretraining step, against the same step written out plainly",
        "model batch=2 prototypes largest device dtype compile",
    ),
    "export": (
        "exported ONNX files in onnxruntime, float32 and int8, against the network in torch",
        "model parts:encoder,motion,flow=encoder batch size",
    ),
    "extract": (
        "`midway-zoo extract` against a plain loop, and its memory",
        "model=midway_nano.scenes parts:throughput,memory=throughput clips clip_frames video_size size=128 batch=16 "
        "readers workers items device",
    ),
    "import": ("imports and commands without computation, against timm's import and Python's start", ""),
}
"""Subject -> its description, and the names of its options, with ``=default`` if it is not the usual one."""


def _size(text: str) -> str:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x436, width first")
    return text


def _sizes(text: str) -> tuple[str, ...]:
    return tuple(_size(part) for part in text.split(","))


def _positives(text: str) -> tuple[int, ...]:
    values = integers(text)
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers from 1 on are expected")
    return values


def _clip_lengths(text: str) -> tuple[int, ...]:
    values = integers(text)
    if min(values) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: a clip has two frames or more")
    return values


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is negative or not a number")
    return value


def _flag(name: str, dest: str | None = None, **options: Any) -> tuple[str, dict[str, Any]]:
    return name, {"dest": dest or name.removeprefix("--").replace("-", "_"), **options}


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": _flag(
        "--model", metavar="NAME", default="midway_vits", help="architecture (random weights), name or path"
    ),
    "architecture": _flag("--model", metavar="NAME", default="midway_vits", help="architecture of the file"),
    "batch": _flag("--batch", type=positive, default=8, help="images or pairs per batch"),
    "size": _flag("--size", type=positive, metavar="PIXELS", help="side of the images"),
    "frames": _flag("--frames", type=_clip_lengths, default=(16, 64), metavar="N,...", help="lengths of the clips"),
    "sizes": _flag(
        "--sizes", type=_sizes, default=("384x320", "1024x436"), metavar="WxH,...", help="sizes of the pairs"
    ),
    "zero_shot": _flag(
        "--zero-shot", type=_size, default="960x540", metavar="WxH", help="size of the pair for zero-shot flow"
    ),
    "video_size": _flag(
        "--video-size", type=_size, default="640x360", metavar="WxH", help="size of the generated footage"
    ),
    "stream_frames": _flag("--frames", type=positive, default=8, metavar="N", help="frames per timed run"),
    "flow": _flag("--flow", action="store_true", help="measure flow too"),
    "mbits": _flag("--mbits", type=_not_negative, default=100.0, help="speed of the line in 1e6 bit/s; 0: unlimited"),
    "latency": _flag("--latency", type=_not_negative, default=0.1, metavar="SECONDS", help="latency of each reply"),
    "prototypes": _flag("--prototypes", type=positive, default=65536, help="outputs of the projection head"),
    "video": _flag("--video", type=Path, metavar="PATH", help="footage; default: generated"),
    "scenes": _flag("--scenes", type=_sizes, default=("64x64", "384x320"), metavar="WxH,...", help="rendered sizes"),
    "textures": _flag(
        "--textures", default="procedural", metavar="FOLDER", help="textures of the scenes; default: procedural"
    ),
    "height": _flag("--height", type=positive, default=360, help="height of prepared videos and scaled visits"),
    "gop": _flag("--gop", type=positive, default=15, help="distance of key frames in prepared videos"),
    "largest": _flag("--largest", action="store_true", help="also measure each at the largest batch that fits the GPU"),
    "clips": _flag("--clips", type=positive, default=24, help="generated videos"),
    "clip_frames": _flag("--frames", type=positive, default=64, metavar="N", help="frames of each clip"),
    "readers": _flag(
        "--readers",
        type=_positives,
        default=(),
        metavar="N,...",
        help="also measure with these numbers of decoding threads",
    ),
    "workers": _flag(
        "--workers", type=_positives, default=(), metavar="N,...", help="also measure Ray with these numbers of workers"
    ),
    "items": _flag("--items", type=positive, default=10_000, help="number of pictures for the measurement of memory"),
    "device": _flag("--device", default="cpu", help="cpu, cuda, cuda:1, ...; default: cpu"),
    "dtype": _flag(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="measure this precision too"
    ),
    "compile": _flag("--compile", action="store_true", help="measure torch.compile too; graph breaks are counted"),
}
_HOW = ("device", "dtype", "compile")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command, with a subcommand for each subject."""
    command = commands.add_parser("benchmark", help="measure speed compared with peers", description=DESCRIPTION)
    subjects = command.add_subparsers(dest="subject", metavar="SUBJECT", required=True)
    for name, (short, options) in SUBJECTS.items():
        subject = subjects.add_parser(name, help=short, description=f"{short[0].upper()}{short[1:]}.")
        own = [_add(subject, option) for option in options.split()]
        _add_common(subject, rounds=1 if name == "hub" else 5)
        subject.set_defaults(run=_benchmark, own=[dest for dest in own if dest not in _HOW])


def _add(subject: argparse.ArgumentParser, option: str) -> str:
    """Add one option of a subject; returns the name of its value."""
    name, _, default = option.partition("=")
    if name.startswith("parts:"):
        known = tuple(name.removeprefix("parts:").split(","))
        shown = tuple(default.split(",")) if default else known
        subject.add_argument(
            "--parts",
            type=lambda text: _known(text, known),
            default=shown,
            metavar="PART,...",
            help=f"of {', '.join(known)}; default: {','.join(shown)}",
        )
        return "parts"
    flag, settings = OPTIONS[name]
    if default:
        settings = {**settings, "default": int(default) if default.isdigit() else default}
    if "action" not in settings and "default:" not in settings["help"]:
        settings = {**settings, "help": f"{settings['help']}; default: {_shown(settings.get('default'))}"}
    subject.add_argument(flag, **settings)
    return str(settings["dest"])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "native" if value is None else str(value)


def _known(text: str, known: Sequence[str]) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    unknown = [part for part in parts if part not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"invalid choice: {unknown[0]!r} (choose from {', '.join(known)})")
    return parts


def _add_common(subject: argparse.ArgumentParser, rounds: int) -> None:
    group = subject.add_argument_group("measurement options")
    group.add_argument("--rounds", type=positive, default=rounds, help="timed runs of each way; default: %(default)s")
    group.add_argument("--warmup", type=int, default=1, help="warm-up runs; default: %(default)s")
    group.add_argument("--threads", type=positive, help="CPU threads; default: torch's choice")
    group.add_argument(
        "--json", type=Path, metavar="PATH", help="write all figures, hardware and versions to this file"
    )
    group.add_argument(
        "--plot", type=Path, metavar="PATH", help="write a plot to this .png, .svg or .pdf (extra `benchmark`)"
    )
    group.add_argument("--force", action="store_true", help="replace existing files")


def _benchmark(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.benchmark import run_benchmark

    run_benchmark(options)
