"""Put a trained network into the package, as the weights of a name that needs no download.

    python examples/miniature/bundle.py CHECKPOINT [...] [--name midway_nano.scenes] [--out FOLDER]

CHECKPOINT is a run folder of `midway-zoo train flow` (its best checkpoint, else the newest), one of its
checkpoints/step_*, or a folder of `midway-zoo train export`; of several, which must have begun with the same weights,
the mean of the weights is taken. Replaces NAME.safetensors (float16) and NAME.golden.safetensors (what the stored
network gives on images made by formula) in the package, and config, size_bytes and sha256 of the manifest's entry; what
else the entry says (data, recipes, metrics) is for a person to write. With --out all three are written there and the
package stays as it is.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from midway_zoo.cli.manifest_schema import validate
from midway_zoo.config import ARCHITECTURES, MidwayConfig
from midway_zoo.errors import CheckpointError, ConfigError, MidwayZooError
from midway_zoo.files import write_json, write_safetensors
from midway_zoo.inference.golden import golden_file, golden_outputs
from midway_zoo.manifest import BUNDLED, bundled_file, manifest_path
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import sha256_of
from midway_zoo.storage import load_file
from midway_zoo.train.checkpoints import best_checkpoint, run_checkpoint
from midway_zoo.train.weights import network_of_checkpoint
from midway_zoo.version import __version__
from midway_zoo.weights.checkpoint import load_checkpoint

LARGEST_BYTES, LARGEST_GOLDEN_BYTES = 12_000_000, 150_000


def read(path: Path) -> MidwayNetwork:
    """The network to be bundled, with one encoder, in float32."""
    best = best_checkpoint(path) if path.is_dir() else None
    checkpoint = best if best else run_checkpoint(path)
    network = network_of_checkpoint(checkpoint, paired=False) if checkpoint else load_checkpoint(path, paired=False)
    return network.float()


def mean(paths: list[Path]) -> MidwayNetwork:
    """The network of one path, or of the mean of several ones' weights; it is described as the first is."""
    networks = [read(path) for path in paths]
    for path, network in zip(paths, networks, strict=True):
        if network.config != networks[0].config:
            raise ConfigError(f"{path} and {paths[0]} have different configurations; their weights have no mean.")
    states = [network.state_dict() for network in networks]
    networks[0].load_state_dict({name: sum(state[name] for state in states) / len(states) for name in states[0]})
    return networks[0]


def stored(network: MidwayNetwork) -> dict[str, torch.Tensor]:
    """The state in float16; refuses numbers that it cannot hold."""
    state = {name: value.half() for name, value in network.state_dict().items()}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"tensor {name} holds numbers beyond float16, or none at all; it cannot be bundled.")
    return state


def differences(config: MidwayConfig, architecture: str) -> dict[str, Any]:
    """Fields in which a network differs from its architecture; its encoder must not, or timm could not load it."""
    native = ARCHITECTURES[architecture]
    if config.encoder_args != native.encoder_args or config.encoder != native.encoder:
        raise ConfigError(f"the encoder {config.encoder} {config.encoder_args} is not that of {architecture}.")
    plain = native.to_dict()
    return {key: value for key, value in config.to_dict().items() if value != plain[key]}


def bundle(paths: list[Path], name: str, out: Path | None) -> list[Path]:
    """Bundle the network at ``paths`` as ``name``; returns the files written. Nothing is replaced on any error."""
    content = json.loads(manifest_path().read_text(encoding="utf-8"))
    entry = content["models"].get(name, {})
    if entry.get("format") != BUNDLED:
        raise ConfigError(
            f"{manifest_path()} has no {BUNDLED} entry {name}; write one first, with any size and digest."
        )
    network = mean(paths)
    config = differences(network.config, entry["architecture"])
    trained = {key: value for key, value in network.provenance.items() if key not in ("source", "trained_with")}
    # The command stays out: it names folders of the machine that trained.
    used = {key: network.provenance.get("trained_with", {}).get(key) for key in ("midway_zoo", "torch", "written")}
    provenance = {"source": entry["file"], **trained, "trained_with": used}
    metadata = {"config": network.config.to_dict(), "provenance": provenance, "midway_zoo": __version__}
    folder = out or bundled_file(entry).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle.", dir=folder) as temporary:
        weights = Path(temporary) / entry["file"]
        golden = weights.with_name(golden_file(entry).name)
        write_safetensors(weights, stored(network), metadata)
        write_safetensors(golden, golden_outputs(load_file(MidwayNetwork, weights).float()), {"of": entry["file"]})
        for file, largest in ((weights, LARGEST_BYTES), (golden, LARGEST_GOLDEN_BYTES)):
            if file.stat().st_size > largest:
                raise CheckpointError(
                    f"{file.name} would have {file.stat().st_size} bytes; bundled weights may have {largest}."
                )
        entry.update(config=config, size_bytes=weights.stat().st_size, sha256=sha256_of(weights))
        if problems := validate(content):
            raise ConfigError(f"{manifest_path()}: {' '.join(problems)}")
        written = [file.replace(folder / file.name) for file in (weights, golden)]
    manifest = manifest_path() if out is None else out / manifest_path().name
    write_json(manifest, content, overwrite=True)
    return [*written, manifest]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="run folder, checkpoint, or exported folder")
    parser.add_argument("--name", default="midway_nano.scenes", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder to write to instead of the package")
    options = parser.parse_args()
    try:
        for path in bundle(options.checkpoints, options.name, options.out):
            print(f"{path}: {path.stat().st_size} bytes")
    except (MidwayZooError, OSError) as error:
        print(f"bundle.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
