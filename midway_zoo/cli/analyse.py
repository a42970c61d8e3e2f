"""The ``analyse`` commands: what a network knows about motion, as pictures and numbers."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from midway_zoo.cli.inference import size
from midway_zoo.cli.train import positive
from midway_zoo.cli.zoo import add_encoder_options

FIGURES, TENSORS, FILM = (".png", ".svg", ".pdf"), (".safetensors", ".npz"), (".mp4",)
_OUT = "-o OUT may be repeated; the ending determines what is written: "
_TEXTURES = "natural, procedural or a folder; default: %(default)s"
_MODEL = "pretrained name, hf-hub:ORG/REPO, released .pth, folder, run or export of training"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register ``analyse`` and its subcommands."""
    short = "show what a network knows about motion"
    group = commands.add_parser("analyse", help=short, description=f"{short[0].upper()}{short[1:]}.")
    tasks = group.add_subparsers(dest="task", metavar="COMMAND", required=True)
    _add_pairs(tasks)
    _add_clips(tasks)
    _add_retrieval(tasks)
    _add_figures(tasks)


def _add_pairs(tasks: Any) -> None:
    command = _add(
        tasks,
        "heatmap",
        "where points of one frame are found in others",
        (*FIGURES, *FILM, *TENSORS),
        example="heatmap midway_nano.scenes a.png b.png --at 40,30 --at 80,60 -o heat.png",
    )
    command.add_argument("source", metavar="SOURCE", type=Path, help="image, or clip (its first frame is the source)")
    command.add_argument("target", metavar="TARGET", type=Path, nargs="*", help="images; none with a clip")
    _points(command)
    _perturbation(command, draws=8)
    _sampling(command)

    command = _add(
        tasks,
        "matrix",
        "sensitivity of every target token to every source token",
        (*FIGURES, *TENSORS),
        output=False,
        example="matrix midway_nano.scenes a.png b.png -o matrix.png -o matrix.safetensors",
    )
    _pair(command)
    _perturbation(command, draws=1)
    command.add_argument("--rows", type=positive, default=256, help="rows kept in memory at once, default: %(default)s")
    command.add_argument(
        "--time",
        type=positive,
        metavar="N",
        help="first time N derivatives at once, in a loop, and as single heat maps; -o may then be left out",
    )

    command = _add(
        tasks,
        "gates",
        "gates of every level and block of the forward dynamics",
        (*FIGURES, *TENSORS),
        example="gates midway_nano.scenes a.png b.png -o gates.png",
    )
    _pair(command)

    command = _add(
        tasks,
        "attention",
        "what the encoder or the motion tokens attend to",
        (*FIGURES, *TENSORS),
        example="attention midway_nano.scenes a.png b.png --motion -o attention.png",
    )
    command.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="with --motion: source and target")
    command.add_argument("--motion", action="store_true", help="attention of the motion tokens to both frames")
    command.add_argument(
        "--backward", action="store_true", help="show the backward features of every level as colours instead"
    )
    command.add_argument("--block", type=int, help="0-based; default: the last")
    command.add_argument("--level", type=int, choices=(2, 1, 0), help="level of --motion; default: the last")
    command.add_argument(
        "--at", type=_point, metavar="X,Y", help="attention of the token at this point; default: of the class token"
    )


