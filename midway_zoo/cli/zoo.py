"""Commands about models and files: list, info, convert. What they need is imported when they run."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midway_zoo import manifest
from midway_zoo.config import ARCHITECTURES, MidwayConfig, override
from midway_zoo.errors import UnknownModelError, nearest
from midway_zoo.names import list_models, split_name

if TYPE_CHECKING:
    from midway_zoo.models.network import MidwayNetwork


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's commands."""
    command = commands.add_parser("list", help="list the models", description="List the models, one per line.")
    command.add_argument("pattern", nargs="?", help="shell-style pattern, such as 'midway_vit*'")
    command.add_argument("--pretrained", action="store_true", help="only names with weights")
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="describe a model", description="Describe a model.")
    command.add_argument(
        "name",
        metavar="NAME|PATH",
        help="an architecture, a pretrained name, hf-hub:ORG/NAME, or a file or folder that holds a network",
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_info)

    command = commands.add_parser(
        "convert",
        help="convert a released .pth to safetensors",
        description="Convert a released .pth, a .safetensors file, exported folder or training run of this package, or "
        "bundled weights by name, to folders of safetensors: OUT_DIR for this package, OUT_DIR/encoder for timm.",
    )
    command.add_argument(
        "input", metavar="PATH|NAME", type=Path, help="a file, folder or run, or the name of bundled weights"
    )
    command.add_argument("output", metavar="OUT_DIR", type=Path, help="folder to write")
    command.add_argument("--force", action="store_true", help="replace an earlier conversion")
    add_encoder_options(command)
    command.set_defaults(run=_convert)


def add_encoder_options(command: argparse.ArgumentParser) -> None:
    """Options for reading a released file."""
    command.add_argument("--encoder", choices=("teacher", "student"), default="teacher", help="default: %(default)s")
    command.add_argument(
        "--paired", action="store_true", help="use the student for source and the teacher for target frames"
    )
    command.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=_setting,
        help=f"override what a .pth says about itself; keys: {', '.join(field.name for field in fields(MidwayConfig))}",
    )


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _list(options: argparse.Namespace) -> None:
    names = list_models(options.pattern, pretrained=True if options.pretrained else None)
    if not names:
        known = list_models(pretrained=True if options.pretrained else None)
        raise UnknownModelError(f"no model is called {options.pattern}.{nearest(options.pattern, known)}")
    sys.stdout.writelines(f"{name}\n" for name in names)


def _info(options: argparse.Namespace) -> None:
    described = _of_name(options.name) if options.name in list_models() else _of_network(options.name)
    if options.json:
        sys.stdout.write(json.dumps(described, indent=2) + "\n")
        return
    sys.stdout.write(_describe(described))


def _of_name(name: str) -> dict[str, Any]:
    """What the manifest says, without reading any weights."""
    from midway_zoo.models.network import MidwayNetwork
    from midway_zoo.storage import empty_network

    architecture, tagged = split_name(name)
    weights = manifest.find(tagged) | {"name": tagged} if tagged else None
    config = override(ARCHITECTURES[architecture], (weights or {}).get("config") or {})
    network = empty_network(MidwayNetwork, config)
    return {"name": name, "parameters": _parameters(network), "config": config.to_dict(), "weights": weights}


def _of_network(name: str) -> dict[str, Any]:
    """What a file, a folder or a repository of the Hub holds."""
    from midway_zoo.weights.registry import resolve_network

    network = resolve_network(name)
    return {
        "name": name,
        "parameters": _parameters(network),
        "config": network.config.to_dict(),
        "provenance": network.provenance,
    }


def _parameters(network: "MidwayNetwork") -> dict[str, int]:
    dynamics = [] if network.dynamics is None else list(network.dynamics.parameters())
    return {
        "encoder": sum(parameter.numel() for parameter in network.encoder.parameters()),
        "dynamics": sum(parameter.numel() for parameter in dynamics),
        "trainable_dynamics": sum(parameter.numel() for parameter in dynamics if parameter.requires_grad),
        "flow_head": sum(parameter.numel() for parameter in network.flow_head.parameters()) if network.flow_head else 0,
    }


