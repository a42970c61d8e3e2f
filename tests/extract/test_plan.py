"""The plan: made once, added to, shared by workers."""

from pathlib import Path

import pytest

from midway_zoo.errors import InputError
from midway_zoo.extract import Running, Settings, plan
from midway_zoo.extract.items import Item, Listing
from midway_zoo.extract.places import Results
from midway_zoo.extract.plan import add_new, divided, planned
from midway_zoo.extract.processes import launched


def items(count: int, size: int = 1) -> list[Item]:
    return [Item(f"{index}.mp4", "video", ((f"{index}.mp4", -1, size),)) for index in range(count)]


def test_units_are_many_enough_to_share_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [len(unit.items) for unit in divided(items(3), 7)] == [1, 1, 1]
    assert [unit.number for unit in divided(items(3), 7)] == [7, 8, 9]
    assert len(divided(items(10_000), 0)) == 257
    monkeypatch.setattr(plan, "_ITEMS", 20)
    assert len(divided(items(10_000), 0)) == 500
    hours = divided(items(2000, 2**30), 0)
    assert all(len(unit.items) == 1 for unit in hours)
    assert [len(unit.items) for unit in divided(items(10), 0, per_unit=4)] == [4, 4, 2]


def test_pictures_go_together() -> None:
    pictures = [Item(f"{index}.png", "image", ((f"{index}.png", -1, 1),)) for index in range(100)]
    assert [len(unit.items) for unit in divided(pictures, 0)] == [32, 32, 32, 4]


def test_every_item_is_planned_once(tmp_path: Path) -> None:
    results = Results(str(tmp_path))
    assert add_new(results, Listing("", items(5)), 2) == 5
    assert add_new(results, Listing("", items(5)), 2) == 0
    assert add_new(results, Listing("", items(7)), 2) == 2
    units = list(planned(results))
    assert [item for unit in units for item in unit.items] == items(7)
    assert [unit.number for unit in units] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"what": ("depth",)},
        {"what": ()},
        {"fps": 0.0},
        {"fps": 5.0, "stride": 2},
        {"blocks": (-1,)},
        {"dtype": "int8"},
        {"chunk": 0},
        {"images": "all"},
        {"images": "each", "what": ("motion",)},
        {"format": "pickle"},
    ],
)
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(InputError):
        Settings(**wrong)


def test_running_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        {"engine": "spark"},
        {"workers": 2},
        {"ray_address": "auto"},
        {"batch_size": 0},
        {"shard_items": 0},
        {"readers": 0},
    ):
        with pytest.raises(InputError):
            Running(**wrong)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without accelerate launch"):
        launched("ray")
