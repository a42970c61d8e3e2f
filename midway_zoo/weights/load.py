"""Pretrained names: from the cached parts of a released file, the package, or a user's own file to networks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo import manifest
from midway_zoo.config import ARCHITECTURES, architecture_config, override
from midway_zoo.errors import CheckpointError, ConfigError, WeightsUnavailableError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.storage import EncoderName, assemble, empty_network, load_file, load_folder
from midway_zoo.weights.bundled import check_request, load_bundled

Folder = str | os.PathLike[str] | None


def parts_for(encoder: EncoderName, paired: bool, *, dynamics: bool = True) -> list[str]:
    """The parts that a network is made of."""
    return [*(["student", "teacher"] if paired else [encoder]), *(["dynamics"] if dynamics else [])]


def encoder_state(name: str, *, encoder: EncoderName = "teacher", **options: Any) -> dict[str, Tensor]:
    """State of one encoder, by timm's names; options as for :func:`load_pretrained`."""
    entry = manifest.find(name)
    if entry.get("path"):
        released = Path(entry["path"]).is_file() and Path(entry["path"]).suffix != ".safetensors"
        alone = {"dynamics": False} if released else None
        return _local(name, entry, encoder=encoder, overrides=alone).encoder.state_dict()
    if entry["format"] == manifest.BUNDLED:
        return load_pretrained(name, encoder=encoder, overrides={"dynamics": False}, **options).encoder.state_dict()
    from midway_zoo.weights.hub import fetch, load_part  # only who fetches pays for importing it

    verify = options.pop("verify", True)
    return load_part(fetch(name, entry, [encoder], **options)[encoder], verify=verify).tensors


def load_pretrained(
    name: str,
    *,
    encoder: EncoderName = "teacher",
    paired: bool = False,
    overrides: Mapping[str, Any] | None = None,
    cache_dir: Folder = None,
    revision: str | None = None,
    token: str | bool | None = None,
    verify: bool = True,
) -> MidwayNetwork:
    """The network of a pretrained name; see :func:`midway_zoo.create_model`."""
    entry = manifest.find(name)
    if entry.get("path"):
        return _local(name, entry, encoder=encoder, paired=paired, overrides=overrides)
    if entry["format"] == manifest.BUNDLED:
        # In the package: neither cache nor token play a part.
        check_request(name, encoder=encoder, paired=paired, revision=revision)
        return load_bundled(name, entry, overrides, verify=verify)
    from midway_zoo.weights.hub import fetch, load_part
    from midway_zoo.weights.pins import digests

    dynamics = (overrides or {}).get("dynamics", (entry.get("config") or {}).get("dynamics", True))
    wanted = parts_for(encoder, paired, dynamics=dynamics is not False)
    paths = fetch(name, entry, wanted, cache_dir=cache_dir, revision=revision, token=token)
    parts = {part: load_part(path, verify=verify) for part, path in paths.items()}
    facts = parts[wanted[-1]].facts  # of the dynamics, where they are asked for
    rooms: dict[str, str] = {"encoder": "student" if paired else encoder}
    rooms |= {"target_encoder": "teacher"} if paired else {}
    rooms |= {"dynamics": "dynamics"} if "dynamics" in wanted else {}
    state = {f"{room}.{key}": tensor for room, part in rooms.items() for key, tensor in parts[part].tensors.items()}
    fields = _with_listed(facts, entry, paths[wanted[-1]])
    config = override(architecture_config(entry["architecture"]), fields | {"paired": paired})
    config = override(config, overrides or {})
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in state.items()}
    network = assemble(empty_network(MidwayNetwork, config), found, state.pop, name, dtype=torch.float32)
    network.provenance = {
        "source": facts["file"],
        "repo_id": facts["repo_id"],
        "commit": facts["commit"],
        **digests(facts, paths[wanted[-1]], wanted[-1]),
        "encoder": "student and teacher" if paired else encoder,
    }
    return network


def _with_listed(facts: Mapping[str, Any], entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A cached part's configuration with what the listing says today, which must agree with what the file told.

    Raises:
        CheckpointError: naming both values, if it does not.
    """
    from midway_zoo.weights.released import same  # such a part came out of a released file

    fields = dict(facts["config"])
    for key, value in (entry.get("config") or {}).items():
        told = key in fields and key not in facts.get("filled", ()) and fields["dynamics"]
        if told and not same(fields[key], value):
            raise CheckpointError(
                f"{path.name}: the file says {key}={fields[key]!r}, the configuration that is listed for it says "
                f"{key}={value!r}. It is another file than the one that was listed, or the listing is wrong."
            )
        if fields["dynamics"] or key != "dynamics":
            fields[key] = value
    return fields


def _local(
    name: str,
    entry: Mapping[str, Any],
    *,
    encoder: EncoderName,
    paired: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> MidwayNetwork:
    path = Path(entry["path"])
    if not path.exists():
        raise WeightsUnavailableError(f"{name}: the file registered for it, {path}, does not exist.")
    if path.is_dir() or path.suffix == ".safetensors":
        if overrides or entry.get("config"):
            raise ConfigError(f"{name}: {path} carries its configuration; none can be given.")
        return (load_folder if path.is_dir() else load_file)(MidwayNetwork, path, encoder=encoder, paired=paired)
    from midway_zoo.weights.released import load_released  # the reader of pickles, for who has one

    return load_released(path, encoder=encoder, paired=paired, config=overrides, supplied=entry.get("config"))


def register_weights(
    name: str,
    *,
    repo_id: str | None = None,
    file: str | None = None,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    license: str | None = None,
    training_data: str = "unknown",
    epochs: int | None = None,
    overwrite: bool = False,
) -> None:
    """Add pretrained weights of one's own, for this process: ``create_model(name, pretrained=True)`` finds them.

    Args:
        name: "architecture.tag", with a registered architecture such as "midway_vits".
        repo_id: a Hub repository "org/name" with a released-layout file; or
        path: a file or folder on disk that :func:`midway_zoo.load_checkpoint` reads.
        file: the file in the repository.
        revision: branch, tag or commit.
        config: fields of :class:`~midway_zoo.MidwayConfig` that the file does not tell; where it does, it is an error
            if they differ.
        sha256: of the file in the repository, if it is to be enforced.
        license: of the weights.
        training_data: what they were trained on.
        epochs: how long.
        overwrite: replace an entry of that name that was registered before.

    Raises:
        ConfigError: if the name is taken or malformed, or the source is not said, or said twice.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in ARCHITECTURES or not tag:
        raise ConfigError(f"{name!r} must be ARCHITECTURE.TAG with one of {', '.join(ARCHITECTURES)}.")
    if name in manifest.load_manifest()["models"] or (name in manifest.entries() and not overwrite):
        raise ConfigError(f"{name!r} is taken; choose another tag (or overwrite=True for one of your own).")
    if (path is None) == (repo_id is None) or (repo_id is None) != (file is None):
        raise ConfigError("say where the weights are: either path=, or repo_id= and file=.")
    override(ARCHITECTURES[architecture], config or {})
    manifest.register(
        name,
        {
            "architecture": architecture,
            "repo_id": repo_id,
            "revision": revision,
            "file": file if path is None else Path(path).name,
            "path": None if path is None else str(Path(path).absolute()),
            "format": "released-pth",
            "sha256": sha256,
            "parts": {},
            "config": dict(config or {}),
            "training_data": training_data,
            "epochs": epochs,
            "license": license,
            "metrics": [],
        },
    )
