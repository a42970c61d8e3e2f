"""Go on from a small model of flow: self-supervised pretraining, then flow on the encoder that it left, and so on.

    python examples/miniature/rounds.py --out runs/rounds [--textures FOLDER] [--footage FOLDER] [--rounds 2]
        [--seconds 540] [--pretrain KEY=VALUE ...] [--flow KEY=VALUE ...]

What pretraining from fresh weights lacks are latents that already encode motion, and what fine-tuning for flow takes
away (heat maps that follow, smooth features) another pretraining gives back. With --footage, two in five pairs of the
pretraining are frames of those videos instead of generated scenes; --textures (textures.py makes such a folder) are the
pictures that scenes are made of.

A round is OUT/ROUND/pretrain, OUT/ROUND/joined (its network with the flow head from before) and OUT/ROUND/flow. The
same command goes on where it stopped, so that it can be given in pieces (--seconds, or Ctrl-C); after every piece
OUT/weights.safetensors has the newest network with its head in half precision (9 MB), as load_checkpoint reads it.

For a GPU, which renders the scenes itself (videos would keep its CPU cores busy), in larger batches; not tried on one:

    python examples/miniature/rounds.py --out runs/gpu --seconds 540 --pretrain batch_size=256 optim.base_lr=2e-3
        schedule_steps=8000 --flow batch_size=128 optim.lr=5e-4 schedule_steps=12000 data.epoch_pairs=51200
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from bundle import stored
from join import join

import midway_zoo as mz
from midway_zoo.errors import ConfigError, MidwayZooError
from midway_zoo.files import write_safetensors
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import RunResult, fit
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from midway_zoo.train.weights import network_of_checkpoint
from midway_zoo.version import __version__

DEFAULT = "midway_nano.scenes"
NETWORK = {"grid": [8, 8], "gate_bias": -1.0, "forward_places": True}
_NETWORK = f"network.overrides={json.dumps(NETWORK)}"
SCENES = ["data.scenes.height=88", "data.scenes.width=88", "data.scenes.texture_scale=[0.5,2.0]"]
PRETRAIN = [
    *(_NETWORK, "network.mlp_recompute=false", "precision=bf16", "num_workers=0", "batch_size=32"),
    *("schedule_steps=700", "save_every=100", "head.out=512"),
    *("objective.teacher_temperature_start=0.04", "objective.teacher_temperature=0.07"),
    *("views.dynamics_size=64", "views.global_size=64", "views.local_crops=4", "views.local_size=32"),
    *("views.dynamics_shift=0.25", *SCENES, "data.scenes.objects=[1,4]", "data.scenes.size=[0.15,0.35]"),
    *("data.scenes.motion=8", "data.scenes.camera=18"),
]
FLOW = [
    *(_NETWORK, "initial=full", "dynamics_weight=4", "precision=bf16", "num_workers=0", "data.crop=[64,64]"),
    *("schedule_steps=3000", "epochs=60", "optim.lr=3e-4", "optim.warmup_epochs=0.5", *SCENES),
    *("data.scenes.objects=[1,5]", "data.scenes.size=[0.1,0.35]", "data.scenes.motion=7", "data.scenes.camera=12"),
    *("data.scenes.rotation=8", "data.augment.letterbox_p=0.05", "data.augment.still_p=0.02"),
    "network.freeze=[encoder]",  # trained as well, it forgot what it shows and brought nothing (README)
]


def settings_of(options: argparse.Namespace, number: int) -> tuple[list[str], list[str]]:
    """Overrides of round ``number`` for the recipes nano_scenes and flow_scenes_nano."""
    natural = "natural" if options.textures is None else options.textures
    shared = [f"data.scenes.textures={natural}", f"seed={options.seed + number}"]
    footage = [] if options.footage is None else [f"data.root={options.footage}", "data.mixture=0.4"]
    return [*PRETRAIN, *shared, *footage, *options.pretrain], [*FLOW, *shared, *options.flow]


def network_named(name: str) -> mz.MidwayNetwork:
    """A network with a flow head."""
    network = mz.load_checkpoint(name) if Path(name).exists() else mz.create_model(name, pretrained=True)
    if network.flow_head is None:
        raise ConfigError(f"{name} has no flow head; pass what `midway-zoo train flow` left, or a name like {DEFAULT}.")
    return network


def joined(folder: Path, begin: str) -> mz.MidwayNetwork:
    """The network that a round has pretrained, with the flow head from before."""
    before = network_named(begin)
    config = {**NETWORK, "flow_head": before.config.flow_head, "flow_size": list(before.config.flow_size)}
    parts = [("encoder", str(folder / "pretrain")), ("dynamics", str(folder / "pretrain")), ("flow_head", begin)]
    return join(parts, [], config, 0)


def play(folder: Path, begin: str, until: float, settings: tuple[list[str], list[str]]) -> tuple[RunResult, bool]:
    """One round, as far as it gets before the clock says ``until``, from the network that ``begin`` names.

    Returns:
        What its last run says, and whether the round is finished.
    """
    begun = folder / "joined"
    if not begun.exists():
        pretrain = [*settings[0], f"out={folder / 'pretrain'}", f"init_from={begin}", left(until)]
        result = fit(PretrainTask(load_config(PretrainConfig, "nano_scenes", pretrain)))
        if not result.finished:
            return result, False
        joined(folder, begin).save_pretrained(begun)
        if time.monotonic() >= until:
            return result, False
    flow = [*settings[1], f"out={folder / 'flow'}", f"init_from={begun}", left(until)]
    result = fit(FlowTask(load_config(FlowConfig, "flow_scenes_nano", flow)))
    return result, result.finished


def left(until: float) -> str:
    """The time that a run may take."""
    return f"max_seconds={max(1.0, until - time.monotonic()):.1f}"


def leave(folder: Path, begin: str, path: Path) -> None:
    """Write the network as far as a round got, in half precision."""
    checkpoint = latest_checkpoint(folder / "flow")
    network = network_of_checkpoint(checkpoint, paired=False) if checkpoint else joined(folder, begin)
    about = {"config": network.config.to_dict(), "provenance": network.provenance, "midway_zoo": __version__}
    write_safetensors(path, stored(network), about, overwrite=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all rounds")
    parser.add_argument("--begin", default=DEFAULT, help="a network of flow, default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="end cleanly after so many, default: when all is done"
    )
    parser.add_argument("--textures", type=Path, metavar="FOLDER", help="pictures; default: drawn by formulas")
    parser.add_argument("--footage", type=Path, metavar="FOLDER", help="videos for the pretraining (extra: video)")
    parser.add_argument("--seed", type=int, default=0, help="of the first round, default: %(default)s")
    parser.add_argument("--pretrain", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--flow", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    until, begin = time.monotonic() + options.seconds, options.begin
    try:
        network_named(begin)  # what cannot be used is told before hours of pretraining
        for number in range(options.rounds):
            folder, weights = options.out / str(number), options.out / "weights.safetensors"
            result, finished = play(folder, begin, until, settings_of(options, number))
            leave(folder, begin, weights)
            print(f"round {number}: {result.reason} (step {result.step}); wrote {weights}")
            if not finished or (time.monotonic() >= until and number + 1 < options.rounds):
                print("the same command goes on")
                break
            begin = str(folder / "flow")
    except (MidwayZooError, OSError) as problem:
        print(f"rounds.py: error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
