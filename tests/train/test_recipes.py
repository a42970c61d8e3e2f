"""The recipes of the released runs against the published values, and their schedules against reference values."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from midway_zoo.train.config import load_config
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask

TABLE = Path(__file__).parents[2] / "examples" / "reproduce" / "README.md"
RELEASED = ("bdd100k_vits", "bdd100k_vitb", "wt_venice_vits")
SECTIONS = ("network", "head", "objective", "optim", "views")
NO_HYPERPARAMETER = {
    "head.product",
    "network.overrides",
    "network.freeze",
    "network.grad_checkpointing",
    "network.mlp_recompute",
}
# What the recipes do not take over, each told in the table.
DIFFERENT = {
    "bdd100k_vits": {"precision", "head.product"},
    "bdd100k_vitb": {"precision", "head.product", "batch_size"},
    "wt_venice_vits": {"precision", "head.product", "data.repeats"},
}


def table(name: str) -> dict[str, list[str]]:
    """Key -> published value, recipe's value, source, of a recipe's table."""
    text = TABLE.read_text(encoding="utf-8").split(f"## `{name}`")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines[1:]}


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return list(config) if isinstance(config, tuple) else config


def same(text: str, value: Any) -> bool:
    told = yaml.safe_load(text)
    told = float(told) if isinstance(value, float) else told  # YAML takes 1e-06 for text
    pairs = zip(told, value, strict=True) if isinstance(value, list) else [(told, value)]
    return all(a == pytest.approx(b, rel=1e-9) if isinstance(b, float) else str(a) == str(b) for a, b in pairs)


@pytest.fixture(params=RELEASED)
def recipe(request: pytest.FixtureRequest) -> tuple[str, PretrainConfig]:
    return request.param, load_config(PretrainConfig, request.param, ["out=x", "data.root=x"])


def test_recipes_are_what_the_table_says(recipe) -> None:
    name, config = recipe
    rows = table(name)
    for key, (_, ours, source, *_) in rows.items():
        assert same(ours, value_of(config, key)), f"{name}: {key}={value_of(config, key)}, table: {ours}"
        assert source.split(", ")[0] in ("paper", "code", "weights"), key
    assert {key for key, (published, ours, *_) in rows.items() if published != ours} == DIFFERENT[name]


def test_every_hyper_parameter_is_in_the_table(recipe) -> None:
    name, config = recipe
    keys = {f"{part}.{entry.name}" for part in SECTIONS for entry in fields(getattr(config, part))}
    assert not any(is_dataclass(value_of(config, key)) for key in keys)
    assert keys - NO_HYPERPARAMETER <= table(name).keys()


class Scheduled(PretrainTask):
    """The schedules of a recipe, without data and network."""

    def __init__(self, config: PretrainConfig, steps: int) -> None:
        self.config, self.total_steps, self.steps_per_epoch = config, steps, steps / config.epochs


BDD = 300 * 70_000 // 200
VENICE = 100 * 2400
# (step, learning rate, weight decay, momentum) by hand: linspace(0, peak, warm-up) and cosines of step / steps; the
# momentum's over epochs x clips, that is steps x batch.
POINTS = (0, 1, 1000, 3499, 3500, 10_000, 35_000, 52_500, 90_000, BDD - 1)


def half_cosine(share: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("step", POINTS)
def test_schedules_of_bdd100k(step: int) -> None:
    task = Scheduled(load_config(PretrainConfig, "bdd100k_vits", ["out=x", "data.root=x"]), BDD)
    values, peak = task.hyperparameters(step), 3.90625e-4
    rate = peak * step / 3499 if step < 3500 else half_cosine((step - 3500) / (BDD - 3500), peak, 1e-6)
    assert values.lr == pytest.approx(rate, rel=1e-9, abs=1e-15)
    assert values.weight_decay == pytest.approx(half_cosine(step / BDD, 0.04, 0.4), rel=1e-9)
    assert values.momentum == pytest.approx(half_cosine(step / (300 * 70_000), 0.996, 1.0), rel=1e-12)
    assert values.momentum < 0.99600025  # it hardly moves within the run


def venice() -> Scheduled:
    return Scheduled(load_config(PretrainConfig, "wt_venice_vits", ["out=x", "data.root=x"]), VENICE)


@pytest.mark.parametrize("step", [0, 1, 1000, 23_999, 24_000, 50_000, 120_000, 132_000, 200_000, VENICE - 1])
def test_schedules_of_venice(step: int) -> None:
    """The same with 80 pairs a step, ten epochs of 2400 steps of warm-up, and the learning rate of five visits."""
    values, peak = venice().hyperparameters(step), 5 * 5e-4 * 80 / 256
    rate = peak * step / 23_999 if step < 24_000 else half_cosine((step - 24_000) / 216_000, peak, 1e-6)
    assert values.lr == pytest.approx(rate, rel=1e-9, abs=1e-15)
    assert values.weight_decay == pytest.approx(half_cosine(step / 240_000, 0.04, 0.4), rel=1e-9)
    assert values.momentum == pytest.approx(half_cosine(step / (100 * 192_000), 0.996, 1.0), rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate", "weight_decay"),
    [
        (0, 0.0, 0.04),
        (23_999, 7.8125e-4, None),
        (24_000, 7.8125e-4, None),
        (60_000, None, 0.04 + 0.36 * (2 - math.sqrt(2)) / 4),  # an eighth of the wave
        (120_000, None, 0.22),  # half way
        (132_000, 3.91125e-4, None),  # half way of the cosine: (peak + least) / 2
        (240_000, 1e-6, 0.4),
    ],
)
def test_round_values_of_venice(step: int, rate: float | None, weight_decay: float | None) -> None:
    values = venice().hyperparameters(step)
    assert rate is None or values.lr == pytest.approx(rate, rel=1e-9, abs=1e-15)
    assert weight_decay is None or values.weight_decay == pytest.approx(weight_decay, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (3499, 3.90625e-4),
        (3500, 3.90625e-4),
        (54_250, 1.958125e-4),  # half way of the cosine: (peak + least) / 2
        (BDD, 1e-6),
    ],
)
def test_round_values_of_the_learning_rate(step: int, rate: float) -> None:
    task = Scheduled(load_config(PretrainConfig, "bdd100k_vits", ["out=x", "data.root=x"]), BDD)
    assert task.hyperparameters(step).lr == pytest.approx(rate, rel=1e-9, abs=1e-15)


def test_peak_and_freezing_of_the_runs() -> None:
    bdd = Scheduled(load_config(PretrainConfig, "bdd100k_vits", ["out=x", "data.root=x"]), BDD)
    assert bdd.config.optim.freeze_last_layer_epochs * bdd.steps_per_epoch == 1750
    task = venice()
    assert task.hyperparameters(task.warmup_steps).lr == pytest.approx(7.8125e-4)
    assert task.config.optim.freeze_last_layer_epochs * task.steps_per_epoch == 2400
