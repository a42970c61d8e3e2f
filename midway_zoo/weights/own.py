"""Registering weights of your own."""

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
    """Register weights of your own in this process, so that ``create_model(name, pretrained=True)`` finds them.

    Args:
        name: "architecture.tag", with a registered architecture such as "midway_vits".
        repo_id: a Hub repository "org/name" with a released-layout file; or
        path: a file or folder on disk that :func:`midway_zoo.load_checkpoint` reads.
        file: the file in the repository.
        revision: branch, tag or commit.
        config: fields of :class:`~midway_zoo.MidwayConfig` that the file does not specify; where it does, they must
            agree.
        sha256: of the file in the repository, to be enforced.
        license: of the weights.
        training_data: what they were trained on.
        epochs: number of epochs.
        overwrite: replace an entry that was registered before under that name.

    Raises:
        ConfigError: if the name is taken or malformed, or not exactly one source is given.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in ARCHITECTURES or not tag:
        raise ConfigError(f"{name!r} must be ARCHITECTURE.TAG with one of {', '.join(ARCHITECTURES)}.")
    if name in manifest.load_manifest()["models"] or (name in manifest.entries() and not overwrite):
        raise ConfigError(f"{name!r} is taken; choose another tag (or pass overwrite=True to replace your own).")
    if (path is None) == (repo_id is None) or (repo_id is None) != (file is None):
        raise ConfigError("pass either path=, or repo_id= and file=.")
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
