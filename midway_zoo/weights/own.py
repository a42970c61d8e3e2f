"""Weights of one's own, under a name of the zoo."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midway_zoo import manifest
from midway_zoo.config import ARCHITECTURES, override
from midway_zoo.errors import ConfigError


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
