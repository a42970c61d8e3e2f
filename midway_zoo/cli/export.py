"""``midway-zoo export``. What does the work is imported when it is run."""

import argparse
from pathlib import Path

from midway_zoo.cli.inference import integers, size
from midway_zoo.cli.zoo import add_encoder_options

_DESCRIPTION = (
    "Write a part of a network to a file that runs without this package. encoder: images -> cls, block2, ...; motion: "
    "source, target -> tokens, level2, level1, pooled; flow: source, target -> flow, confidence (needs a flow head); "
    "stream: images, previous -> state, motion since the previous frame; network: all outputs of the dynamics. "
    "Images are float32 (B, 3, H, W), RGB, in [0, 1]. The file is run and compared with the network before it is kept."
)
_SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "torchscript": ".ts"}


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = commands.add_parser("export", help="ONNX, torch.export or TorchScript", description=_DESCRIPTION)
    command.add_argument(
        "model",
        metavar="NAME",
        help="pretrained name, hf-hub:ORG/REPO, .pth, .safetensors, exported folder or training run",
    )
    command.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: NAME-PART with the format's ending")
    command.add_argument("--format", choices=tuple(_SUFFIX), help="default: by the ending of OUT, else onnx")
    command.add_argument(
        "--part",
        choices=("encoder", "motion", "flow", "stream", "network"),
        default="encoder",
        help="default: %(default)s",
    )
    command.add_argument("--size", type=size, help="side in pixels, or HEIGHTxWIDTH; default: native")
    command.add_argument(
        "--dynamic",
        type=lambda text: tuple(text.split(",")),
        default=(),
        metavar="AXES",
        help="batch, size or batch,size",
    )
    command.add_argument("--dtype", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    command.add_argument("--blocks", type=integers, help="encoder blocks, such as 5,11")
    command.add_argument(
        "--images", type=Path, nargs="+", metavar="IMAGE", help="images for the comparison; default: generated scenes"
    )
    command.add_argument("--no-check", action="store_true", help="do not compare the file with the network")
    command.add_argument("--force", action="store_true", help="replace an existing file")
    command.add_argument("--device", help=argparse.SUPPRESS, default="cpu")  # traced on the CPU, wherever it will run
    add_encoder_options(command)
    command.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from midway_zoo.cli.work.export import run_export

    if options.output is None:
        stem = Path(options.model).name.removesuffix(".pth").removesuffix(".safetensors")
        options.output = Path(f"{stem}-{options.part}{_SUFFIX[options.format or 'onnx']}")
    run_export(options)