def _add_clips(tasks: Any) -> None:
    command = _add(
        tasks,
        "track",
        "track points through a clip, by the paper's rule and others",
        (*FIGURES, *FILM, *TENSORS),
        example="track midway_nano.scenes clip.mp4 --at 40,30 -o tracks.mp4",
    )
    command.add_argument("video", metavar="CLIP", type=Path, help="video, or folder of frames")
    _points(command)
    command.add_argument(
        "--rule",
        action="append",
        choices=("paper", "sensitivity", "similarity", "flow"),
        help="paper: the most similar of the five most sensitive tokens; sensitivity or similarity alone; or flow: "
        "the flow head. May be repeated; default: paper",
    )
    _perturbation(command, draws=8)
    _sampling(command)

    command = _add(
        tasks,
        "similarity",
        "similarity of the motions along a clip",
        (*FIGURES, *TENSORS),
        example="similarity midway_nano.scenes clip.mp4 -o similarity.png",
    )
    command.add_argument("video", metavar="CLIP", type=Path, help="video, or folder of frames")
    command.add_argument("--gap", type=positive, default=1, help="frames from source to target, default: %(default)s")
    _sampling(command, frames=256)

    command = _add(
        tasks,
        "pca",
        "principal components of a clip's features, with the foreground separated",
        (*FIGURES, *FILM, *TENSORS),
        example="pca midway_nano.scenes clip.mp4 -o pca.png",
    )
    command.add_argument("video", metavar="CLIP", type=Path, help="video, folder of frames, or one image")
    command.add_argument("--block", type=int, help="encoder block, 0-based; default: the last")
    command.add_argument("--backward", type=int, choices=(2, 1, 0), help="backward features of this level instead")
    command.add_argument("--whole", action="store_true", help="colour all tokens, without separating the foreground")
    _sampling(command)


def _add_retrieval(tasks: Any) -> None:
    command = _add(
        tasks,
        "index",
        "index the motion of every clip of a folder, to search it",
        (".safetensors",),
        example="index midway_nano.scenes clips -o clips.safetensors",
    )
    command.add_argument(
        "root", metavar="FOLDER", type=Path, help="folder with videos and folders of frames, at any depth"
    )
    command.add_argument("--gap", type=positive, default=1, help="frames from source to target, default: %(default)s")
    command.add_argument("--stride", type=positive, default=1, help="take every n-th frame, default: %(default)s")
    command.add_argument("--fps", type=float, help="for videos, instead of --stride: frames per second to take")
    command.add_argument(
        "--level", type=int, choices=(2, 1, 0), help="level whose motion latents are stored; default: the highest"
    )
    command.add_argument("--update", action="store_true", help="update an existing index: read only clips that changed")

    command = _add(
        tasks,
        "retrieve",
        "find the clips that move like a pair of frames",
        (*FIGURES, ".json"),
        output=False,
        example="retrieve midway_nano.scenes clips.safetensors a.png b.png -o found.png",
    )
    command.add_argument(
        "index", metavar="INDEX", type=Path, help="index written by `analyse index` with the same model"
    )
    _pair(command)
    command.add_argument("--by", choices=("motion", "appearance"), help="default: motion; a picture shows both")
    command.add_argument("--top", type=positive, default=5, help="number of clips, default: %(default)s")


def _add_figures(tasks: Any) -> None:
    command = _add(
        tasks,
        "latent",
        "what the motion latent carries, compared with random weights",
        (*FIGURES, ".json"),
        output=False,
        example="latent midway_nano.scenes --clips a.mp4 b.mp4 -o latent.png -o latent.json",
    )
    command.add_argument(
        "--clips",
        type=Path,
        nargs="+",
        default=[],
        metavar="CLIP",
        help="real clips, whose frames are moved by known motions",
    )
    command.add_argument("--pairs", type=positive, default=1024, help="pairs of the probes, default: %(default)s")
    command.add_argument(
        "--pictures", type=positive, default=16, help="pictures of replay and nearest latents, default: %(default)s"
    )
    command.add_argument("--motions", type=positive, default=8, help="motions of each picture, default: %(default)s")
    command.add_argument("--textures", default="natural", help=_TEXTURES)
    _sampling(command, frames=48, fps=False)

    command = _add(
        tasks,
        "tracking",
        "score the tracking of every token of generated pairs",
        (*FIGURES, ".json"),
        output=False,
        several=True,
        example="tracking midway_nano.scenes --against truth -o truth.png",
    )
    command.add_argument("--against", choices=("truth",), default="truth", help="the exact flow of generated scenes")
    command.add_argument("--pairs", type=positive, default=64, help="default: %(default)s")
    command.add_argument("--textures", default="natural", help=_TEXTURES)
    command.add_argument("--alone", action="store_true", help="without the baselines: opened gates and random weights")
    _perturbation(command, draws=1, seed=False)

    command = _add(
        tasks,
        "retrieval",
        "how often the nearest generated clip has the same motion, by motion and by appearance",
        (*FIGURES, ".json"),
        output=False,
        several=True,
        example="retrieval midway_nano.scenes --against truth -o retrieval.png",
    )
    command.add_argument("--against", choices=("truth",), default="truth", help="the known motions of generated clips")
    command.add_argument("--motions", type=positive, default=10, help="motions of the clips, default: %(default)s")
    command.add_argument("--pictures", type=positive, default=5, help="pictures per motion, default: %(default)s")
    command.add_argument(
        "--rounds", type=positive, default=5, help="rounds with different pictures, default: %(default)s"
    )
    command.add_argument("--textures", default="natural", help=_TEXTURES)
    command.add_argument("--alone", action="store_true", help="without the baseline of random weights")


