"""Functions shared by all commands that run a network."""

import argparse
import sys
from typing import Any

import torch

from midway_zoo.cli.work.outputs import check_outputs
from midway_zoo.errors import InputError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.weights.checkpoint import load_checkpoint
from midway_zoo.weights.registry import create_model, is_path

TABLES = (".safetensors", ".npz")


def load(options: argparse.Namespace) -> MidwayNetwork:
    """The network, after a check that the outputs can be written: failing late would waste the work."""
    check_outputs(options)
    fields = dict(options.config)
    if is_path(options.model):
        network = load_checkpoint(options.model, encoder=options.encoder, paired=options.paired, config=fields or None)
    else:
        fields |= {"paired": True} if options.paired else {}
        network = create_model(options.model, pretrained=True, encoder=options.encoder, **fields)
    return network.to(device(options.device))


def device(name: str | None) -> torch.device:
    """The device of ``--device``.

    Raises:
        InputError: if there is no such device.
    """
    try:
        found = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}. Use --device cpu.") from error
    return found


def report(options: argparse.Namespace, result: Any) -> None:
    """Report on stdout what was computed and where it was written."""
    if not getattr(options, "quiet", False):
        written = " and ".join(str(path) for path in (options.output, getattr(options, "picture", None)) if path)
        sys.stdout.write(f"{result}\nwrote {written}\n")
