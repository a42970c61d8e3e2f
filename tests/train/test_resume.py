"""A run that was stopped, however, goes on as if it had not been."""

import contextlib
import json
import os
import shutil
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
from midway_zoo.train.data import ahead
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import TrainingDivergedError, fit
from tests.train.data.test_ahead import Streams

TIMED = ("pairs_per_s", "images_per_s", "data_wait", "data_waits")


def lines(out: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in TIMED} for line in read_log(out / "log.jsonl")]


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    """An uninterrupted run of eight steps with stochastic depth."""
    from midway_zoo.train.config import load_config
    from midway_zoo.train.tasks.pretrain.config import PretrainConfig
    from midway_zoo.train.tasks.pretrain.task import PretrainTask
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


# Processes that share two cores: more threads than cores would wait for each other.
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def kill_before(step: int, settings: list[str], processes: int = 1) -> None:
    """A run whose first process is killed with SIGKILL in the middle of a step."""
    killed = command("tests.train.killed_run", str(step), *settings, processes=processes)
    environment = ONE_THREAD if processes > 1 else os.environ
    process = subprocess.Popen(killed, start_new_session=True, stderr=subprocess.DEVNULL, env=environment)
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


def test_batches_copied_ahead_change_nothing(make_task, tmp_path, whole, monkeypatch) -> None:
    """A run that has two more batches on its device when it stops; only those that it used are counted."""
    monkeypatch.setattr(ahead, "_streams_of", lambda device: Streams())
    fit(make_task("network.drop_path=0.2", "max_steps=3"))
    stopped = latest_checkpoint(tmp_path / "run")
    assert stopped.state()["task"]["failures"]["tried"] == 3 * 4
    fit(make_task("network.drop_path=0.2"))
    assert lines(tmp_path / "run") == lines(whole)
    assert_same_weights(tmp_path / "run", whole)


def test_killed_and_resumed_with_workers_is_the_same_run(settings, make_task, tmp_path, whole) -> None:
    out = tmp_path / "run"
    kill_before(5, [*settings, "network.drop_path=0.2", "save_every=2"])
    assert latest_checkpoint(out).step == 4
    assert len(lines(out)) == 5
    fit(make_task("network.drop_path=0.2", "num_workers=2"))
    assert lines(out) == lines(whole)
    assert_same_weights(out, whole)


def test_two_processes_killed_and_resumed(settings, tmp_path) -> None:
    out = tmp_path / "run"
    shared = [*settings, "network.drop_path=0.2", "save_every=3"]
    kill_before(6, shared, processes=2)
    shutil.rmtree(out / "checkpoints" / "step_00000006")  # what was done of steps 3 to 5 has to be done again
    killed = lines(out)
    assert len(killed) == 6
    pretrain = ("pretrain", "--recipe", "nano", *shared, "resume=must", "max_steps=7")
    subprocess.run(command("midway_zoo.train", *pretrain, processes=2), check=True, capture_output=True, env=ONE_THREAD)
    assert len(lines(out)) == 7
    assert lines(out)[:6] == killed
    for line in read_log(out / "log.jsonl"):
        assert line["grad_norm"] > 0
        assert line["data_wait"] == max(line["data_waits"])
        assert len(line["data_waits"]) == 2


def test_a_signal_to_the_whole_group_saves(settings, tmp_path) -> None:
    """As launchers and schedulers send it: to the data workers too."""
    out = tmp_path / "run"
    arguments = command("midway_zoo.train", "pretrain", "--recipe", "nano", *settings, "schedule_steps=100000")
    process = subprocess.Popen(
        [*arguments, "num_workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    while len(read_log(out / "log.jsonl")) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    text = process.communicate(timeout=120)[0]
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
    with pytest.raises(ConfigError, match=r"network\.gating=True, not False"):
        fit(make_task("network.overrides.gating=false"))
    with pytest.raises(ConfigError, match=r"data\.repeats=4, not 2"):
        fit(make_task("data.repeats=2"))


def test_damaged_checkpoint_names_the_remedy(make_task, tmp_path) -> None:
    fit(make_task("max_steps=1"))
    folder = latest_checkpoint(tmp_path / "run").path
    for name in ("optimizer.pt", "model.safetensors", "state.json"):
        (folder / name).write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="remove"):
            fit(make_task())


def test_an_optimizer_of_other_parameters_names_the_remedy(make_task, tmp_path) -> None:
    fit(make_task("max_steps=2"))
    file = latest_checkpoint(tmp_path / "run").path / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    saved["optimizer"]["param_groups"][0]["params"].pop()
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match=r"step_0*2: its optimizer does not fit.*init_from"):
        fit(make_task("resume=must"))


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
    task = make_task()
    after = task.after_update

    def poison(step: int) -> None:
        after(step)
        if step == 4:
            with torch.no_grad():
                next(task.model.network.dynamics.midway.parameters()).fill_(float("nan"))

    task.after_update = poison
    with pytest.raises(TrainingDivergedError, match=r"step 5 is not finite \(loss nan.*step_00000002"):
        fit(task)
    assert latest_checkpoint(tmp_path / "run").step == 2


def test_weights_that_are_not_finite_are_never_saved(make_task, tmp_path) -> None:
    task = make_task("save_every=1")
    before = task.before_update

    def poison(step: int) -> None:
        if step == 2:
            task.model.network.encoder.cls_token.grad.fill_(float("inf"))
        before(step)

    task.before_update = poison
    with pytest.raises(TrainingDivergedError, match=r"weights after step 2 are not finite.*step_00000002"):
        fit(task)
    assert latest_checkpoint(tmp_path / "run").step == 2


def test_initial_weights_are_not_asked_for_again(make_task, tmp_path) -> None:
    fit(make_task("max_steps=1"))
    (tmp_path / "run").rename(tmp_path / "first")
    source, out = f"init_from={tmp_path / 'first'}", f"out={tmp_path / 'second'}"
    fit(make_task(source, out, "max_steps=1"))
    shutil.rmtree(tmp_path / "first")
    assert fit(make_task(source, out, "max_steps=2")).step == 2
