"""Run folders of earlier versions go on: names of tensors, the optimizer's layout, what they were trained with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from tests.train.test_resume import assert_same_weights, lines

AS_BEFORE = ("optim.dynamics_weight_decay=scheduled", "network.resample=timm", "network.drop_path=0.2")


def make_earlier(run: Path, task) -> None:
    """Rewrite a run's checkpoint as version 0.1 wrote it (compared with a folder that it had written)."""
    checkpoint = latest_checkpoint(run)
    model = load_file(checkpoint.path / "model.safetensors")
    model["center"] = model.pop("dino.center")
    save_file(model, checkpoint.path / "model.safetensors")

    saved = torch.load(checkpoint.path / "optimizer.pt", weights_only=True)
    trained = [(name, p) for name, p in task.model.named_parameters() if p.requires_grad]
    plain = [name for name, p in trained if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [name for name, _ in trained if name not in plain]
    position = {name: index for index, name in enumerate(decayed + plain)}
    hyper = {key: value for key, value in saved["optimizer"]["param_groups"][0].items() if key != "params"}
    del hyper["scheduled"]
    groups = [
        {**hyper, "decay": names is decayed, "params": [position[n] for n in names]} for names in (decayed, plain)
    ]
    state = {position[name]: entry for name, entry in saved["optimizer"]["state"].items()}
    torch.save({**saved, "optimizer": {"state": state, "param_groups": groups}}, checkpoint.path / "optimizer.pt")

    facts = json.loads((checkpoint.path / "state.json").read_text())
    for key in ("optim.dynamics_weight_decay", "network.resample"):
        del facts["identity"][key]
    views = facts["identity"]["views"]
    views["grey_p"], views["solarise_p"] = views.pop("grayscale_p"), views.pop("solarize_p")
    (checkpoint.path / "state.json").write_text(json.dumps(facts))


@pytest.fixture
def earlier(make_task, tmp_path) -> Path:
    """``tmp_path / "run"`` after three of eight steps."""
    fit(make_task(*AS_BEFORE, "max_steps=3"))
    make_earlier(tmp_path / "run", make_task(*AS_BEFORE))
    return tmp_path / "run"


def test_renamed_keys_are_compared_by_their_new_names(earlier, make_task) -> None:
    with pytest.raises(ConfigError, match=r"was trained with views\.grayscale_p=0\.2, not 0\.9"):
        fit(make_task(*AS_BEFORE, "views.grayscale_p=0.9", "resume=must"))


def test_resumes_from_its_own_configuration_with_old_names(earlier) -> None:
    """The config.yaml of the folder as the recipe, as an earlier version wrote it."""
    old = earlier / "config.yaml"
    text = old.read_text().replace("grayscale_p", "grey_p").replace("solarize_p", "solarise_p")
    assert "grey_p" in text
    old.write_text(text)
    config = load_config(PretrainConfig, old, ["max_steps=null", "resume=must"])
    assert fit(PretrainTask(config)).step == 8
    assert "grayscale_p" in old.read_text()


def test_goes_on_as_if_it_were_the_same_version(earlier, make_task, tmp_path) -> None:
    whole = tmp_path / "whole"
    fit(make_task(*AS_BEFORE, f"out={whole}"))
    assert fit(make_task(*AS_BEFORE, "resume=must")).step == 8
    assert lines(earlier) == lines(whole)
    assert_same_weights(earlier, whole)


def test_what_it_did_by_default_has_to_be_said(earlier, make_task) -> None:
    with pytest.raises(ConfigError, match=r"dynamics_weight_decay=scheduled, not released.*Resume with optim\.dyn"):
        fit(make_task("network.drop_path=0.2"))


def test_exports_and_starts_others(earlier, make_task, tmp_path) -> None:
    assert main(["train", "export", str(earlier), str(tmp_path / "zoo")]) == 0
    assert main(["train", "export", str(earlier), str(tmp_path / "run.pth"), "--layout", "released"]) == 0
    task = make_task(f"init_from={earlier}", f"out={tmp_path / 'next'}")
    assert torch.equal(
        task.model.dino.center, load_file(latest_checkpoint(earlier).path / "model.safetensors")["center"]
    )


def test_an_optimizer_that_does_not_fit_is_refused(earlier, make_task) -> None:
    file = latest_checkpoint(earlier).path / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    saved["optimizer"]["param_groups"][1]["params"].pop()
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match="its optimizer does not fit"):
        fit(make_task(*AS_BEFORE))
    shutil.rmtree(earlier)
