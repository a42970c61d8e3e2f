"""Flow fine-tuning as a run: what it starts from, what it trains, what it keeps, how it goes on."""

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.errors import ConfigError, MissingFileError
from midway_zoo.train.checkpoints import best_checkpoint, find_checkpoints, latest_checkpoint
from midway_zoo.train.config import load_config, recipe_names
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask, flow_batch
from midway_zoo.train.tasks.flow.validation import HELD_OUT_SEED
from tests.train.data import flow_miniatures as miniatures
from tests.train.test_resume import ONE_THREAD, assert_same_weights, command, lines

Make = Callable[..., FlowTask]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run).path / "model.safetensors")


def test_protocol_of_the_recipes() -> None:
    assert {"flow_full", "flow_small", "flow_frozen", "flow_scenes_nano"} <= set(recipe_names())
    plain = load_config(FlowConfig, None, ["out=x", "init_from=midway_vits.bdd100k"])
    for name in ("flow_full", "flow_small", "flow_frozen"):
        config = load_config(FlowConfig, name, ["out=x"])
        assert config.midway_config().flow_head == (96, 192, 384, 768, 256)
        assert config.midway_config().flow_size == (320, 384)
        assert config.optim == plain.optim
        assert config.data.augment == plain.data.augment
        assert (config.epochs, config.batch_size, config.precision) == (240, 8, "no")
        assert config.data.mixture == ("full" if name == "flow_full" else "small")
        assert config.frozen == (name == "flow_frozen")
        assert config.save_every * config.batch_size == config.data.epoch_pairs  # validated every epoch
        assert config.data.augment.resizing == "protocol"


def test_learning_rate_rises_an_epoch_and_falls_to_zero(make_task: Make) -> None:
    task = make_task("schedule_steps=null", "epochs=10", "data.epoch_pairs=400", "optim.warmup_epochs=1")
    assert (task.total_steps, task.steps_per_epoch, task.warmup_steps) == (1000, 100, 100)
    rates = [task.hyperparameters(step).lr for step in (0, 99, 100, 550, 1000)]
    assert rates == pytest.approx([0, 5e-4, 5e-4, 5e-4 * (1 + math.cos(math.pi / 2)) / 2, 0])
    assert {task.hyperparameters(step).weight_decay for step in range(3)} == {0.05}
    plain = [group for group in task.optimizer().param_groups if not group["scheduled"]]
    assert all(p.ndim == 1 for group in plain for p in group["params"])
    assert task.optimizer().param_groups[0]["betas"] == (0.9, 0.95)


def test_stopped_and_resumed_is_the_same_run(make_task: Make, tmp_path: Path) -> None:
    fit(make_task("max_steps=3"))
    fit(make_task("resume=must", "num_workers=1"))
    fit(make_task(f"out={tmp_path / 'whole'}"))
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    line = read_log(tmp_path / "run" / "log.jsonl")[-1]
    assert {"loss", "epe", "lr"} <= set(line)
    with pytest.raises(ConfigError, match=r"data\.crop=\[32, 32\], not \[24, 24\]"):
        fit(make_task("data.crop=[24,24]"))


def test_a_run_from_before_there_was_a_choice_of_resizing_says_how_to_go_on(make_task: Make, tmp_path: Path) -> None:
    fit(make_task("max_steps=2"))
    state = latest_checkpoint(tmp_path / "run").path / "state.json"  # type: ignore[union-attr]
    saved = json.loads(state.read_text())
    del saved["identity"]["data.augment.resizing"]
    state.write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"Resume with data\.augment\.resizing=independent"):
        fit(make_task("max_steps=3", "data.augment.resizing=protocol"))
    assert fit(make_task("max_steps=3", "data.augment.resizing=independent")).step == 3


