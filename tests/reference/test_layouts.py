"""Full-size files of all three layouts, saved as the authors' loop saves them: from disk and over the Hub protocol."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import midway_zoo as mz
from midway_zoo import manifest
from tests.reference.conftest import build_formula
from tests.weights.as_trained import as_trained, save
from tests.weights.hub.conftest import hub  # noqa: F401
from tests.weights.hub.hub_server import HubServer
from tests.weights.released_files import assert_same_state, expected_state

LAYOUTS = {
    "vit_small": ("midway_vits", mz.MidwayConfig()),
    "vit_base": ("midway_vitb", mz.MidwayConfig(encoder="midway_vitb", embed_dim=768, num_heads=12)),
    "vit_base_motion384": (
        "midway_vitb",
        mz.MidwayConfig(encoder="midway_vitb", embed_dim=768, num_heads=12, motion_dim=384),
    ),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def file(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    path = tmp_path_factory.mktemp("layout") / "file.pth"
    checkpoint = as_trained(build_formula(shared, request.param))
    save(checkpoint, path)
    yield request.param, path, checkpoint
    path.unlink()


@pytest.mark.slow
def test_from_disk(file: tuple[str, Path, dict[str, Any]]) -> None:
    layout, path, checkpoint = file
    network = mz.load_checkpoint(path, paired=True)
    config = dataclasses.replace(LAYOUTS[layout][1], paired=True)
    assert network.config == config
    assert_same_state(network.state_dict(), expected_state(checkpoint, config, paired=True))


@pytest.mark.slow
def test_over_the_hub(file: tuple[str, Path, dict[str, Any]], hub: HubServer) -> None:  # noqa: F811
    layout, path, checkpoint = file
    architecture, config = LAYOUTS[layout]
    hub.add_repo("lab/released")
    hub.add_file("lab/released", "file.pth", path, lfs=True)
    name = f"{architecture}.formula"
    listed = manifest.find("midway_vits.bdd100k" if architecture == "midway_vits" else "midway_vitb.bdd100k")["config"]
    mz.register_weights(name, repo_id="lab/released", file="file.pth", config=listed, overwrite=True)
    network = mz.create_model(name, pretrained=True)
    assert network.config == config
    assert_same_state(network.state_dict(), expected_state(checkpoint, config))
