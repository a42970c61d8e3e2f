"""Fixtures which point the real huggingface_hub client to the loopback server."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.hf_api
import huggingface_hub.hf_file_system
import huggingface_hub.hub_mixin
import huggingface_hub.repocard
import huggingface_hub.utils._cache_assets
import pytest
from huggingface_hub import HfFileSystem, constants

import midway_zoo as mz
from midway_zoo.config import ARCHITECTURES
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import TINY, write_released


def configure_client(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the huggingface_hub already imported behave as if it was imported under `environ`.

    The client reads its environment once, into `huggingface_hub.constants`. That module is run again, aside,
    and what comes out differently is set there and wherever else in the package it was copied to by name.
    No name of a constant is hard-coded, so this holds for 0.3x to 2.x. What was built from constants at import
    remains: the `HfApi` behind the top-level functions, and connections (and, before 1.0, offline adapters).
    """
    for name in set(os.environ) - set(environ):
        monkeypatch.delenv(name)
    for name, value in environ.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] == "huggingface_hub"]
    for name, value in runpy.run_path(str(constants.__file__)).items():
        if name.startswith("__") or callable(value) or value == getattr(constants, name, value):
            continue
        for module in modules:
            if name in vars(module):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", environ["HF_ENDPOINT"])
    HfFileSystem.clear_instance_cache()
    close_sessions()


def close_sessions() -> None:
    """Close the client's connections."""
    close = getattr(huggingface_hub, "close_session", None)  # since 1.0
    if close is None:
        from huggingface_hub.utils import reset_sessions as close
    close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server to which the client in this process is pointed, with an empty cache and no token.

    For a subprocess: ``subprocess.run(..., env=hub.environ(tmp_path / "home"))``.
    """
    with HubServer() as server:
        configure_client(server.environ(tmp_path / "hf_home"), monkeypatch)
        yield server
        close_sessions()
    assert not server.errors, server.errors


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released-layout file of the smallest network."""
    path = tmp_path_factory.mktemp("hub") / "tiny.pth"
    write_released(path, TINY)
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other numbers."""
    path = tmp_path_factory.mktemp("hub") / "other.pth"
    write_released(path, TINY, seed=5)
    return path


@pytest.fixture(scope="session")
def nano_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """midway_nano as registered."""
    path = tmp_path_factory.mktemp("hub") / "nano.pth"
    write_released(path, ARCHITECTURES["midway_nano"])
    return path


@pytest.fixture
def published(hub: HubServer, tiny: Path, nano_file: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server with `tiny` in lab/weights, registered as midway_nano.tiny; retries do not wait."""
    hub.add_repo("lab/weights")
    hub.add_file("lab/weights", "nano.pth", nano_file, lfs=True)
    hub.add_file("lab/weights", "tiny.pth", tiny, lfs=True)
    mz.register_weights("midway_nano.tiny", repo_id="lab/weights", file="tiny.pth", overwrite=True)
    monkeypatch.setattr("midway_zoo.weights.transport.BACKOFF_SECONDS", 0.01)
    return hub