def test_a_run_from_before_there_were_still_pairs_and_bars_goes_on(make_task: Make, tmp_path: Path) -> None:
    fit(make_task("max_steps=2"))
    state = latest_checkpoint(tmp_path / "run").path / "state.json"  # type: ignore[union-attr]
    saved = json.loads(state.read_text())
    later = ("still_p", "letterbox_p", "warp_p", "max_warp")
    for key in (*(f"data.augment.{key}" for key in later), "dynamics_weight"):
        del saved["identity"][key]
    state.write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"data\.augment\.letterbox_p"):
        fit(make_task("max_steps=3", "data.augment.letterbox_p=0.5"))
    assert fit(make_task("max_steps=3")).step == 3


def test_everything_that_counts_is_trained_and_the_head_alone_when_frozen(make_task: Make, tmp_path: Path) -> None:
    task = make_task("max_steps=2")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    still = {name for name, parameter in task.model.named_parameters() if not parameter.requires_grad}
    assert still == {name for name in before if name.startswith("network.dynamics.target_backward.0.")}
    fit(task)
    moved = {name for name, value in weights(tmp_path / "run").items() if not torch.equal(value, before[name])}
    assert not moved & still
    for room in ("encoder", "dynamics.source_backward.0", "dynamics.target_backward.2", "dynamics.midway.1"):
        assert any(name.startswith(f"network.{room}.") for name in moved), room
    fit(make_task("max_steps=2", "frozen=true", f"out={tmp_path / 'frozen'}"))
    frozen = {name for name, value in weights(tmp_path / "frozen").items() if not torch.equal(value, before[name])}
    assert frozen == {name for name in before if name.startswith("network.flow_head.")}


@pytest.mark.parametrize("weight", [0, 1])
@pytest.mark.parametrize("switch", ["backward: false", "levels: [2]", "refinement: false", "gating: false"])
def test_every_trained_parameter_gets_a_gradient(make_task: Make, switch: str, weight: float) -> None:
    """Processes that exchange gradients wait for all of them."""
    key, _, value = switch.partition(": ")
    task = make_task(f"network.overrides.{key}={value}", f"dynamics_weight={weight}")
    batch = next(iter(task.batches(0, 1, rank=0, world=1)))
    task.observe(batch)
    task.model(task.to_inputs(batch, 0))["loss"].backward()
    missing = [name for name, p in task.model.named_parameters() if p.requires_grad != (p.grad is not None)]
    assert missing == []


def test_what_is_taken_from_init_from(make_task: Make, tmp_path: Path) -> None:
    fit(make_task("max_steps=2"))
    (tmp_path / "run").rename(tmp_path / "first")
    source = weights(tmp_path / "first")
    fresh = make_task().model.state_dict()
    for mode, rooms in (("full", ("encoder", "dynamics", "flow_head")), ("encoder", ("encoder",))):
        found = make_task(
            f"init_from={tmp_path / 'first'}", f"initial={mode}", f"out={tmp_path / 'next'}"
        ).model.state_dict()
        for name, value in found.items():
            expected = source if name.split(".")[1] in rooms else fresh
            assert torch.equal(value, expected[name]), (mode, name)
    widths = make_task(f"init_from={tmp_path / 'first'}", "initial=full", "network.flow_head=[4,4,4,6,8]")
    assert widths.model.network.config.flow_head == (4, 4, 4, 6, 8)
    encoder_alone = mz.create_model("midway_nano", dynamics=False)
    encoder_alone.save_pretrained(tmp_path / "alone")
    whole = "network.overrides={}"
    with pytest.raises(ConfigError, match="initial=encoder"):
        make_task(whole, f"init_from={tmp_path / 'alone'}", "initial=full")
    with pytest.raises(ConfigError, match="needs init_from"):
        make_task("initial=full")
    with pytest.raises(ConfigError, match="does not use init_from"):
        make_task("init_from=midway_vits.bdd100k")


