"""``midway-zoo train ...``, as a user types it."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import timm
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.journal import read_log


@pytest.fixture
def pretrain(settings):
    def run(*more: str) -> int:
        return main(["train", "pretrain", "--recipe", "nano", *settings, *more])

    return run


def test_from_videos_to_a_model(pretrain, tmp_path, capsys) -> None:
    run, out = tmp_path / "run", tmp_path / "export"
    assert pretrain("max_steps=3", "trackers=[tensorboard]", "log_every=1", "picture_every=2") == 0
    text = capsys.readouterr().out
    assert "all steps done after 3 steps" in text
    assert f"midway-zoo train export {run}" in text
    assert [line["step"] for line in read_log(run / "log.jsonl")] == [0, 1, 2]
    assert (run / "config.yaml").is_file()
    assert sorted(path.name for path in (run / "pictures").iterdir()) == [
        f"{name}_00000002.png" for name in ("features", "heatmap", "views")
    ]
    assert list(run.rglob("events.out.tfevents*"))

    assert main(["train", "export", str(run), str(out)]) == 0
    network = mz.load_checkpoint(out)
    assert network.provenance["step"] == 3
    features = mz.extract_features(network, torch.rand(2, 3, 40, 48), blocks=(1, 3))
    assert features.cls.shape == (2, 24)
    latent = mz.infer_motion_latent(network, torch.rand(3, 40, 48), torch.rand(3, 40, 48))
    assert latent.tokens.shape == (1, 2, 24)
    encoder = timm.create_model(f"local-dir:{out / 'encoder'}", pretrained=True)
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(encoder.forward_features(image)[:, 0], network.encoder.forward_features(image)[:, 0])
    student = mz.load_checkpoint(out, encoder="student")
    assert not torch.equal(student.encoder.pos_embed, network.encoder.pos_embed)

    assert main(["train", "export", str(run), str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["train", "export", str(run), str(out), "--force"]) == 0
    mz.register_weights("midway_nano.mine", path=out)
    assert mz.create_model("midway_nano.mine", pretrained=True).config.embed_dim == 24


def test_released_layout_goes_out_and_comes_in(pretrain, tmp_path) -> None:
    released, zoo = tmp_path / "run.pth", tmp_path / "zoo"
    assert pretrain("max_steps=2") == 0
    assert main(["train", "export", str(tmp_path / "run"), str(released), "--layout", "released"]) == 0
    assert main(["train", "export", str(tmp_path / "run"), str(zoo)]) == 0
    theirs, ours = mz.load_checkpoint(released), mz.load_checkpoint(zoo)
    told = {"encoder": theirs.config.encoder, "flow_size": theirs.config.flow_size}  # the layout has no word for them
    assert theirs.config == dataclasses.replace(ours.config, **told)
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name

    # Started from either, or from the run itself, the first step is the same, heads and center included.
    firsts = []
    for index, source in enumerate((released, tmp_path / "run")):
        assert pretrain(f"init_from={source}", f"out={tmp_path / f'again{index}'}", "max_steps=1") == 0
        firsts.append(read_log(tmp_path / f"again{index}" / "log.jsonl")[0]["loss"])
    assert firsts[0] == firsts[1]


def test_init_from_an_export_keeps_the_network(pretrain, tmp_path, caplog) -> None:
    assert pretrain("max_steps=3") == 0  # the learning rate of the first step is zero
    assert main(["train", "export", str(tmp_path / "run"), str(tmp_path / "zoo")]) == 0
    assert pretrain(f"init_from={tmp_path / 'zoo'}", f"out={tmp_path / 'next'}", "max_steps=1") == 0
    assert "projection heads: they start fresh" in caplog.text
    first, second = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("run", "next"))
    assert first["dynamics"] != second["dynamics"]


def test_init_from_another_grid(pretrain, tmp_path) -> None:
    assert pretrain("max_steps=1") == 0
    larger = ["views.dynamics_size=48", "views.global_size=48", f"out={tmp_path / 'larger'}", "max_steps=1"]
    assert pretrain(f"init_from={tmp_path / 'run'}", *larger) == 0


def test_init_from_what_does_not_fit(pretrain, tmp_path, capsys) -> None:
    assert pretrain("max_steps=1") == 0
    other = f"out={tmp_path / 'other'}"
    assert pretrain(f"init_from={tmp_path / 'run'}", "network.overrides.motion_dim=48", other) == 1
    assert "does not fit the network" in capsys.readouterr().err
    assert pretrain("init_from=midway_vits.bdd10k", other) == 1
    assert "midway_vits.bdd100k" in capsys.readouterr().err


def test_stop_tells_how_to_go_on(pretrain, tmp_path, capsys) -> None:
    assert pretrain("max_seconds=0.01", "resume=never") == 0
    text = capsys.readouterr().out
    assert "stopped: max_seconds=0.01 after 1 steps" in text
    assert text.rstrip().endswith("resume=must")


def test_dry_run_and_print_config_write_nothing(pretrain, tmp_path, capsys) -> None:
    assert main(["train", "pretrain", "--recipe", "bdd100k_vitb", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "name: midway_vitb" in text
    assert "root: ???" in text
    assert pretrain("--dry-run", "seed=1") == 0
    text = capsys.readouterr().out
    assert "pairs/s" in text
    assert "8 steps would take about" in text
    assert "peak memory" in text
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_may_be_moved(pretrain, tmp_path) -> None:
    assert pretrain("max_steps=1") == 0
    latest_checkpoint(tmp_path / "run").path.rename(tmp_path / "mine")
    assert main(["train", "export", str(tmp_path / "mine"), str(tmp_path / "out")]) == 0
    assert pretrain(f"init_from={tmp_path / 'mine'}", f"out={tmp_path / 'next'}", "max_steps=1") == 0


def test_heads_of_a_run_without_them_start_fresh(pretrain, tmp_path, caplog) -> None:
    assert pretrain("max_steps=1", "objective.dino_weight=0") == 0
    assert pretrain(f"init_from={tmp_path / 'run'}", f"out={tmp_path / 'next'}", "max_steps=1") == 0
    assert "they start fresh" in caplog.text


def test_a_decoder_that_is_not_installed(pretrain, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert pretrain("data.decoder=nvdec", "data.decode_short_side=null") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs torchcodec: pip install" in error
    assert "nvdec]" in error


def test_errors_are_one_line(pretrain, tmp_path, capsys) -> None:
    for setting, told in (("trackers=[foo]", "tensorboard"), ("trackers=[wandb]", "pip install wandb")):
        assert pretrain(setting) == 1
        assert told in capsys.readouterr().err
    assert pretrain("--dry-run", "schedule_steps=1") == 1
    assert "needs two" in capsys.readouterr().err
    assert pretrain("optim.base_rl=1") == 1
    assert "optim.base_lr" in capsys.readouterr().err
    assert pretrain("data.root=nowhere") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["train", "export", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["train", "pretrian"])
    assert stop.value.code == 2


def test_index_command(videos, tmp_path, capsys) -> None:
    output = tmp_path / "index.json"
    assert main(["train", "index", str(videos), "-o", str(output)]) == 0
    assert "3 videos, 120 frames" in capsys.readouterr().out
    assert json.loads(output.read_text())


def test_checkpoint_says_where_it_is_from(pretrain, tmp_path) -> None:
    assert pretrain("max_steps=1") == 0
    checkpoint: Path = latest_checkpoint(tmp_path / "run").path
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["provenance"]["midway_zoo"] == mz.__version__
    assert "base_lr" in (checkpoint / "config.yaml").read_text()


@pytest.mark.parametrize(
    "switch",
    ["dynamics: false", "backward: false", "levels: [2]", "refinement: false", "gating: false", "forward_depth: 1"],
)
def test_variants_train_and_export(pretrain, tmp_path, switch: str) -> None:
    key, _, value = switch.partition(": ")
    assert pretrain(f"network.overrides.{key}={value}", "max_steps=2") == 0
    assert main(["train", "export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    network = mz.load_checkpoint(tmp_path / "out")
    expected = json.loads(value)
    assert getattr(network.config, key) == (tuple(expected) if isinstance(expected, list) else expected)


def test_dynamics_only_trains(pretrain, tmp_path) -> None:
    assert pretrain("objective.dino_weight=0", "max_steps=2") == 0
    line = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert "dino" not in line
    assert line["loss"] == pytest.approx(line["dynamics"])
