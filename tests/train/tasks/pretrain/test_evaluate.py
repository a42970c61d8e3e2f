"""Read-outs while pretraining: figures in checkpoints, the best one, what is refused."""

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from midway_zoo.errors import ConfigError
from midway_zoo.train.checkpoints import best_checkpoint, find_checkpoints
from midway_zoo.train.loop import fit
from midway_zoo.train.weights import export


@pytest.fixture
def labelled(tmp_path):
    """Two classes of flat pictures, dark and bright."""
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, level in (("bright", 200), ("dark", 40)):
            folder = tmp_path / "labelled" / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                image = np.clip(level + random.normal(0, 5, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(folder / f"{index}.jpg")
    return tmp_path / "labelled"


@pytest.fixture
def clip(tmp_path):
    """A bright square that stays where it is, and its masks, with a palette as DAVIS has them."""
    for folder in ("frames", "masks"):
        (tmp_path / "clip" / folder).mkdir(parents=True)
    labels = np.zeros((64, 96), np.uint8)
    labels[16:48, 32:64] = 1
    for index in range(4):
        Image.fromarray(np.where(labels[..., None], [250, 40, 40], [20, 60, 90]).astype(np.uint8)).save(
            tmp_path / "clip" / "frames" / f"{index:05d}.jpg"
        )
        mask = Image.fromarray(labels, mode="P")
        mask.putpalette([0, 0, 0, 128, 0, 0])
        mask.save(tmp_path / "clip" / "masks" / f"{index:05d}.png")
    return tmp_path / "clip"


def test_figures_and_the_best_checkpoint(make_task, tmp_path, labelled, clip) -> None:
    settings = [f"eval.knn_root={labelled}", f"eval.clip_root={clip}", "eval.neighbours=3", "eval.side=64"]
    task = make_task("save_every=1", "max_steps=4", "eval.every=2", "keep_last=1", *settings)
    result = fit(task)
    found = {checkpoint.step: checkpoint.state()["validation"] for checkpoint in find_checkpoints(tmp_path / "run")}
    assert set(found[4]) == {"knn_error", "clip_error"}
    assert found[4]["knn_error"] == 0  # brightness tells them apart, whatever the weights
    assert found[4]["clip_error"] < 0.5
    best = best_checkpoint(tmp_path / "run")
    assert best.step == 2  # of equals the first, kept though only the newest one is
    assert result.best == best.path
    export(tmp_path / "run", tmp_path / "out", best=True)
    assert load_file(tmp_path / "out" / "model.safetensors").keys()


def test_it_changes_nothing_of_the_run(make_task, tmp_path, labelled) -> None:
    shared = ("network.drop_path=0.2", "save_every=1", "max_steps=3")
    fit(make_task(*shared, f"eval.knn_root={labelled}", f"out={tmp_path / 'seen'}"))
    fit(make_task(*shared))
    seen, plain = (find_checkpoints(tmp_path / name)[-1].model() for name in ("seen", "run"))
    assert all(bool((seen[key] == plain[key]).all()) for key in plain)


def test_what_cannot_be_measured_is_refused_before_training(make_task, tmp_path, labelled, clip) -> None:
    with pytest.raises(ConfigError, match=r"eval.every=3 must be a multiple of save_every=2"):
        make_task("eval.every=3", "save_every=2")
    with pytest.raises(ConfigError, match="train/CLASS/IMAGE"):
        make_task(f"eval.knn_root={tmp_path / 'none'}")
    (labelled / "val" / "dark").rename(labelled / "val" / "grey")
    with pytest.raises(ConfigError, match="other classes"):
        make_task(f"eval.knn_root={labelled}")
    (clip / "masks" / "00003.png").unlink()
    with pytest.raises(ConfigError, match="there are 4 and 3"):
        make_task(f"eval.clip_root={clip}")
