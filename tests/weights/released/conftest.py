"""Small released files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from midway_zoo import MidwayConfig
from tests.weights.released_files import (
    TINY,
    write_released,
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A small released file with every part, and what it holds."""
    path = tmp_path_factory.mktemp("released") / "tiny.pth"
    return path, write_released(path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Write a small released file without optimizer: options as in ``write_released``."""

    def write(config: MidwayConfig = TINY, **options: Any) -> tuple[Path, dict[str, Any]]:
        path = tmp_path / "file.pth"
        return path, write_released(path, config, optimizer=False, **options)

    return write
