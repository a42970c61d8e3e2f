"""Processes agree on what they resume; trackers find the run that they had."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from midway_zoo.train.journal import tracker_arguments
from midway_zoo.train.loop import fit
from tests.train.test_resume import ONE_THREAD, command

WANDB = '''
"""Stands in for wandb: writes down what it is told."""
import json, os

class Run:
    summary = {}
    def log(self, values, step=None, **kwargs): pass
    def finish(self): pass

class config:
    @staticmethod
    def update(values, allow_val_change=False): pass

def init(**kwargs):
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(kwargs) + "\\n")
    return Run()
'''


def test_processes_that_see_different_folders_are_refused(settings, make_task, tmp_path) -> None:
    fit(make_task("max_steps=1", f"out={tmp_path / 'run0'}"))
    arguments = command("tests.train.two_folders_run", str(tmp_path / "run"), *settings, processes=2)
    told = subprocess.run(arguments, check=True, capture_output=True, text=True, env=ONE_THREAD).stdout
    host = platform.node()
    assert "the processes see different newest checkpoints" in told
    assert f"process 0 on {host} step 1, process 1 on {host} none" in told


def test_a_resumed_run_is_the_same_to_trackers(tmp_path) -> None:
    first, second = (tracker_arguments(tmp_path, None) for _ in range(2))
    assert first == second
    assert first["wandb"]["name"] == tmp_path.name
    assert tracker_arguments(tmp_path, "mine")["wandb"] == first["wandb"] | {"name": "mine"}
    other = tmp_path / "other"
    other.mkdir()
    assert tracker_arguments(other, None)["wandb"]["id"] != first["wandb"]["id"]


def test_wandb_is_told_project_name_and_identity(settings, tmp_path) -> None:
    """As a requeued job does: two processes one after the other, the second resuming."""
    package = tmp_path / "packages"
    (package / "wandb").mkdir(parents=True)
    (package / "wandb" / "__init__.py").write_text(WANDB)
    (package / "wandb-0.20.0.dist-info").mkdir()
    (package / "wandb-0.20.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wandb\nVersion: 0.20.0\n"
    )
    told = tmp_path / "told.jsonl"
    environment = ONE_THREAD | {
        "TOLD": str(told),
        "PYTHONPATH": os.pathsep.join([str(package), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
    }
    for steps in (1, 2):
        arguments = ["pretrain", "--recipe", "nano", *settings, "trackers=[wandb]", "tracker_project=lab"]
        run = [sys.executable, "-m", "midway_zoo.train", *arguments, f"max_steps={steps}"]
        subprocess.run(run, check=True, capture_output=True, env=environment)
    first, second = map(json.loads, told.read_text().splitlines())
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("lab", "run", "allow")
    assert len(first["id"]) == 8
