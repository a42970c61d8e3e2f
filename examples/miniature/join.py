"""Put a network together from parts of others, to begin a training with (init_from=).

    python examples/miniature/join.py OUT PART=SOURCE [...] [--fresh PART ...] [--overrides "{KEY: VALUE, ...}"]

OUT is a folder to write. PART is a part of midway_nano by its name in the state dict, such as encoder, dynamics,
dynamics.midway or flow_head; SOURCE is whatever init_from= takes: a pretrained name, a run folder, a checkpoint. A part
that is named later wins. What nobody names, and --fresh, begin as in a fresh network whose dynamics are aligned.
--overrides are fields of MidwayConfig. A run gives its teacher's encoder; position tables are resampled.
"""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

import midway_zoo as mz
from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError, MidwayZooError, OutputExistsError, nearest
from midway_zoo.train.alignment import align
from midway_zoo.train.weights import check_shapes, fit_tables, network_from


def of_part(names: dict[str, Tensor], part: str) -> set[str]:
    """The tensors of a part; a :class:`ConfigError` if there are none."""
    found = {name for name in names if name == part or name.startswith(f"{part}.")}
    if not found:
        parts = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)}
        raise ConfigError(f"{part!r} is not a part of the network.{nearest(part, parts)}")
    return found


def join(parts: list[tuple[str, str]], fresh: list[str], overrides: dict[str, object], seed: int) -> mz.MidwayNetwork:
    """A network of ``parts``, (part, source) each; what ``fresh`` names is left as it began."""
    torch.manual_seed(seed)
    network = mz.MidwayNetwork(override(architecture_config("midway_nano"), overrides))
    align(network.require_dynamics())
    state = network.state_dict()
    spared = set[str]().union(*(of_part(state, part) for part in fresh))
    for part, source in parts:
        given = network_from(source, paired=False)
        wanted = {name: state[name] for name in of_part(state, part) - spared}
        fitted = fit_tables(given.state_dict(), given.config, network.config)
        check_shapes(wanted, fitted, source)
        state |= {name: fitted[name] for name in wanted}
    network.load_state_dict(state)
    return network


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("parts", nargs="+", metavar="PART=SOURCE", help="what is taken from where")
    parser.add_argument("--fresh", nargs="*", default=[], metavar="PART", help="what begins anew all the same")
    parser.add_argument("--overrides", default="{}", help="fields of MidwayConfig, in YAML")
    parser.add_argument("--seed", type=int, default=0, help="of what begins anew, default: %(default)s")
    options = parser.parse_args()
    try:
        if options.out.exists():
            raise OutputExistsError(f"{options.out} is there already; name another folder.")
        pairs = [part.partition("=") for part in options.parts]
        for part, equals, source in pairs:
            if not (part and equals and source):
                raise ConfigError(f"{part + equals + source!r} should be PART=SOURCE, such as encoder=runs/pretrain.")
        overrides = OmegaConf.to_object(OmegaConf.create(options.overrides))
        if not isinstance(overrides, dict):
            raise ConfigError(f"--overrides {options.overrides!r} should be fields in braces: '{{grid: [8, 8]}}'.")
        parts = [(part, source) for part, _, source in pairs]
        join(parts, options.fresh, overrides, options.seed).save_pretrained(options.out)
    except (MidwayZooError, OSError) as problem:
        print(f"join.py: error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
