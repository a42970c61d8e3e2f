"""Outputs of commands: data of videos, what they say of themselves, what is refused, what Ctrl-C leaves."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.cli.work import flow_outputs
from midway_zoo.config import MidwayConfig
from midway_zoo.files import write_png
from midway_zoo.inference.video_writer import write_video
from midway_zoo.reading import METADATA_KEY
from midway_zoo.storage import state_digest
from midway_zoo.visualize import flow_legend


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    config = MidwayConfig(
        embed_dim=24,
        num_heads=3,
        patch_size=8,
        grid=(4, 4),
        motion_dim=12,
        backward_heads=3,
        forward_heads=3,
        flow_head=(8, 8, 8, 8, 16),
        flow_size=(24, 32),
    )
    folder = tmp_path_factory.mktemp("model")
    mz.MidwayNetwork(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    generator = torch.Generator().manual_seed(1)
    write_video(path, [(torch.rand(3, 32, 48, generator=generator) * 255).to(torch.uint8) for _ in range(7)], fps=10)
    return path


def failure(capsys, *arguments: object) -> str:
    assert main([str(one) for one in arguments]) == 1
    return capsys.readouterr().err


def metadata(path: Path) -> dict:
    if path.suffix == ".npz":
        with np.load(path) as saved:  # allow_pickle is off
            return json.loads(str(saved["metadata"]))
    with safe_open(path, framework="pt") as saved:
        return json.loads(saved.metadata()[METADATA_KEY])


def values(path: Path) -> dict:
    if path.suffix == ".npz":
        with np.load(path) as saved:
            return {name: torch.from_numpy(saved[name]) for name in saved.files if name != "metadata"}
    return load_file(path)


@pytest.mark.parametrize("name", ["flow.npz", "flow.safetensors"])
def test_flow_of_a_video_as_data(model, clip, tmp_path, name) -> None:
    out = tmp_path / name
    assert main(["flow", str(model), str(clip), "-o", str(out), "--stride", "2"]) == 0
    expected = list(mz.predict_flows(str(model), clip, stride=2, batch_size=8))
    saved = values(out)
    assert sorted(saved) == ["concealed", "confidence", "flow", "pts_seconds"]
    assert torch.equal(saved["flow"], torch.cat([one.flow for one in expected]))
    assert saved["confidence"].shape == (3, 1, 32, 48)
    assert saved["pts_seconds"][:, 0].tolist() == pytest.approx([0, 0.2, 0.4], abs=1e-3)
    facts = metadata(out)
    assert facts["stride"] == 2
    assert facts["midway_zoo"] == mz.__version__
    assert facts["weights_sha256"] == state_digest(mz.load_checkpoint(model))
    assert {"model", "fps", "size", "provenance", "method"} <= set(facts)


@pytest.mark.parametrize("kind", ["flo", "png"])
def test_flow_of_a_video_as_a_folder(model, clip, tmp_path, kind, capsys) -> None:
    out = tmp_path / "flows"
    command = ["flow", str(model), str(clip), "-o", f"{out}/", "--format", kind]
    assert main(command) == 0
    index = json.loads((out / "index.json").read_text())
    assert [pair["file"] for pair in index["pairs"]] == [f"{number:06d}.{kind}" for number in range(6)]
    assert index["pairs"][1]["pts_seconds"] == pytest.approx([0.1, 0.2], abs=1e-3)
    assert mz.flow.read_flow(out / f"000005.{kind}").shape == (2, 32, 48)
    capsys.readouterr()
    assert "not empty" in failure(capsys, *command)
    assert main([*command, "--force"]) == 0


def test_motion_over_a_gap(model, clip, tmp_path) -> None:
    out = tmp_path / "motion.npz"
    assert main(["motion", str(model), str(clip), "-o", str(out), "--gap", "3"]) == 0
    expected = mz.infer_motion_latents(mz.load_checkpoint(model), clip, gap=3)
    saved = values(out)
    assert torch.equal(saved["tokens"], expected.tokens)
    assert saved["tokens"].shape == (4, 10, 12)
    assert metadata(out)["gap"] == 3


@pytest.mark.parametrize("name", ["f.npz", "f.safetensors"])
def test_features_of_a_video_and_of_a_pattern(model, clip, tmp_path, name) -> None:
    out = tmp_path / name
    assert main(["features", str(model), str(clip), "-o", str(out), "--fps", "5", "--batch-size", "2"]) == 0
    saved = values(out)
    assert saved["block11"].shape == (4, 24, 4, 6)
    assert saved["pts_seconds"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6], abs=1e-3)
    for index in (10, 9):
        write_png(tmp_path / f"f{index}.png", torch.zeros(3, 32, 48, dtype=torch.uint8))
    assert main(["features", str(model), str(tmp_path / "f*.png"), "-o", str(out), "--force"]) == 0
    assert [Path(one).name for one in metadata(out)["images"]] == ["f9.png", "f10.png"]
    assert values(out)["cls"].shape == (2, 24)


def test_what_cannot_be_written_is_refused_before_any_work(model, clip, tmp_path, capsys) -> None:
    image = tmp_path / "a.png"
    write_png(image, torch.zeros(3, 32, 48, dtype=torch.uint8))
    assert ".safetensors or .npz" in failure(capsys, "features", model, image, "-o", tmp_path / "f.pt")
    assert ".safetensors or .npz" in failure(capsys, "motion", model, clip, "-o", tmp_path / "m.json")
    before = image.read_bytes()
    pair = ["flow", model, image, image, "-o"]
    assert "never overwritten" in failure(capsys, *pair, image, "--force")
    assert "never overwritten" in failure(capsys, *pair, tmp_path / "x.flo", "--picture", image, "--force")
    assert image.read_bytes() == before
    assert "two outputs" in failure(capsys, *pair, tmp_path / "x.png", "--picture", tmp_path / "x.png")
    assert "does not exist" in failure(capsys, *pair, tmp_path / "x.flo", "--picture", tmp_path / "no" / "p.png")
    assert not list(tmp_path.glob("x.*"))


def interrupt_after(monkeypatch, pairs: int) -> None:
    """Ctrl-C comes while the pair after these is worked on."""
    from midway_zoo.cli.work import flow

    original = flow.flow_of_clip

    def stopped(*arguments, **options):
        for number, one in enumerate(original(*arguments, **options)):
            if number == pairs:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(flow, "flow_of_clip", stopped)


@pytest.mark.parametrize("name", ["x.mp4", "x.npz", "x"])
def test_ctrl_c_keeps_what_was_done(model, clip, tmp_path, capsys, monkeypatch, name) -> None:
    interrupt_after(monkeypatch, 3)
    out = tmp_path / name
    assert main(["flow", str(model), str(clip), "-o", str(out)]) == 130
    error = capsys.readouterr().err
    assert "first 3 pairs, up to 0.30 s" in error
    assert "Traceback" not in error
    if name == "x.mp4":
        assert len(list(mz.read_video(out))) == 3
    elif name == "x.npz":
        assert len(values(out)["flow"]) == 3
    else:
        assert len(json.loads((out / "index.json").read_text())["pairs"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.mp4", "x.npz", "x"])
def test_a_second_ctrl_c_does_not_lose_it(model, clip, tmp_path, capsys, monkeypatch, name) -> None:
    """It comes while what there is is being closed; afterwards Ctrl-C ends a program again."""
    interrupt_after(monkeypatch, 3)
    before = signal.getsignal(signal.SIGINT)
    for kind in ("FlowVideo", "FlowTable", "FlowFolder"):
        output = getattr(flow_outputs, kind)

        def finish(self, pairs, original=output.finish):
            os.kill(os.getpid(), signal.SIGINT)
            original(self, pairs)

        monkeypatch.setattr(output, "finish", finish)
    assert main(["flow", str(model), str(clip), "-o", str(tmp_path / name)]) == 130
    assert "first 3 pairs" in capsys.readouterr().err
    assert (tmp_path / name).exists()
    assert signal.getsignal(signal.SIGINT) is before


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("existing", [False, True])
def test_a_picture_does_not_outlive_the_output_that_failed(
    model, clip, tmp_path, capsys, monkeypatch, existing: bool
) -> None:
    """It would be in the way of the same command; one that --force replaced stays."""
    images = [tmp_path / f"{name}.png" for name in "ab"]
    for image in images:
        write_png(image, torch.zeros(3, 32, 32, dtype=torch.uint8))
    picture = tmp_path / "picture.png"
    if existing:
        picture.write_bytes(b"of before")
    monkeypatch.setattr("midway_zoo.cli.work.flow.write_flow", full_disk)
    monkeypatch.setattr("midway_zoo.inference.spool.TensorSpool.write", full_disk)
    force = ["--force"] * existing
    for command in (
        ["flow", model, *images, "-o", tmp_path / "x.flo"],
        ["features", model, *images, "-o", tmp_path / "x.npz"],
    ):
        assert "No space left" in failure(capsys, *command, "--picture", picture, *force)
        assert picture.exists() == existing


def test_a_still_pair_is_said_to_be_still(model, tmp_path, monkeypatch) -> None:
    """Full colour is no less than half a pixel, so that noise does not look like motion, and the legend says so."""
    image = tmp_path / "a.png"
    write_png(image, torch.zeros(3, 32, 32, dtype=torch.uint8))
    said: list[tuple[float, float]] = []
    original = flow_legend

    def watched(width: int, max_flow: float, *, longest: float) -> torch.Tensor:
        said.append((max_flow, longest))
        return original(width, max_flow, longest=longest)

    def still(head: object, maps: list[torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
        return torch.full((maps[0].shape[0], 3, 8 * grid[0], 8 * grid[1]), 0.01)

    monkeypatch.setattr("midway_zoo.cli.work.flow.flow_legend", watched)
    monkeypatch.setattr("midway_zoo.models.flow_head.FlowHead.forward", still)
    assert (
        main(
            [
                str(one)
                for one in ("flow", model, image, image, "-o", tmp_path / "x.flo", "--picture", tmp_path / "p.png")
            ]
        )
        == 0
    )
    assert said == [(0.5, pytest.approx(0.01 * 2**0.5, rel=0.1))]
    plain = flow_legend(400, 0.5)
    assert not torch.equal(plain, flow_legend(400, 0.5, longest=0.014))
    assert torch.equal(plain, flow_legend(400, 0.5, longest=0.6))


def test_ctrl_c_before_anything_was_done_leaves_nothing(model, clip, tmp_path, monkeypatch) -> None:
    interrupt_after(monkeypatch, 0)
    assert main(["flow", str(model), str(clip), "-o", str(tmp_path / "x.npz")]) == 130
    assert not list(tmp_path.iterdir())


def test_quiet_says_nothing(model, clip, tmp_path, capsys) -> None:
    assert main(["motion", str(model), str(clip), "-o", str(tmp_path / "m.npz"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_unknown_words_get_the_nearest(capsys) -> None:
    for arguments, near in (
        (["flow", "m", "a", "-o", "x", "--strid3", "2"], "--stride"),
        (["list", "--pretraind"], "--pretrained"),
        (["featurs"], "features"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
        assert f"Did you mean '{near}'" in capsys.readouterr().err


def test_who_begins_with_the_footage_is_told(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["flow", "walk.MP4", "-o", "flow.mp4"])
    assert "walk.MP4 is footage; the model comes first: midway_nano.scenes walk.MP4" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from midway_zoo.cli import build_parser; build_parser().format_help(); "
        "print([name for name in ('torch', 'timm', 'PIL', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_files_follow_the_umask(model, clip, tmp_path) -> None:
    before = os.umask(0o022)
    try:
        assert main(["motion", str(model), str(clip), "-o", str(tmp_path / "m.safetensors")]) == 0
        assert main(["features", str(model), str(clip), "-o", str(tmp_path / "f.npz")]) == 0
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def test_a_closed_pipe_is_no_error() -> None:
    shell = f"{sys.executable} -m midway_zoo list | true"
    result = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_nothing_found_is_said(tmp_path, capsys) -> None:
    assert "Did you mean 'midway_nano'" in failure(capsys, "list", "midway_nanno")
    assert main(["cache", "--cache-dir", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "nothing is cached\n")  # what reads the list finds it empty
    assert "nothing of 'nope' is cached" in failure(capsys, "cache", "--clear", "nope", "--cache-dir", tmp_path)


def test_a_refused_ending_of_flow_names_all_that_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of tables too, which the functions for flow files do not know."""
    assert main(["flow", "midway_nano.scenes", "a.png", "b.png", "-o", str(tmp_path / "flow.txt")]) == 1
    said = capsys.readouterr().err
    assert all(ending in said for ending in (".flo", ".png", ".npz", ".safetensors")), said
