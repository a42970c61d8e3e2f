"""The command line: what it writes, what it prints, how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.config import MidwayConfig
from midway_zoo.inference.video import read_video
from midway_zoo.inference.video_writer import write_video
from tests.weights.released_files import write_released


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("released") / "small.pth"
    config = MidwayConfig(
        embed_dim=24, num_heads=3, patch_size=8, grid=(4, 4), motion_dim=12, backward_heads=3, forward_heads=3
    )
    write_released(path, config)
    return path


@pytest.fixture
def images(tmp_path) -> list[str]:
    paths = []
    for index in range(2):
        path = tmp_path / f"{index}.png"
        Image.effect_noise((48, 32), 60 + index).convert("RGB").save(path)
        paths.append(str(path))
    return paths


def failure(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 1."""
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("midway-zoo: error: ")
    assert captured.out == ""
    return lines[0]


def test_list(capsys) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == mz.list_models()
    assert main(["list", "*.bdd100k", "--pretrained"]) == 0
    assert capsys.readouterr().out.split() == ["midway_vitb.bdd100k", "midway_vits.bdd100k"]


def test_info(capsys) -> None:
    assert main(["info", "midway_vitb"]) == 0
    text = capsys.readouterr().out
    assert "85.80 M" in text
    assert "midway-bdd-vit-b-ep300.pth" in text
    assert "reported by the authors" in text
    assert main(["info", "midway_nano", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["weights"]["name"] == "midway_nano.scenes"
    assert described["config"]["embed_dim"] == 96


def test_info_of_a_file_or_folder(checkpoint, tmp_path, capsys) -> None:
    """A model is the same here as everywhere: whatever load_checkpoint takes."""
    mz.create_model("midway_nano.scenes", pretrained=True).save_pretrained(tmp_path / "own")
    assert main(["info", str(tmp_path / "own")]) == 0
    text = capsys.readouterr().out
    assert "flow head    widths 24, 32, 48, 64, 32" in text
    assert "source midway_nano.scenes.safetensors" in text
    assert main(["info", str(checkpoint), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["provenance"]["source"] == checkpoint.name
    assert described["parameters"]["dynamics"] > 0
    assert "no file" in failure(capsys, "info", "./nothing")


def test_convert_is_bit_exact_and_says_where_it_came_from(checkpoint, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(checkpoint), str(out)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert sorted(path.relative_to(out).as_posix() for path in written) == [
        "config.json",
        "encoder/config.json",
        "encoder/model.safetensors",
        "model.safetensors",
    ]
    original, converted = mz.load_checkpoint(checkpoint).state_dict(), mz.load_checkpoint(out).state_dict()
    assert original.keys() == converted.keys()
    assert all(torch.equal(original[key], converted[key]) for key in original)
    from safetensors import safe_open

    from midway_zoo.weights.convert import sha256_of

    for path, part in ((out, "network"), (out / "encoder", "encoder")):
        with safe_open(path / "model.safetensors", "pt") as file:
            provenance = json.loads(file.metadata()["midway_zoo"])["provenance"]
        assert provenance["source"] == "small.pth"
        assert provenance["sha256_verified"] == sha256_of(checkpoint)
        assert provenance["part"] == part
        assert provenance["encoder"] == "teacher"


def test_convert_does_not_overwrite(checkpoint, tmp_path, capsys) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert "--force" in failure(capsys, "convert", str(checkpoint), str(tmp_path / "out"))
    assert main(["convert", str(checkpoint), str(tmp_path / "out"), "--force", "--encoder", "student"]) == 0


def test_features(checkpoint, images, tmp_path, capsys) -> None:
    out, picture = tmp_path / "f.safetensors", tmp_path / "pca.png"
    arguments = ["features", str(checkpoint), *images, "-o", str(out), "--picture", str(picture)]
    assert main([*arguments, "--backward", "--blocks", "5,11", "--size", "32x48"]) == 0
    saved = load_file(out)
    expected = mz.extract_features(mz.load_checkpoint(checkpoint), images, blocks=(5, 11), backward=True, size=(32, 48))
    assert sorted(saved) == ["backward0", "backward1", "backward2", "block11", "block5", "cls"]
    assert torch.equal(saved["block11"], expected.maps[11])
    assert torch.equal(saved["backward2"], expected.backward[2])
    assert Image.open(picture).height == 224
    assert "float32[2, 24]" in capsys.readouterr().out


def test_features_of_images_on_different_grids(checkpoint, images, tmp_path) -> None:
    Image.new("RGB", (32, 80)).save(tmp_path / "tall.png")
    out = tmp_path / "f.safetensors"
    picture = ["--picture", str(tmp_path / "p.png")]
    assert main(["features", str(checkpoint), images[0], str(tmp_path / "tall.png"), "-o", str(out), *picture]) == 0
    saved = load_file(out)
    assert saved["block11.0"].shape == (24, 4, 6)
    assert saved["block11.1"].shape == (24, 10, 4)


def test_motion_of_a_folder(checkpoint, images, tmp_path) -> None:
    out = tmp_path / "m.safetensors"
    assert main(["motion", str(checkpoint), str(Path(images[0]).parent), "-o", str(out)]) == 0
    saved = load_file(out)
    assert saved["tokens"].shape == (1, 10, 12)
    assert sorted(saved) == ["level1", "level2", "pooled", "tokens"]


@pytest.mark.parametrize("name", ["flow.flo", "flow.npy", "flow.pfm", "flow.flo5", "kitti.png"])
def test_flow(checkpoint, images, tmp_path, name) -> None:
    picture = tmp_path / "flow.png"
    assert main(["flow", str(checkpoint), *images, "-o", str(tmp_path / name), "--picture", str(picture)]) == 0
    expected = mz.predict_flow(mz.load_checkpoint(checkpoint), *images)
    found = mz.flow.read_flow(tmp_path / name)
    assert (found - expected.flow[0]).abs().max() <= (1 / 128 if name.endswith("png") else 0)
    shown = np.asarray(Image.open(picture))
    assert len(shown) == 32 + 52  # the legend
    assert (shown[:32, :48] != 255).any()
    assert (shown[32:] != 255).any()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A network with a flow head, whose tile is smaller than the pictures."""
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
    folder = tmp_path_factory.mktemp("tuned")
    mz.MidwayNetwork(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--tile", "16x24", "--overlap", "0.5", "--coarse"], {"tile": (16, 24), "overlap": 0.5, "coarse": True}),
        (["--tile", "16", "--method", "head"], {"tile": 16}),
        (["--size", "24x32"], {"size": (24, 32)}),
    ],
)
def test_flow_of_the_head(tuned, images, tmp_path, capsys, arguments, options) -> None:
    assert main(["flow", str(tuned), *images, "-o", str(tmp_path / "x.flo"), *arguments]) == 0
    expected = mz.predict_flow(mz.load_checkpoint(tuned), *images, batch_size=8, **options)
    torch.testing.assert_close(mz.flow.read_flow(tmp_path / "x.flo"), expected.flow[0], atol=1e-4, rtol=0)
    assert "method='head'" in capsys.readouterr().out


def test_flow_of_a_video_is_a_video(tuned, tmp_path, capsys) -> None:
    """Frames on the left, flow on the right; odd sides are padded to even ones."""
    frames = (torch.rand(6, 3, 31, 47) * 255).to(torch.uint8)
    clip, out = tmp_path / "clip.mp4", tmp_path / "flow.mp4"
    write_video(clip, list(frames), fps=10)
    assert main(["flow", str(tuned), str(clip), "-o", str(out), "--stride", "2", "--max-flow", "5"]) == 0
    assert "2 pairs" in capsys.readouterr().out
    found, given = list(read_video(out)), list(read_video(clip, stride=2))
    assert [tuple(frame.image.shape)[:2] for frame in found] == [(3, 84)] * 2  # odd sides are padded
    assert [frame.pts_seconds for frame in found] == pytest.approx([0, 0.2], abs=1e-3)
    left = found[1].image[:, :31, :47].float().flatten()
    correlation = torch.corrcoef(torch.stack([left, given[1].image[:, :31, :47].float().flatten()]))[0, 1]
    assert correlation > 0.5  # both were compressed


def test_flow_of_a_folder_of_frames(checkpoint, images, tmp_path) -> None:
    folder, out = Path(images[0]).parent, tmp_path / "flow.mp4"
    assert main(["flow", str(checkpoint), str(folder), "-o", str(out)]) == 0
    assert [tuple(frame.image.shape)[:2] for frame in read_video(out)] == [(3, 84)]
    assert main(["flow", str(checkpoint), str(folder), "-o", str(out), "--force", "--max-flow", "9"]) == 0


def test_flow_arguments_that_do_not_fit_are_refused_before_any_work(checkpoint, images, tmp_path, capsys) -> None:
    pair = ["flow", "nowhere.pth", *images, "-o", str(tmp_path / "x.flo")]
    assert "--stride and --fps are for a video" in failure(capsys, *pair, "--stride", "2")
    assert "--stride and --fps are for a video" in failure(capsys, *pair, "--fps", "2")
    assert ".flo, .png" in failure(capsys, *pair[:-1], str(tmp_path / "x.jpg"))
    video = ["flow", "nowhere.pth", images[0], "-o"]
    assert "written to .mp4" in failure(capsys, *video, str(tmp_path / "x.flo"))
    assert "--picture" in failure(capsys, *video, str(tmp_path / "x.mp4"), "--picture", str(tmp_path / "p.png"))
    one = ["flow", str(checkpoint), images[0], "-o", str(tmp_path / "x.mp4")]
    assert "at least two" in failure(capsys, *one)
    assert not list(tmp_path.glob("x.*"))


def test_failures_are_one_line(checkpoint, images, tmp_path, capsys) -> None:
    out = ["-o", str(tmp_path / "o.flo")]
    assert "Did you mean 'midway_vits'" in failure(capsys, "info", "midway_vit")
    assert "there is no image" in failure(capsys, "flow", str(checkpoint), images[0], "no.png", *out)
    assert "there is no file" in failure(capsys, "flow", "no.pth", *images, *out)
    assert "midway-bdd-vit-s-ep300.pth" in failure(capsys, "flow", "midway_vits", *images, *out)
    assert "not a torch.save file" in failure(capsys, "convert", images[0], str(tmp_path / "x"))
    assert "cannot be decoded as video" in failure(
        capsys, "motion", str(checkpoint), str(checkpoint), "-o", str(tmp_path / "o.npz")
    )
    assert "num_hads" in failure(capsys, "flow", str(checkpoint), *images, *out, "--config", "num_hads=3")
    assert "--device" in failure(capsys, "flow", str(checkpoint), *images, *out, "--device", "warp")
    assert "no flow head" in failure(capsys, "flow", str(checkpoint), *images, *out, "--method", "head")
    assert "does not exist" in failure(capsys, "flow", str(checkpoint), *images, "-o", str(tmp_path / "no" / "f.flo"))
    assert not (tmp_path / "o.flo").exists()


def test_existing_output_is_refused_before_any_work(images, tmp_path, capsys) -> None:
    out = tmp_path / "f.flo"
    out.write_bytes(b"precious")
    assert "exists" in failure(capsys, "flow", "no.pth", *images, "-o", str(out))
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "arguments",
    [[], ["frobnicate"], ["flow", "x"], ["features", "m", "i", "-o", "o", "--size", "axb"], ["flow", "--method", "x"]],
)
def test_misuse_exits_with_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: midway-zoo" in capsys.readouterr().err


def test_module_and_script_are_the_same_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "midway_zoo", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"midway-zoo {mz.__version__}\n"
