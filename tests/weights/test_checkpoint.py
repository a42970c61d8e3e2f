"""A run folder is a model wherever one is taken: its newest checkpoint, its best, or one of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import midway_zoo as mz
from midway_zoo.config import MidwayConfig
from midway_zoo.errors import CheckpointError, InputError, OutputExistsError, SingleEncoderError, UnsafeFileError
from midway_zoo.reading import sha256_of
from midway_zoo.weights.convert import convert

CONFIG = MidwayConfig(
    embed_dim=24, num_heads=3, patch_size=8, grid=(4, 4), motion_dim=12, backward_heads=3, forward_heads=3
)


def write_step(run: Path, step: int, network: mz.MidwayNetwork) -> None:
    """As midway_zoo.train writes it (tests/train/test_resume.py holds the two together)."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    state = {f"network.{key}": value.clone() for key, value in network.state_dict().items()}
    save_file({**state, "student_head.weight": torch.zeros(2)}, folder / "model.safetensors")
    facts = {"step": step, "network": network.config.to_dict(), "identity": {"task": "pretrain"}, "provenance": {}}
    (folder / "state.json").write_text(json.dumps(facts))


@pytest.fixture
def run(tmp_path) -> tuple[Path, dict[int, mz.MidwayNetwork]]:
    networks = {step: mz.MidwayNetwork(replace(CONFIG, paired=True)) for step in (10, 20)}
    for step, network in networks.items():
        write_step(tmp_path / "run", step, network)
    (tmp_path / "run" / "best.json").write_text('{"step": 10, "by": "loss"}')
    return tmp_path / "run", networks


def test_newest_best_and_named(run) -> None:
    folder, networks = run
    for path, step in ((folder, 20), (folder / "best.json", 10), (folder / "checkpoints" / "step_00000010", 10)):
        network = mz.load_checkpoint(path)
        assert network.provenance["step"] == step
        assert not network.config.paired
        assert torch.equal(network.encoder.cls_token, networks[step].target_encoder.cls_token)
    student = mz.load_checkpoint(folder, encoder="student")
    assert torch.equal(student.encoder.cls_token, networks[20].encoder.cls_token)
    both = mz.load_checkpoint(folder, paired=True)
    assert all(torch.equal(value, networks[20].state_dict()[key]) for key, value in both.state_dict().items())


def test_functions_take_paths_and_read_again_what_changed(run) -> None:
    folder, networks = run
    image = torch.rand(3, 32, 32)
    before = mz.extract_features(str(folder), image).cls
    assert torch.equal(before, mz.extract_features(mz.load_checkpoint(folder), image).cls)
    write_step(folder, 30, networks[10])
    assert torch.equal(mz.extract_features(folder, image).cls, mz.extract_features(folder / "best.json", image).cls)


def test_what_cannot_be_had_is_said(run, tmp_path) -> None:
    folder, _ = run
    write_step(tmp_path / "single", 1, mz.MidwayNetwork(CONFIG))
    with pytest.raises(SingleEncoderError, match="one encoder, the teacher"):
        mz.load_checkpoint(tmp_path / "single", paired=True)
    (folder / "best.json").write_text('{"step": 99}')
    with pytest.raises(CheckpointError, match="step 99"):
        mz.load_checkpoint(folder / "best.json")
    (folder / "checkpoints" / "step_00000020" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be used"):
        mz.load_checkpoint(folder)


def test_a_plain_state_dict_gets_a_hint(tmp_path) -> None:
    torch.save(mz.MidwayNetwork(CONFIG).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"plain state_dict.*load_state_dict"):
        mz.load_checkpoint(tmp_path / "plain.pth")


def test_a_registered_path_is_whatever_load_checkpoint_reads(run) -> None:
    folder, networks = run
    for path, step in ((folder, 20), (folder / "best.json", 10)):
        mz.register_weights("midway_nano.run", path=path, overwrite=True)
        network = mz.create_model("midway_nano.run", pretrained=True)
        assert network.provenance["step"] == step
        encoder = timm.create_model("midway_nano.run", pretrained=True, **network.config.encoder_args)
        assert torch.equal(encoder.cls_token, networks[step].target_encoder.cls_token)


def test_a_network_saved_whole_is_told_how_to_be_saved(nano: mz.MidwayNetwork, tmp_path: Path) -> None:
    torch.save(nano, tmp_path / "whole.pth")
    with pytest.raises(UnsafeFileError, match=r"whole object of this package.*save_pretrained\(FOLDER\)"):
        mz.load_checkpoint(tmp_path / "whole.pth")


def test_folders_are_converted_as_files_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = mz.MidwayNetwork(CONFIG).eval()
    write_step(tmp_path / "run", 30, network)
    network.save_pretrained(tmp_path / "exported")
    for name, held in (("run", tmp_path / "run/checkpoints/step_00000030"), ("exported", tmp_path / "exported")):
        out = tmp_path / f"{name}-converted"
        written = convert(tmp_path / name, out)
        assert [path.relative_to(out).as_posix() for path in written][2] == "encoder/model.safetensors"
        found = mz.load_checkpoint(out)
        assert found.provenance["sha256_verified"] == sha256_of(held / "model.safetensors")
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in network.state_dict().items())
        encoder = timm.create_model(f"local-dir:{out / 'encoder'}", pretrained=True)
        assert torch.equal(encoder.patch_embed.proj.weight, network.encoder.patch_embed.proj.weight)
    with pytest.raises(OutputExistsError):
        convert(tmp_path / "run", tmp_path / "exported")
    with pytest.raises(InputError, match="never overwritten"):
        convert(tmp_path / "exported", tmp_path / "exported", overwrite=True)
