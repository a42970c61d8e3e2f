"""Weights by pretrained name: bundled ones here; fetched ones and files in modules of their own."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo import manifest
from midway_zoo.errors import CheckpointError, ConfigError, SingleEncoderError, WeightsUnavailableError
from midway_zoo.manifest import bundled_file
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.reading import sha256_of
from midway_zoo.storage import EncoderName, load_file

Folder = str | os.PathLike[str] | None


def encoder_state(name: str, *, encoder: EncoderName = "teacher", **options: Any) -> dict[str, Tensor]:
    """The state dict of one encoder, with timm's names; options as for :func:`load_pretrained`."""
    entry = manifest.find(name)
    if entry.get("path"):
        from midway_zoo.weights.checkpoint import load_registered

        return load_registered(name, entry, encoder=encoder, encoder_alone=True).encoder.state_dict()
    if entry["format"] == manifest.BUNDLED:
        return load_pretrained(name, encoder=encoder, overrides={"dynamics": False}, **options).encoder.state_dict()
    from midway_zoo.weights.hub import load_encoder_state  # imported only for weights to fetch

    return load_encoder_state(name, entry, encoder=encoder, **options)


def load_pretrained(
    name: str,
    *,
    encoder: EncoderName = "teacher",
    paired: bool = False,
    overrides: Mapping[str, Any] | None = None,
    verify: bool = True,
    **options: Any,
) -> MidwayNetwork:
    """The network of a pretrained name; see :func:`midway_zoo.create_model`, where the options are described."""
    entry = manifest.find(name)
    if entry.get("path"):
        from midway_zoo.weights.checkpoint import load_registered

        return load_registered(name, entry, encoder=encoder, paired=paired, overrides=overrides)
    if entry["format"] == manifest.BUNDLED:
        # Cache and token do not matter.
        check_request(name, encoder=encoder, paired=paired, revision=options.get("revision"))
        return load_bundled(name, entry, overrides, verify=verify)
    from midway_zoo.weights.hub import load_network

    return load_network(name, entry, encoder=encoder, paired=paired, overrides=overrides, verify=verify, **options)


_REMEDY = "Reinstall midway-zoo (pip install --force-reinstall --no-deps midway-zoo)."


def check_bundled(name: str, entry: Mapping[str, Any]) -> Path:
    """The bundled file of an entry, its SHA-256 compared with the manifest's.

    Raises:
        WeightsUnavailableError: if the file is missing.
        CheckpointError: naming both digests, if they differ.
    """
    path = bundled_file(entry)
    if not path.is_file():
        raise WeightsUnavailableError(f"{name}: {path}, which is part of the package, is missing. {_REMEDY}")
    found = sha256_of(path)
    if found != entry["sha256"]:
        raise CheckpointError(f"{name}: {path} has sha256 {found}, the manifest says {entry['sha256']}. {_REMEDY}")
    return path


def check_request(name: str, *, encoder: str = "teacher", paired: bool = False, revision: str | None = None) -> None:
    """Raise :class:`ConfigError` for a second encoder or another revision, which bundled weights do not have."""
    asked = "paired=True" if paired else f"encoder={encoder!r}" if encoder != "teacher" else ""
    if asked:
        kind = SingleEncoderError if paired else ConfigError
        raise kind(f"{name}: the bundled file holds one encoder, the teacher's; {asked} is not in it. Leave it out.")
    if revision is not None:
        raise ConfigError(f"{name} ships inside the package, which has no revision {revision!r} of it. Leave it out.")


def load_bundled(
    name: str, entry: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, verify: bool = True
) -> MidwayNetwork:
    """The network of a bundled name in float32, on the CPU; see :func:`midway_zoo.create_model`.

    Args:
        name: for messages, such as "midway_nano.scenes".
        entry: of the manifest.
        overrides: fields of the configuration to change; ``dynamics=False`` reads the encoder alone.
        verify: compare the file's SHA-256 with the manifest's (about 10 ms).

    Raises:
        CheckpointError: if the file is damaged, or its tensors do not fit ``overrides``.
        WeightsUnavailableError: if it is missing.
    """
    path = check_bundled(name, entry) if verify else bundled_file(entry)
    fields = dict(overrides or {})
    if fields.get("dynamics") is False:
        fields["flow_head"] = None
    network = load_file(MidwayNetwork, path, overrides=fields).float()
    network.provenance["sha256_verified"] = entry["sha256"] if verify else None
    return network
