"""The gate of a pretraining run gives its figures for any checkpoint."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from midway_zoo.scenes import natural

MINIATURE = Path(__file__).parents[2] / "examples" / "miniature"
MODULES = ("gate", "curves", "probing", "rows", "tracking", "flow_generalisation")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, with pictures that are drawn in no time."""
    monkeypatch.syspath_prepend(str(MINIATURE))
    monkeypatch.syspath_prepend(str(MINIATURE.parent))
    path = list(sys.path)
    import gate

    plain = natural.picture(4, 64)
    monkeypatch.setattr("midway_zoo.scenes.textures.picture", lambda number, side: np.roll(plain, 7 * number, 0))
    monkeypatch.setattr(gate, "PICTURE", 64)
    yield gate
    sys.path[:] = path
    for name in MODULES:
        sys.modules.pop(name, None)


def test_figures_of_a_network_and_of_random_weights(gate: ModuleType, tmp_path: Path, monkeypatch) -> None:
    for index in range(2):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.effect_noise((160, 140), 60 + index).convert("RGB").save(tmp_path / "clip" / f"{index}.png")
    out = tmp_path / "gate.json"
    command = ["gate.py", "random", "midway_nano.scenes", "--json", str(out), "--pairs", "4", "--frames", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--media", str(tmp_path / "clip")])
    assert gate.main() == 0
    results = json.loads(out.read_text())
    assert set(results) == {"random", "midway_nano.scenes"}
    for figures in results.values():
        assert figures["tokens"] > 20
        assert figures["chance"] == 100 / 64
        assert 0 <= figures["hits"] <= 100
        assert 0 <= figures["propagation_J"] <= 100
        assert figures["epe_vector"] < figures["epe_zero"]
    assert results["midway_nano.scenes"]["epe_head"] > 0
    assert results["midway_nano.scenes"]["warped_clip_zero"] > 0
    rests = [results["midway_nano.scenes"][f"rest_{name}"] for name in ("still_refined", "still", "bars")]
    assert 0 <= rests[0] < rests[1] < rests[2]
    assert not {"epe_head", "rest_still"} & set(results["random"])
    for name in ("gate.png", "random.pca.png", "midway_nano.scenes.pca.png"):
        assert Image.open(tmp_path / name).width > 100


@pytest.mark.parametrize("side", ["0", "-8", "56", "100"])
def test_sides_that_do_not_fit_are_told_at_once(gate: ModuleType, monkeypatch, capsys, side: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gate.py", "random", "--side", side])
    monkeypatch.setattr(gate, "heat_maps", None)
    assert gate.main() == 1
    assert f"--side {side}: a multiple of 8 that is 64, the size of random, or more" in capsys.readouterr().err


def test_figures_of_larger_frames_stand_beside_the_others(gate: ModuleType, tmp_path: Path) -> None:
    Image.effect_noise((220, 200), 60).convert("RGB").save(tmp_path / "0.png")
    network, _ = gate.network_of("midway_nano.scenes")
    for side, name in ((None, "warped"), (64, "warped"), (80, "warped80")):
        figures = gate.warped(network, [tmp_path], 1, side)
        assert {key.split("_")[0] for key in figures} == {name}


def test_figures_are_added_to_those_of_before(gate: ModuleType, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "gate.json"
    out.write_text('{"random": {"warped_clip_zero": 3.0, "pairs": 5}}')
    monkeypatch.setattr(gate, "gate", lambda name, options: {"warped80_clip_zero": 4.0, "pairs": 0})
    monkeypatch.setattr(sys, "argv", ["gate.py", "random", "--json", str(out), "--side", "80"])
    assert gate.main() == 0
    assert json.loads(out.read_text()) == {"random": {"warped_clip_zero": 3.0, "warped80_clip_zero": 4.0, "pairs": 0}}


def test_what_is_not_there(gate: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["gate.py", "midway_nano.nothing"])
    assert gate.main() == 1
    assert "midway_nano.nothing" in capsys.readouterr().err


def test_every_token_that_moves_by_a_patch_counts_once(gate: ModuleType) -> None:
    """Of scenes whose true heat maps are known: those of a network that copies."""
    network, _ = gate.network_of("midway_nano.scenes")
    figures = gate.heat_maps(network, 4)
    assert figures["copies"] + figures["hits"] <= 100
    assert 20 < figures["moved"] < 90
    assert isinstance(gate.linear_maps(network, 24)["objects"], float)