def _add(
    tasks: Any,
    name: str,
    short: str,
    endings: tuple[str, ...],
    *,
    example: str,
    output: bool = True,
    several: bool = False,
) -> argparse.ArgumentParser:
    """A subcommand with the common options."""
    command: argparse.ArgumentParser = tasks.add_parser(
        name,
        help=short,
        description=f"{short[0].upper()}{short[1:]}. {_OUT}{', '.join(endings)}.",
        epilog=f"Example: midway-zoo analyse {example}",
    )
    command.add_argument("model", metavar="MODEL", nargs="+" if several else None, help=_MODEL)
    command.add_argument(
        "-o",
        "--output",
        dest="outputs",
        action="append",
        type=Path,
        metavar="OUT",
        required=output,
        default=[],
        help=f"{', '.join(endings)}; may be repeated",
    )
    command.add_argument("--force", action="store_true", help="replace existing output files")
    command.add_argument("--random", action="store_true", help="for a name: use random weights, as a baseline")
    command.add_argument("--size", type=size, help='shorter side in pixels, HEIGHTxWIDTH, or "full"; default: native')
    command.add_argument("--batch-size", type=positive, default=8, help="default: %(default)s")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")
    add_encoder_options(command)
    command.set_defaults(run=_run, endings=endings)
    return command


def _pair(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", type=Path, help="image")
    command.add_argument("target", metavar="TARGET", type=Path, help="image of the same size")


def _points(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--at",
        type=_point,
        action="append",
        metavar="X,Y",
        required=True,
        help="point in pixels of the first frame; may be repeated",
    )


def _perturbation(command: argparse.ArgumentParser, *, draws: int, seed: bool = True) -> None:
    command.add_argument(
        "--level", type=int, choices=(2, 1, 0), help="level of the forward dynamics; default: the highest"
    )
    command.add_argument("--draws", type=positive, default=draws, help="perturbations to average, default: %(default)s")
    if seed:
        command.add_argument("--seed", type=int, default=0, help="seed of the perturbations, default: %(default)s")


def _sampling(command: argparse.ArgumentParser, *, frames: int = 32, fps: bool = True) -> None:
    command.add_argument(
        "--stride", type=positive, default=1, help="for a clip: take every n-th frame, default: %(default)s"
    )
    if fps:
        command.add_argument("--fps", type=float, help="for a video, instead of --stride: frames per second to take")
    command.add_argument(
        "--frames", type=positive, default=frames, help="largest number of frames, default: %(default)s"
    )


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: two numbers X,Y such as 40,30") from error
    return x, y


def _run(options: argparse.Namespace) -> None:
    part = {
        "heatmap": "pairs",
        "matrix": "pairs",
        "gates": "pairs",
        "attention": "pairs",
        "track": "clips",
        "similarity": "clips",
        "pca": "clips",
    }.get(options.task, "figures")
    module = importlib.import_module(f"midway_zoo.cli.work.analyse_{part}")
    getattr(module, options.task)(options)
