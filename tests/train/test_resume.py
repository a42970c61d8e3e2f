"""A run that was stopped, however, goes on as if it had not been."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from midway_zoo.errors import CheckpointError, ConfigError, OutputExistsError
from midway_zoo.train.checkpoints import find_checkpoints, latest_checkpoint
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import TrainingDivergedError, fit

TIMED = ("pairs_per_s", "images_per_s", "data_wait")


def lines(out: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in read_log(out / "log.jsonl")]


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """An uninterrupted run of eight steps with stochastic depth."""
    from midway_zoo.train.config import load_config
    from midway_zoo.train.pretrain.config import PretrainConfig
    from midway_zoo.train.pretrain.task import PretrainTask
    from tests.train.conftest import TINY

    out = tmp_path_factory.mktemp("whole") / "run"
    settings = [*TINY, f"data.root={videos}", f"out={out}", "network.drop_path=0.2"]
    result = fit(PretrainTask(load_config(PretrainConfig, "nano", settings)))
    assert result.finished
    assert result.step == 8
    return out


def command(module: str, *arguments: str, processes: int = 1) -> list[str]:
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, *launch, "-m", module, *arguments]


def kill_before(step: int, settings: list[str], processes: int = 1) -> None:
    """A run whose first process is killed with SIGKILL in the middle of a step."""
    killed = command("tests.train.killed_run", str(step), *settings, processes=processes)
    process = subprocess.Popen(killed, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        assert process.wait(timeout=250) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = (load_file(latest_checkpoint(run).path / "model.safetensors") for run in (first, second))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_stopped_and_resumed_is_the_same_run(make_task, tmp_path, whole) -> None:
    out = tmp_path / "run"
    result = fit(make_task("network.drop_path=0.2", "max_steps=3"))
    assert result.step == 3
    fit(make_task("network.drop_path=0.2", "resume=must"))
    assert lines(out) == lines(whole)
    assert_same_weights(out, whole)


def test_killed_and_resumed_with_workers_is_the_same_run(settings, make_task, tmp_path, whole) -> None:
    out = tmp_path / "run"
    kill_before(5, [*settings, "network.drop_path=0.2", "save_every=2"])
    assert latest_checkpoint(out).step == 4
    assert len(lines(out)) == 5
    fit(make_task("network.drop_path=0.2", "num_workers=2"))
    assert lines(out) == lines(whole)
    assert_same_weights(out, whole)


def test_two_processes_killed_and_resumed(settings, tmp_path) -> None:
    outs = [tmp_path / "killed", tmp_path / "uninterrupted"]
    shared = [*settings, "network.drop_path=0.2", "save_every=2"]
    kill_before(3, [*shared, f"out={outs[0]}"], processes=2)
    assert len(lines(outs[0])) == 3
    for out in outs:
        pretrain = ("pretrain", "--recipe", "nano", *shared, f"out={out}")
        subprocess.run(command("midway_zoo.train", *pretrain, processes=2), check=True, capture_output=True)
    assert len(lines(outs[0])) == 8
    assert lines(outs[0]) == lines(outs[1])
    assert_same_weights(*outs)


def test_a_signal_saves_and_exits_well(settings, tmp_path) -> None:
    out = tmp_path / "run"
    arguments = command("midway_zoo.train", "pretrain", "--recipe", "nano", *settings, "schedule_steps=100000")
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while len(read_log(out / "log.jsonl")) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    text = process.communicate()[0]
    assert process.returncode == 0
    assert "SIGTERM" in text
    assert "resume=must" in text
    assert latest_checkpoint(out).step == len(read_log(out / "log.jsonl"))


def test_time_limit(make_task, tmp_path) -> None:
    result = fit(make_task("max_seconds=0.01"))
    assert not result.finished
    assert "max_seconds" in result.reason
    assert latest_checkpoint(tmp_path / "run").step == result.step == 1


def test_torn_log_and_later_lines_are_dropped(make_task, tmp_path) -> None:
    log = tmp_path / "run" / "log.jsonl"
    fit(make_task("max_steps=2"))
    with log.open("a") as file:
        file.write(json.dumps({"step": 2, "loss": 1.0}) + '\n{"step": 3, "lo')
    fit(make_task("max_steps=4"))
    assert [line["step"] for line in read_log(log)] == [0, 1, 2, 3]
    assert read_log(log)[2]["loss"] != 1.0


def test_resume_choices(make_task, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="resume=auto starts a new run"):
        fit(make_task("resume=must"))
    fit(make_task("max_steps=1"))
    with pytest.raises(OutputExistsError, match="another folder"):
        fit(make_task("resume=never"))
    assert "done before" in fit(make_task("max_steps=1")).reason
    with pytest.raises(ConfigError, match=r"seed=0, not 1.*init_from="):
        fit(make_task("seed=1"))
    with pytest.raises(ConfigError, match="batch_size=4, not 8"):
        fit(make_task("batch_size=8"))


def test_damaged_checkpoint_names_the_remedy(make_task, tmp_path) -> None:
    fit(make_task("max_steps=1"))
    folder = latest_checkpoint(tmp_path / "run").path
    for name in ("optimizer.pt", "model.safetensors", "state.json"):
        (folder / name).write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="remove"):
            fit(make_task())


def test_old_checkpoints_go(make_task, tmp_path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints" / ".step_00000001.abc.part").mkdir(parents=True)
    fit(make_task("save_every=1", "keep_last=2", "keep_every=3"))
    assert [checkpoint.step for checkpoint in find_checkpoints(out)] == [3, 6, 7, 8]
    assert not list((out / "checkpoints").glob(".*"))


def test_optimizer_state_is_read_without_running_anything(make_task, tmp_path) -> None:
    fit(make_task("max_steps=2"))
    state = torch.load(latest_checkpoint(tmp_path / "run").path / "optimizer.pt", weights_only=True)
    assert state["optimizer"]["state"]


def test_diverged_run_stops_and_saves_nothing(make_task, tmp_path) -> None:
    fit(make_task("max_steps=2"))
    task = make_task("save_every=1")
    after = task.after_update

    def poison(step: int) -> None:
        after(step)
        if step == 4:
            with torch.no_grad():
                next(task.model.network.dynamics.midway.parameters()).fill_(float("nan"))

    task.after_update = poison
    with pytest.raises(TrainingDivergedError, match=r"step 5 is not finite \(loss nan.*step_00000005"):
        fit(task)
    assert latest_checkpoint(tmp_path / "run").step == 5
