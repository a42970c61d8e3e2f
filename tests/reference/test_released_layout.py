"""The released layout, read and written again: every tensor bit-equal under the name it had."""

from pathlib import Path

import torch
from torch import Tensor

import midway_zoo as mz
from midway_zoo.weights.archive import open_archive
from midway_zoo.weights.pickles import TensorRef, plain
from midway_zoo.weights.released_writer import read_center, read_head, write_released

PARTS = ("student", "teacher", "motion_loss", "dino_loss")


def tensors(path: Path) -> dict[str, Tensor]:
    found = {}
    with open_archive(path) as archive:
        for part in PARTS:
            for name, ref in archive.content[part].items():
                assert isinstance(ref, TensorRef)
                found[f"{part}/{name}"] = archive.read(ref)
    return found


def test_official_file_written_again(official: Path, tmp_path: Path) -> None:
    network = mz.load_checkpoint(official, paired=True)
    with open_archive(official) as archive:
        args, epoch = plain(archive.content["args"]), archive.content["epoch"]
    assert network.target_encoder is not None
    assert network.dynamics is not None
    write_released(
        tmp_path / "again.pth",
        config=network.config,
        student=network.encoder.state_dict(),
        teacher=network.target_encoder.state_dict(),
        dynamics=network.dynamics.state_dict(),
        student_head=read_head(official, "student"),
        teacher_head=read_head(official, "teacher"),
        center=read_center(official),
        epoch=epoch,
        args=args,
    )
    expected, found = tensors(official), tensors(tmp_path / "again.pth")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
    with open_archive(tmp_path / "again.pth") as archive:
        assert plain(archive.content["args"]) == args
        assert archive.content.keys() == {*PARTS, "optimizer", "args", "epoch", "fp16_scaler"}