def _describe(described: dict[str, Any]) -> str:
    config = described["config"]
    millions = {part: f"{count / 1e6:.2f} M" for part, count in described["parameters"].items()}
    height, width = (side * config["patch_size"] for side in config["grid"])
    lines = [
        described["name"],
        f"  encoder      {config['encoder']}: width {config['embed_dim']}, depth {config['depth']}, "
        f"{config['num_heads']} heads, patch {config['patch_size']}, native {height}x{width}, {millions['encoder']}",
    ]
    if described["parameters"]["dynamics"]:
        lines.append(
            f"  dynamics     motion latents {config['motion_tokens']} x {config['motion_dim']}, {millions['dynamics']} "
            f"({millions['trainable_dynamics']} trainable)"
        )
    else:
        lines.append("  dynamics     none: an encoder alone")
    if config["flow_head"]:
        tile = "x".join(map(str, config["flow_size"]))
        lines.append(
            f"  flow head    widths {', '.join(map(str, config['flow_head']))}, tiles {tile}, {millions['flow_head']}"
        )
    if "provenance" in described:
        known = [f"{key} {value}" for key, value in described["provenance"].items() if isinstance(value, str | int)]
        lines.append(f"  weights      {', '.join(known) or 'nothing is known of where they come from'}")
    else:
        lines += _describe_weights(described["weights"])
    return "\n".join(lines) + "\n"


def _describe_weights(weights: dict[str, Any] | None) -> list[str]:
    if weights is None:
        return ["  weights      none; create_model gives random ones"]
    epochs = f", {weights['epochs']} epochs" if weights.get("epochs") else ""
    bundled = weights["format"] == manifest.BUNDLED
    lines = [
        f"  weights      {weights['name']}: {weights['training_data']}{epochs}",
        f"  licence      {weights['license']}",
        *_trust(weights),
        f"  source       {'part of this package' if bundled else weights['repo_id']}: {weights['file']}",
    ]
    for key, task in (("recipe", "pretrain"), ("flow_recipe", "flow")):
        if weights.get(key):
            lines.append(f"  recipe       midway-zoo train {task} --recipe {weights[key]}")
    lines += ["               (with what settings: MODEL_CARD.md)"] * bundled
    lines += [f"  {metric['name']:<42} {metric['value']:g} {metric['unit']}" for metric in weights["metrics"]]
    sources = sorted({metric["source"] for metric in weights["metrics"]})
    return lines + [f"  ({source})" for source in sources]


def _trust(weights: dict[str, Any]) -> list[str]:
    """How the weights' content is verified: by pinned digests, by the package, or not yet."""
    if weights["format"] == manifest.BUNDLED or weights.get("path"):
        return []
    from midway_zoo.weights.pins import TRUSTED, unpinned

    missing = list(unpinned(weights))
    if not missing:
        return [f"  digest       sha256 {weights['sha256']}, pinned at {weights['revision'][:12]}"]
    return [f"  digest       {TRUSTED}: not pinned yet are {', '.join(missing)}"]


def _convert(options: argparse.Namespace) -> None:
    from midway_zoo.weights.convert import convert
    from midway_zoo.weights.load import check_bundled

    path, name = options.input, str(options.input)
    if not path.exists() and name in list_models() and (tagged := split_name(name)[1]):
        entry = manifest.find(tagged)
        path = check_bundled(tagged, entry) if entry["format"] == manifest.BUNDLED else path
    written = convert(
        path,
        options.output,
        encoder=options.encoder,
        paired=options.paired,
        config=dict(options.config),
        overwrite=options.force,
    )
    sys.stdout.writelines(f"{path}\n" for path in written)