def test_scenes_do_not_depend_on_workers_and_are_not_those_held_out(make_task: Make) -> None:
    one, other = (make_task(f"num_workers={workers}") for workers in (0, 1))
    for first, second in zip(one.batches(0, 2, rank=0, world=1), other.batches(0, 2, rank=0, world=1), strict=True):
        assert torch.equal(first["source"], second["source"])
        assert torch.equal(first["flow"], second["flow"])
        assert first["source"].shape == (4, 3, 32, 32)
    halves = [next(iter(one.batches(1, 2, rank=rank, world=2)))["source"] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), first["source"])
    assert one.dataset._generator.seed != HELD_OUT_SEED  # type: ignore[attr-defined]
    assert one.validation is not None
    assert one.validation(one.model.network) == other.validation(other.model.network)  # type: ignore[misc]


def test_the_best_checkpoint_stays(make_task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {1: 3.0, 2: 1.5, 3: math.nan, 4: 2.0, 5: 1.5, 6: 4.0, 7: 5.0, 8: 6.0}

    def validate(task: FlowTask, step: int, folder: Path) -> dict[str, float]:
        return {"epe": errors[step]}

    monkeypatch.setattr(FlowTask, "validate", validate)
    fit(make_task("save_every=1", "keep_last=1", "max_steps=4"))
    result = fit(make_task("save_every=1", "keep_last=1"))
    run = tmp_path / "run"
    assert [checkpoint.step for checkpoint in find_checkpoints(run)] == [2, 8]
    assert json.loads((run / "best.json").read_text()) == {"step": 2, "by": "epe", "validation": {"epe": 1.5}}
    best = best_checkpoint(run)
    assert best is not None
    assert result.best == best.path
    assert best.step == 2


@pytest.fixture
def any_precision() -> Iterator[None]:
    """Accelerate keeps the precision of the first run of a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.usefixtures("any_precision")
def test_bf16_and_pictures(make_task: Make, tmp_path: Path) -> None:
    result = fit(make_task("precision=bf16", "max_steps=2", "picture_every=2"))
    network = make_task().model.network
    with torch.autocast("cpu", torch.bfloat16):
        assert network.flow(*torch.rand(2, 1, 3, 32, 32)).dtype == torch.float32  # no pixel is rounded
    assert math.isfinite(result.last["loss"])
    assert (tmp_path / "run" / "pictures" / "flow_00000002.png").is_file()


def gradients(task: FlowTask, batch: dict[str, Any], parts: list[slice]) -> list[torch.Tensor]:
    task.observe(batch)
    task.model.zero_grad()
    for part in parts:
        piece = {key: value[part] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        (task.model(task.to_inputs(piece, 0))["loss"] / len(parts)).backward()
    return [p.grad.clone() for p in task.model.parameters() if p.grad is not None]


def test_sparse_pixels_weigh_the_same_in_micro_batches(make_task: Make) -> None:
    task, split = make_task(), make_task("accumulate=2")
    samples = task.dataset.__getitems__(range(4))
    for sample in samples[:2]:
        sample["flow"][:, :20] = math.nan
    batch = flow_batch(samples)
    whole = gradients(task, dict(batch), [slice(0, 4)])
    parts = gradients(split, dict(batch), [slice(0, 2), slice(2, 4)])
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_two_processes_do_what_one_does(settings: list[str], make_task: Make, tmp_path: Path) -> None:
    fit(make_task("max_steps=3", f"out={tmp_path / 'alone'}"))
    arguments = ["flow", "--recipe", "flow_scenes_nano", *settings, "max_steps=3"]
    subprocess.run(
        command("midway_zoo.train", *arguments, processes=2), check=True, capture_output=True, env=ONE_THREAD
    )
    for one, other in zip(lines(tmp_path / "alone"), lines(tmp_path / "run"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["epe"] == pytest.approx(other["epe"], rel=1e-4)


def test_trains_on_files_and_validates_on_subval(make_task: Make, tmp_path: Path, caplog: Any) -> None:
    miniatures.sintel(tmp_path / "Sintel")
    files = [
        "data.source=files",
        f"data.root={tmp_path}",
        "data.parts={sintel_clean_subtrain: 2}",
        "data.crop=[8,16]",
        "network.overrides.grid=[1,2]",
        "max_steps=1",
    ]
    task = make_task(*files)
    assert "of 943 when complete" in caplog.text
    fit(task)
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    parts = {"sintel_clean_subval", "sintel_final_subval"}
    assert set(best["validation"]) == parts | {"epe"}
    assert best["validation"]["epe"] == pytest.approx(sum(best["validation"][name] for name in parts) / 2)
    limited = make_task(*files, "validation.limit=1", "validation.parts=[sintel_clean_subval, spring_train]")
    assert "not validated on spring_train" in caplog.text
    assert limited.validation is not None
    assert len(limited.validation.parts["sintel_clean_subval"]) == 1  # type: ignore[attr-defined]


def test_a_validation_that_fails_loses_no_checkpoint(make_task: Make, tmp_path: Path, caplog: Any) -> None:
    task = make_task("max_steps=1")

    def gone(network: mz.MidwayNetwork) -> dict[str, float]:
        raise MissingFileError("there is no frame_0001.png")

    task.validation = gone
    result = fit(task)
    assert result.checkpoint is not None
    assert result.best is None
    assert "could not be validated" in caplog.text
    assert "frame_0001.png" in caplog.text


def test_settings_that_cannot_be(make_task: Make) -> None:
    for override, message in (
        ("data.crop=[30,32]", "multiples of the patch, 8"),
        ("network.overrides.flow_size=[32,32]", r"data\.crop="),
        ("initial=half", "must be one of full, encoder, random"),
        ("optim.lr=0", r"optim\.lr=0"),
        ("validation.overlap=1", r"validation\.overlap=1"),
        ("validation.parts=[sintel]", "no flow data"),
        ("data.scenes.height=16", r"data\.scenes"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_task(override)


def test_parts_may_keep_their_weights(make_task: Make, tmp_path: Path) -> None:
    task = make_task("network.freeze=[encoder,dynamics.midway]")
    start = {key: value.clone() for key, value in task.model.state_dict().items()}
    fit(task)
    moved = {key for key, value in weights(tmp_path / "run").items() if not torch.equal(value, start[key])}
    assert not any(key.startswith(("network.encoder.", "network.dynamics.midway.")) for key in moved)
    assert any(key.startswith("network.dynamics.source_backward.") for key in moved)
    assert any(key.startswith("network.flow_head.") for key in moved)


def test_the_dynamics_loss_may_be_kept(make_task: Make) -> None:
    """The weighted sum of both losses, and what it is for: predictions that stay close to the target's tokens."""
    plain, both = make_task("dynamics_weight=0"), make_task("dynamics_weight=2.5")
    both.model.load_state_dict(plain.model.state_dict())
    batch = next(iter(plain.batches(0, 1, rank=0, world=1)))
    batch.pop("failures")
    inputs = plain.to_inputs(batch, 0)
    with torch.no_grad():
        alone, found = plain.model(inputs), both.model(inputs)
        output = plain.model.network(inputs["source"], inputs["target"])
    distances = [
        2 - 2 * torch.nn.functional.cosine_similarity(output.predictions[level], output.targets[level], dim=-1).mean()
        for level in (2, 1, 0)
    ]
    torch.testing.assert_close(found["dynamics"], sum(distances))
    torch.testing.assert_close(found["flow"], alone["loss"])
    torch.testing.assert_close(found["loss"], alone["loss"] + 2.5 * found["dynamics"])
    assert set(alone) == {"loss", "epe"}
    for task in (plain, both):
        optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            task.model(inputs)["loss"].backward()
            optimizer.step()
    with torch.no_grad():
        both.model.dynamics_weight = plain.model.dynamics_weight = 1.0
        assert both.model(inputs)["dynamics"] < 0.9 * plain.model(inputs)["dynamics"]
    with pytest.raises(ConfigError, match=r"dynamics_weight=1.0 .* frozen=true"):
        make_task("dynamics_weight=1", "frozen=true")
