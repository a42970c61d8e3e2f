"""Classification runs: they learn, resume, validate and export."""

import json

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, ConfigError, DataError, MissingFileError
from midway_zoo.readouts.classifier import BACKBONE, HEAD, load_classifier
from midway_zoo.readouts.image_folder import split_images
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.classification.config import ClassificationConfig
from midway_zoo.train.tasks.classification.task import ClassificationTask
from midway_zoo.train.weights import export
from tests.readouts.folders import write_classes
from tests.train.test_resume import assert_same_weights, lines

SMALL = (
    "network.overrides={embed_dim: 24, depth: 4, feature_blocks: [0, 1, 2, 3], motion_dim: 12, motion_tokens: 2, "
    "midway_depth: 1, forward_depth: 2, grid: [4, 4]}"
)
TINY = ["network.name=midway_nano", "batch_size=6", "num_workers=0", "trackers=[]", "precision=no", "save_every=100"]


@pytest.fixture
def task(tmp_path):
    write_classes(tmp_path / "data", 5)

    def build(*more: str, name: str = "run", recipe: str = "classification_linear", small=SMALL) -> ClassificationTask:
        settings = [*TINY, small, f"data.root={tmp_path / 'data'}", f"out={tmp_path / name}", *more]
        return ClassificationTask(load_config(ClassificationConfig, recipe, settings))

    return build


def test_a_probe_learns_and_only_the_head_moves(task, tmp_path) -> None:
    before = {name: value.clone() for name, value in task().model.state_dict().items()}
    steps = ("schedule_steps=40", "optim.base_lr=4")
    fit(task(*steps))
    fit(task(*steps, "max_steps=7", name="again"))
    again = task(*steps, name="again")
    fit(again)
    assert lines(tmp_path / "run") == lines(tmp_path / "again")
    assert_same_weights(tmp_path / "run", tmp_path / "again")
    moved = {name for name, value in again.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    validation = json.loads((latest_checkpoint(tmp_path / "run").path / "state.json").read_text())["validation"]
    assert validation["top1"] == 1.0
    assert validation["error"] == 0.0


def test_an_exported_probe_predicts(task, tmp_path) -> None:
    fit(task("schedule_steps=40", "optim.base_lr=4"))
    written = export(tmp_path / "run", tmp_path / "out", best=True)
    assert tmp_path / "out" / HEAD in written
    classifier = load_classifier(tmp_path / "out")
    _, val = split_images(tmp_path / "data")
    found = classifier.predict(list(val.files))
    assert found.argmax(1).tolist() == list(val.labels)
    torch.testing.assert_close(found.sum(1), torch.ones(len(val)))
    assert classifier.config.names == val.classes
    assert mz.load_checkpoint(tmp_path / "out").config.depth == 4
    (tmp_path / "out" / HEAD).write_bytes(b"none")
    with pytest.raises(CheckpointError, match="Export the run again"):
        load_classifier(tmp_path / "out")
    (tmp_path / "out" / HEAD).unlink()
    with pytest.raises(MissingFileError, match="train classification"):
        load_classifier(tmp_path / "out")


def test_fine_tuning_moves_the_encoder_by_layer(task) -> None:
    tuned = task("schedule_steps=3", recipe="classification_finetune")
    before = {name: value.clone() for name, value in tuned.model.state_dict().items()}
    groups = tuned.optimizer().param_groups
    scales = sorted({round(group.get("lr_scale", 1.0), 6) for group in groups})
    assert scales[0] == pytest.approx(0.75**4, abs=1e-5)  # four blocks; the patch embedding lies below them
    assert scales[-1] == 1.0
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len(parameters) == len({id(parameter) for parameter in parameters})
    assert {id(p) for p in parameters} == {id(p) for p in tuned.model.parameters() if p.requires_grad}
    fit(tuned)
    moved = {name for name, value in tuned.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("network.encoder.blocks.0.") for name in moved)
    assert not any(name.startswith("network.dynamics.") for name in moved)


def test_a_vit_of_timm_is_trained_exported_and_loaded(task, tmp_path) -> None:
    small = ("network.name=timm:vit_tiny_patch16_224", "data.crop=32", "schedule_steps=2")
    fit(task(*small, small="seed=0"))
    assert main(["train", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {HEAD, BACKBONE}
    classifier = load_classifier(tmp_path / "out")
    assert classifier.predict(torch.rand(2, 3, 40, 50)).shape == (2, 3)
    (tmp_path / "out" / BACKBONE).unlink()
    with pytest.raises(MissingFileError, match="the backbone"):
        load_classifier(tmp_path / "out")


def test_what_cannot_be_trained_is_refused(task, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root"):
        ClassificationTask(load_config(ClassificationConfig, "classification_linear", [f"out={tmp_path / 'x'}"]))
    with pytest.raises(ConfigError, match="finetune=true"):
        task("optim.layer_decay=0.5")
    with pytest.raises(ConfigError, match="blocks=9"):
        task("features.blocks=9")
    with pytest.raises(ConfigError, match="does not have"):
        task("network.name=timm:vit_tiny_patch16_224")
    (tmp_path / "data" / "n00000000").mkdir()
    with pytest.raises(DataError, match="n00000000"):
        task()
