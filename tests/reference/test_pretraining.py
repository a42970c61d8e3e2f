"""The nano recipe on real footage, from video files to a model: minutes, so run with ``-m slow``."""

import math
from statistics import mean

import pytest
import timm
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.train.journal import read_log


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nano_recipe_on_footage(shared, tmp_path) -> None:
    run, index, out = tmp_path / "run", tmp_path / "index.json", tmp_path / "export"
    settings = [f"data.root={shared / 'media'}", f"data.index={index}", f"out={run}", "trackers=[]"]
    assert main(["train", "pretrain", "--recipe", "nano", *settings]) == 0
    lines = read_log(run / "log.jsonl")
    first, last = lines[:30], lines[-60:]
    assert mean(line["loss"] for line in last) < 0.9 * mean(line["loss"] for line in first)
    assert mean(line["dynamics"] for line in last) < 0.8 * mean(line["dynamics"] for line in first)
    # No collapse: neither one prototype for everything nor all alike, and tokens that differ.
    entropy = mean(line["teacher_entropy"] for line in last) / math.log(1024)
    assert 0.1 < entropy < 0.95
    assert mean(line["token_std"] for line in last) > 0.2
    assert mean(line["cls_std"] for line in last) > 0.1

    assert main(["train", "export", str(run), str(out)]) == 0
    timm.create_model(f"local-dir:{out / 'encoder'}", pretrained=True)
    mz.register_weights("midway_nano.footage", path=out)
    network = mz.create_model("midway_nano.footage", pretrained=True)
    assert mz.extract_features(network, torch.rand(1, 3, 64, 96)).maps[11].shape == (1, 96, 8, 12)
