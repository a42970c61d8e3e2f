"""Recipes, overrides, and what is refused."""

import pytest

from midway_zoo.errors import ConfigError, MissingFileError
from midway_zoo.manifest import load_manifest
from midway_zoo.train.config import load_config, recipe_names, to_yaml
from midway_zoo.train.tasks.pretrain.config import PretrainConfig

GIVEN = ["out=runs/a", "data.root=videos"]
PRETRAINING = ["bdd100k_vitb", "bdd100k_vits", "nano", "wt_venice_vits"]


@pytest.mark.parametrize("name", PRETRAINING)
def test_recipes_are_complete_and_valid(name: str, tmp_path) -> None:
    assert name in recipe_names()
    config = load_config(PretrainConfig, name, GIVEN)
    config.check()
    whole = tmp_path / "whole.yaml"
    whole.write_text(to_yaml(config))
    assert load_config(PretrainConfig, whole) == config


def test_every_model_names_its_recipe() -> None:
    for name, entry in load_manifest()["models"].items():
        assert entry["recipe"] in recipe_names(), name
        assert entry.get("flow_recipe") in {None, *recipe_names()}, name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.base_rl=1", r"optim\.base_rl=1: unknown configuration key 'optim\.base_rl'.*'optim\.base_lr'"),
        ("sead=1", "'seed'"),
        ("batch_size=many", "batch_size"),
        ("data=5", "data"),
        ("views.dynamics_area=[a, b]", "dynamics_area"),
        ("seed", "not KEY=VALUE"),
        ("resume=yes", "auto, never, must"),
        ("precision=fp8", "no, bf16, fp16"),
        ("batch_size=0", "at least 1"),
        ("max_steps=0", "positive"),
        ("num_workers=-1", "num_workers"),
        ("seed=-1", "between 0 and"),
        ("seed=20261123120000", "between 0"),
        ("epochs=.inf", "finite"),
        ("data.decoder=gpu", "pyav, nvdec"),
        ("data.root=[a", "not readable YAML"),
        ("max_steps=${foo}", "cannot be resolved"),
    ],
)
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(PretrainConfig, "nano", [*GIVEN, setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.overrides.motion_din=3"], "motion_dim"),
        (["network.name=midway_vitx"], "midway_vits"),
        (["views.global_size=60"], "multiple of the patch"),
        (["objective.dynamics_reduction=max"], "sum, mean"),
        (["objective.dynamics_weights=[1]"], "one weight per level"),
        (["objective.dino_weight=0", "network.overrides.dynamics=false"], "nothing to train"),
        (["optim.ema_horizon=long"], "released, run"),
        (["optim.betas=[1.0, 0.9]"], "below 1"),
        (["optim.clip=0"], "null does not clip"),
        (["network.overrides.patch_size=0"], "positive integer"),
        (["data.decoder=nvdec"], r"at their own size; pass data\.decoder=pyav"),  # the recipe scales them
        (["data.decoder=nvdec", "data.source=scenes", "schedule_steps=9"], "frames of videos"),
    ],
)
def test_bad_combinations(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, "nano", [*GIVEN, *settings]).check()


def test_no_is_no() -> None:
    assert load_config(PretrainConfig, "bdd100k_vits", [*GIVEN, "precision=no"]).precision == "no"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.root, out"):
        load_config(PretrainConfig, "nano")


def test_recipe_files(tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("seed: 3\nbatch_size: 2\n")
    assert load_config(PretrainConfig, own, GIVEN).seed == 3
    with pytest.raises(MissingFileError, match="bdd100k_vits"):
        load_config(PretrainConfig, "bdd_vits", GIVEN)
    with pytest.raises(MissingFileError, match="Bundled"):
        load_config(PretrainConfig, tmp_path / "none.yaml", GIVEN)
    own.write_text("seed: [")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_config(PretrainConfig, own, GIVEN)
    own.write_text("optin:\n  base_lr: 1\n")
    with pytest.raises(ConfigError, match=r"own\.yaml: unknown configuration key 'optin"):
        load_config(PretrainConfig, own, GIVEN)


def test_a_configuration_of_an_earlier_version_is_read_by_its_old_names(tmp_path) -> None:
    own = tmp_path / "config.yaml"
    own.write_text("views:\n  grey_p: 0.3\n  solarise_p: [0.1, 0.2, 0.3]\n  hue: 0.05\n")
    views = load_config(PretrainConfig, own, [*GIVEN, "batch_size=2"]).views
    assert (views.grayscale_p, tuple(views.solarize_p), views.hue) == (0.3, (0.1, 0.2, 0.3), 0.05)
    own.write_text("views:\n  grey_p: 0.3\n  grayscale_p: 0.2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: views\.grey_p is called views\.grayscale_p now.*remove"):
        load_config(PretrainConfig, own, GIVEN)


def test_an_old_name_as_an_override_says_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"views\.solarise_p is called .*; pass views\.solarize_p=\[0,0\.5,0\]\."):
        load_config(PretrainConfig, "nano", [*GIVEN, "views.solarise_p=[0,0.5,0]"])
