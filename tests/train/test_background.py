"""Checkpoints written by a thread: a copy, one at a time, no error lost."""

import threading

import pytest
import torch
from safetensors.torch import load_file

from midway_zoo.errors import CheckpointError
from midway_zoo.train import loop
from midway_zoo.train.background import BackgroundWriter, snapshot
from midway_zoo.train.checkpoints import find_checkpoints, latest_checkpoint
from midway_zoo.train.loop import fit


def test_a_snapshot_is_a_copy() -> None:
    tensor = torch.ones(2, requires_grad=True)
    values = {"a": [tensor, 3], "b": {"c": tensor.detach().view(2, 1)}, "d": None}
    copied = snapshot(values)
    with torch.no_grad():
        tensor.zero_()
    assert copied["a"][0].tolist() == [1, 1]
    assert not copied["a"][0].requires_grad
    assert copied["b"]["c"].tolist() == [[1], [1]]
    assert (copied["a"][1], copied["d"]) == (3, None)


def test_never_two_at_once_and_no_error_is_lost() -> None:
    writer, release, order = BackgroundWriter(), threading.Event(), []

    def slow() -> None:
        release.wait(10)
        order.append("first")

    writer.start(1, slow)
    writer.check()  # goes on: nothing to say, and nothing waited for
    assert order == []
    threading.Timer(0.05, release.set).start()
    writer.start(2, lambda: order.append("second"))
    writer.wait()
    assert order == ["first", "second"]

    def full() -> None:
        raise OSError(28, "No space left on device")

    writer.start(3, full)
    with pytest.raises(CheckpointError, match=r"step 3 could not be written.*No space left"):
        writer.wait()
    writer.wait()
    writer.close()


def test_what_is_written_is_the_step_that_was_saved(make_task, tmp_path, monkeypatch) -> None:
    """However late the thread gets to it."""
    save, held = loop.save_checkpoint, threading.Event()

    def late(out, step, **content):
        if step == 2:
            assert held.wait(60)
        return save(out, step, **content)

    task = make_task("save_every=2", "max_steps=3")
    kept: dict[str, torch.Tensor] = {}
    before = task.before_update

    def note(step: int) -> None:
        if step == 2:  # training goes on while step 2 is being written
            assert not find_checkpoints(tmp_path / "run")
            kept.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})
            held.set()
        before(step)

    task.before_update = note
    monkeypatch.setattr(loop, "save_checkpoint", late)
    fit(task)
    first, last = find_checkpoints(tmp_path / "run")
    assert (first.step, last.step) == (2, 3)
    written = load_file(first.path / "model.safetensors")
    moved = load_file(last.path / "model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in written.items() if "center_" not in name)
    assert any(not torch.equal(tensor, moved[name]) for name, tensor in written.items())


def test_a_failed_write_stops_the_run(make_task, tmp_path, monkeypatch) -> None:
    save = loop.save_checkpoint

    def failing(out, step, **content):
        if step >= 4:
            raise OSError(28, "No space left on device")
        return save(out, step, **content)

    monkeypatch.setattr(loop, "save_checkpoint", failing)
    with pytest.raises(CheckpointError, match=r"step 4 could not be written.*resumes"):
        fit(make_task("save_every=2"))
    assert latest_checkpoint(tmp_path / "run").step == 2
    monkeypatch.undo()
    assert fit(make_task("save_every=2")).step == 8
