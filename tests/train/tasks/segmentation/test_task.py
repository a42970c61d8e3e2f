"""Segmentation runs: they learn, resume, validate and export."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.errors import CheckpointError, ConfigError, MissingFileError, OutputExistsError
from midway_zoo.readouts.segmenter_files import HEAD
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig
from midway_zoo.train.tasks.segmentation.task import SegmentationTask
from midway_zoo.train.weights import export
from midway_zoo.weights.checkpoint import load_checkpoint
from tests.readouts.labelled_files import write_bdd100k, write_folder
from tests.train.test_resume import assert_same_weights, lines

TINY = [
    "network.overrides={embed_dim: 24, depth: 4, feature_blocks: [0, 1, 2, 3], motion_dim: 12, motion_tokens: 2, "
    "midway_depth: 1, forward_depth: 2, grid: [4, 4]}",
    *("batch_size=4", "num_workers=0", "schedule_steps=6", "trackers=[]", "save_every=100"),
    *("data.scenes.height=32", "data.scenes.width=32", "data.val_scenes=8", "data.crop=32"),
]


@pytest.fixture
def task(tmp_path) -> Callable[..., SegmentationTask]:
    """A tiny run on scenes; further overrides as arguments."""

    def build(*more: str, name: str = "run") -> SegmentationTask:
        settings = [*TINY, f"out={tmp_path / name}", *more]
        return SegmentationTask(load_config(SegmentationConfig, "segmentation_scenes_nano", settings))

    return build


def figures(out: Path) -> dict[str, float]:
    return json.loads((latest_checkpoint(out).path / "state.json").read_text())["validation"]


def test_resumed_run_is_the_same_and_only_the_head_moves(task, tmp_path) -> None:
    before = {name: value.clone() for name, value in task().model.state_dict().items()}
    fit(task())
    fit(task("max_steps=3", "num_workers=1", name="again"))
    again = task(name="again")
    fit(again)
    assert lines(tmp_path / "run") == lines(tmp_path / "again")
    assert_same_weights(tmp_path / "run", tmp_path / "again")
    assert figures(tmp_path / "run") == figures(tmp_path / "again")
    moved = {name for name, value in again.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias", "mean", "std"}


def test_files_are_learned_and_validated_by_windows(task, tmp_path) -> None:
    write_folder(tmp_path / "data", 3)
    files = [f"data.root={tmp_path / 'data'}", f"data.val_root={tmp_path / 'data'}", "data.classes=2"]
    settings = ["data.source=folder", *files, "features.source=encoder", "schedule_steps=60", "optim.lr=0.02"]
    fit(task(*settings, "data.scale=[1, 1]", "optim.warmup_steps=5"))
    found = figures(tmp_path / "run")
    assert found["mIoU"] > 0.7
    assert found["aAcc"] > 0.8


def test_features_are_standardised(task) -> None:
    model = task().model
    images = torch.rand(6, 3, 32, 32)
    model.standardise(images.split(2))
    features = model.features(images)
    torch.testing.assert_close(features.mean((0, 2, 3)), torch.zeros(72), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.std((0, 2, 3), correction=0), torch.ones(72), atol=1e-2, rtol=0)


def test_ignored_pixels_give_no_gradient(task) -> None:
    model = task().model
    losses = model({"images": torch.rand(2, 3, 32, 32), "labels": torch.full((2, 32, 32), 255)})
    losses["loss"].backward()
    assert losses["loss"] == 0
    assert losses["accuracy"] == 0
    assert not model.head.weight.grad.any()


def test_export_and_reading_back(task, tmp_path) -> None:
    trained = task()
    fit(trained)
    files = export(tmp_path / "run", tmp_path / "out")
    assert tmp_path / "out" / HEAD in files
    model = mz.load_segmenter(tmp_path / "out")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(images), trained.model.cpu().eval().logits(images))
    assert load_checkpoint(tmp_path / "out").config.embed_dim == 24
    again = task(f"init_from={tmp_path / 'out'}", name="again")  # the frozen network goes from run to run
    name, value = next(iter(trained.model.network.encoder.named_parameters()))
    torch.testing.assert_close(again.model.network.encoder.get_parameter(name), value)
    (tmp_path / "out" / HEAD).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a head"):
        mz.load_segmenter(tmp_path / "out")
    (tmp_path / "out" / HEAD).unlink()
    with pytest.raises(MissingFileError, match=r"no .*segmentation_head"):
        mz.load_segmenter(tmp_path / "out")


UPERNET = ["head.kind=upernet", "features.source=encoder", "features.standardise=false", "head.width=8"]
FINETUNE = [*UPERNET, "network.finetune=true", "network.drop_path=0.1", "optim.layer_decay=0.9"]


@pytest.mark.parametrize("settings", [UPERNET, FINETUNE], ids=["frozen", "finetune"])
def test_upernet_resumes_and_is_exported(task, tmp_path, settings) -> None:
    """Dropout, stochastic depth and running averages are those of a run that never stopped."""
    before = {name: value.clone() for name, value in task(*settings).model.state_dict().items()}
    fit(task(*settings))
    fit(task(*settings, "max_steps=3", name="again"))
    again = task(*settings, name="again")
    fit(again)
    assert lines(tmp_path / "run") == lines(tmp_path / "again")
    assert_same_weights(tmp_path / "run", tmp_path / "again")
    assert all("auxiliary" in line for line in read_log(tmp_path / "run" / "log.jsonl"))
    moved = {name for name, value in again.model.state_dict().items() if not torch.equal(value, before[name])}
    rooms = {name.rpartition("network.")[2].partition(".")[0] for name in moved}
    assert rooms == {"head", "auxiliary"} | ({"encoder"} if settings is FINETUNE else set())
    export(tmp_path / "run", tmp_path / "out")
    model = mz.load_segmenter(tmp_path / "out")
    image = torch.rand(3, 50, 70)
    expected = again.model.cpu().predict(image)
    assert torch.equal(model.predict(image).labels, expected.labels)
    assert model.config.names == expected.names
    assert not any(name.startswith("auxiliary") for name in model.state_dict())


def test_layers_learn_the_less_the_lower_they_are(task) -> None:
    built = task(*FINETUNE, "optim.layer_decay=0.5")
    optimizer = built.optimizer()
    scales = {id(p): group.get("lr_scale", 1.0) for group in optimizer.param_groups for p in group["params"]}
    encoder = built.model.encoder
    assert scales[id(encoder.norm.weight)] == 1
    assert [scales[id(block.mlp.fc1.weight)] for block in encoder.blocks] == [0.125, 0.25, 0.5, 1]
    assert scales[id(encoder.patch_embed.proj.weight)] == scales[id(encoder.pos_embed)] == 0.0625
    assert scales[id(built.model.head.classify.weight)] == 1
    trained = {id(p) for p in built.model.parameters() if p.requires_grad}
    assert trained == scales.keys()
    undecayed = {id(p) for group in optimizer.param_groups if not group["scheduled"] for p in group["params"]}
    assert {id(encoder.pos_embed), id(encoder.cls_token), id(encoder.norm.weight)} <= undecayed
    assert id(encoder.blocks[0].mlp.fc1.weight) not in undecayed


def test_a_vit_of_timm_is_trained_and_exported(task, tmp_path) -> None:
    settings = ["network.name=timm:test_vit", *UPERNET]
    tiny = [setting for setting in TINY if not setting.startswith("network.overrides")]
    config = load_config(SegmentationConfig, "segmentation_scenes_nano", [*tiny, f"out={tmp_path / 'run'}", *settings])
    trained = SegmentationTask(config)
    fit(trained)
    files = export(tmp_path / "run", tmp_path / "out")
    assert sorted(file.name for file in files) == ["segmentation_backbone.safetensors", HEAD]
    assert not (tmp_path / "out" / "encoder").exists()
    image = torch.rand(3, 50, 70)
    expected = trained.model.cpu().predict(image).labels
    assert torch.equal(mz.load_segmenter(tmp_path / "out").predict(image).labels, expected)
    with pytest.raises(OutputExistsError):
        export(tmp_path / "run", tmp_path / "out")


def test_published_data_bring_their_classes_and_validation(task, tmp_path, capsys) -> None:
    write_bdd100k(tmp_path / "bdd100k")
    settings = ["data.source=bdd100k", f"data.root={tmp_path / 'bdd100k'}", "schedule_steps=2", *UPERNET]
    built = task(*settings)
    assert built.model.config.classes == 19
    fit(built)
    assert set(figures(tmp_path / "run")) == {"mIoU", "mAcc", "aAcc"}
    results = tmp_path / "seg.json"
    asked = ["--dataset", "bdd100k", "--root", str(tmp_path), "-o", str(results), "--overlays", str(tmp_path / "seen")]
    assert main(["eval", "segmentation", str(tmp_path / "run"), *asked, "--device", "cpu"]) == 0
    assert "traffic light" in capsys.readouterr().out
    told = json.loads(results.read_text())
    assert told["results"] == pytest.approx(figures(tmp_path / "run"))
    assert (told["images"], told["left_out"], len(told["classes"])) == (2, 2, 19)
    assert len(list((tmp_path / "seen").glob("*.png"))) == 2
    with pytest.raises(ConfigError, match=r"data\.classes=3, but bdd100k at .* has 19"):
        task(*settings, "data.classes=3", name="other")


def test_pictures(task) -> None:
    built = task()
    batch = next(iter(built.batches(0, 1, rank=0, world=1)))
    assert built.pictures(batch)["segmentation"].shape == (3, 64, 128)


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        ("{source: backward}", 3),
        ("{source: backward, levels: [0]}", 1),
        ("{source: encoder}", 4),
        ("{source: encoder, blocks: [1, 3]}", 2),
    ],
)
def test_features(task, features, parts) -> None:
    model = task(f"features={features}").model
    with torch.no_grad():
        assert model.features(torch.rand(2, 3, 32, 40)).shape == (2, parts * 24, 4, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["features.source=v"], "backward, encoder"),
        (["features.levels=[3]"], r"features.levels=\[3\]"),
        (["features.source=encoder", "features.blocks=[4]"], "0 to 3"),
        (["network.overrides={dynamics: false}"], "features.source=encoder"),
        (["data.source=folder"], "data.root"),
        (["schedule_steps=null"], "schedule_steps="),
        (["optim.betas=[0.9]"], "betas"),
        (["network.finetune=true"], "features.source=encoder"),
        (["optim.layer_decay=0.9"], "network.finetune=true"),
        (["head.kind=upernet"], "features.source=encoder"),
        (["head.kind=upernet", "features.source=encoder", "batch_size=2", "accumulate=2"], "fewer than 2"),
        (["network.name=timm:test_vit"], "network.overrides"),
        (["data.val_scenes=0"], "val_scenes"),
    ],
)
def test_refused(task, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        task(*settings)
