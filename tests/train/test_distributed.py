"""Two processes that share one copy of everything do what one process does, and write what it writes."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import latest_checkpoint
from midway_zoo.train.config import load_config
from midway_zoo.train.distributed import shard_model
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from tests.train.conftest import TINY
from tests.train.gradients_run import record
from tests.train.test_resume import ONE_THREAD, command

# Small tensors of odd sizes: several have fewer rows than there are processes, and none at all in some.
SETTINGS = [*TINY, "batch_size=8", "optim.clip=0.01", "head.norm_last_layer=false", "network.grad_checkpointing=true"]
GLOO_CAN = "set_force_sum_reduction_for_comms"
on_cpus = pytest.mark.skipif(
    not hasattr(FSDPModule, GLOO_CAN), reason=f"shard=true on CPUs needs torch 2.8, this is {torch.__version__}"
)


@pytest.fixture(scope="module")
def runs(videos, tmp_path_factory) -> Path:
    """Runs "alone" by one process, "resumed" going on sharded from its step two, "new" going on alone from there."""
    folder = tmp_path_factory.mktemp("runs")
    settings = [*SETTINGS, f"data.root={videos}"]
    record(f"{folder}/alone_2.safetensors", [*settings, "max_steps=2", f"out={folder}/alone"])
    shutil.copytree(folder / "alone", folder / "resumed")
    record(f"{folder}/alone_4.safetensors", [*settings, "max_steps=4", f"out={folder}/alone"])
    sharded = command("tests.train.sharded_run", str(folder), *settings, processes=2)
    process = subprocess.run(sharded, check=False, capture_output=True, text=True, env=ONE_THREAD)
    assert process.returncode == 0, process.stderr[-4000:]
    fit(PretrainTask(load_config(PretrainConfig, "nano", [*settings, "max_steps=4", f"out={folder}/new"])))
    return folder


@on_cpus
@pytest.mark.parametrize(("name", "step"), [("new", 2), ("resumed", 4)])
def test_gradients_and_center(runs, name, step) -> None:
    ours, alone = load_file(runs / f"{name}.safetensors"), load_file(runs / f"alone_{step}.safetensors")
    assert ours.keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(ours[key], value, atol=1e-5, rtol=1e-4, msg=key)
    assert alone["center"].abs().max() > 0


@on_cpus
@pytest.mark.parametrize("name", ["new", "resumed"])
def test_checkpoints_pass_between_sharded_and_whole(runs, name) -> None:
    ours, alone = latest_checkpoint(runs / name), latest_checkpoint(runs / "alone")
    assert ours.step == alone.step == 4
    for mine, theirs in zip(read_log(runs / name / "log.jsonl"), read_log(runs / "alone" / "log.jsonl"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    model, expected = ours.model(), alone.model()
    assert model.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(model[key], value, atol=1e-5, rtol=1e-4, msg=key)
    moments, expected = (checkpoint.optimizer()["optimizer"] for checkpoint in (ours, alone))
    assert moments["param_groups"] == expected["param_groups"]
    assert moments["state"].keys() == expected["state"].keys()
    for index, entry in expected["state"].items():
        for key, value in entry.items():
            torch.testing.assert_close(moments["state"][index][key], value, atol=1e-6, rtol=1e-4)


@on_cpus
def test_pictures(runs) -> None:
    assert (runs / "new" / "pictures" / "heatmap_00000002.png").is_file()


@pytest.mark.parametrize("switch", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_accelerates_own_sharding_is_refused(make_task, monkeypatch, switch) -> None:
    monkeypatch.setenv(switch, "true")
    with pytest.raises(ConfigError, match=rf"{switch} is set.*shard=true"):
        fit(make_task())


def test_one_process_keeps_everything(make_task) -> None:
    assert fit(make_task("shard=true", "max_steps=1")).step == 1


@pytest.fixture
def gloo_group():
    """A process group of this process alone, over Gloo."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_cpus_are_refused_where_torch_cannot(gloo_group, monkeypatch) -> None:
    monkeypatch.delattr(FSDPModule, GLOO_CAN, raising=False)
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"shard=true on CPUs.*needs torch 2\.8 or newer.*shard=false"):
        shard_model(torch.nn.Linear(2, 2), [], two)
