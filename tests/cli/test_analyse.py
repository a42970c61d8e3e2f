"""The ``analyse`` commands: what they write, what they say, what they refuse."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.cli import main, readouts
from midway_zoo.cli.work import analysing
from midway_zoo.config import architecture_config, override
from midway_zoo.files import write_png
from midway_zoo.inference.video import read_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a midway_nano of 32 x 32 pixels, 16 tokens."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("models") / "small"
    network = mz.MidwayNetwork(override(architecture_config("midway_nano"), {"grid": (4, 4)}))
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of noise, 64 x 48 pixels, that go eight pixels to the right."""
    folder = tmp_path_factory.mktemp("clips") / "one"
    folder.mkdir()
    wide = torch.randint(0, 256, (3, 48, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for index in range(4):
        write_png(folder / f"{index}.png", wide[:, :, 24 - 8 * index : 88 - 8 * index])
    return folder


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, mz.MidwayNetwork]) -> None:
    """The first command that asks for a network reads it as always, and later ones are given it: building one takes as
    long as most of these commands do."""

    def network_of(options: argparse.Namespace) -> mz.MidwayNetwork:
        name = str(options.model)
        if name not in loaded:
            loaded[name] = readouts.network_of(options)
        return loaded[name]

    monkeypatch.setattr(analysing, "network_of", network_of)


@pytest.fixture(scope="module")
def loaded() -> dict[str, mz.MidwayNetwork]:
    return {}


def run(*arguments: object) -> int:
    return main(["analyse", *map(str, arguments)])


def is_picture(path: Path) -> bool:
    if path.suffix == ".svg":
        return "<svg" in path.read_text(encoding="utf-8")
    if path.suffix == ".pdf":
        return path.read_bytes().startswith(b"%PDF")
    with Image.open(path) as image:
        image.load()
        return min(image.size) > 100 and len(image.reduce(4).convert("RGB").getcolors(2**24) or []) > 20


def test_heatmap_of_pairs_and_of_a_clip(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    outputs = [tmp_path / name for name in ("heat.png", "heat.svg", "heat.pdf", "heat.safetensors")]
    written = [part for path in outputs for part in ("-o", path)]
    pair = ("--at", "20,20", "--at", "40,30", "--draws", 1)
    assert run("heatmap", model, clip / "0.png", clip / "1.png", *pair, *written) == 0
    assert "HeatMaps(heatmaps=float32[1, 2, 4, 5]" in capsys.readouterr().out
    assert all(is_picture(path) for path in outputs[:3])
    assert load_file(outputs[3])["heatmaps"].shape == (1, 2, 4, 5)
    with Image.open(outputs[0]) as image:
        assert json.loads(image.text["midway_zoo"])["command"] == "analyse heatmap"
    film = tmp_path / "heat.mp4"
    assert run("heatmap", model, clip, "--at", "20,20", "--draws", 1, "--frames", 3, "-o", film) == 0
    assert len(list(read_video(film))) == 2
    assert run("heatmap", model, clip / "0.png", "--at", "20,20", "-o", tmp_path / "x.png") == 1
    assert "is one frame; name a target" in capsys.readouterr().err


def test_matrix_gates_and_attention(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    pair = (clip / "0.png", clip / "1.png", "--size", 32)
    picture, table = tmp_path / "matrix.png", tmp_path / "matrix.npz"
    assert run("matrix", model, *pair, "-o", picture, "-o", table) == 0
    assert "of source tokens peak at home" in capsys.readouterr().out
    assert is_picture(picture)
    assert table.stat().st_size > 20 * 20 * 4
    assert run("matrix", model, *pair, "--time", 3) == 0
    assert "a loop of single derivatives" in capsys.readouterr().out
    assert run("matrix", model, *pair) == 1
    assert "pass -o OUT, or --time N" in capsys.readouterr().err
    for name, further in (
        ("gates", ()),
        ("attention", ()),
        ("attention", ("--motion",)),
        ("attention", ("--backward",)),
    ):
        out = tmp_path / f"{name}{len(further)}{further}.png"
        assert run(name, model, *pair, *further, "-o", out) == 0
        assert is_picture(out)
    assert run("attention", model, clip / "0.png", "--motion", "-o", tmp_path / "y.png") == 1
    assert "--motion takes two images" in capsys.readouterr().err
    for wrong in (("--motion", "--backward"), ("--motion", "--at", "3,3"), ("--level", 1)):
        assert run("attention", model, *pair, *wrong, "-o", tmp_path / "y.png") == 1
        assert wrong[0] in capsys.readouterr().err


def test_track_similarity_and_pca(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    picture, film, table = (tmp_path / f"track{ending}" for ending in (".png", ".mp4", ".safetensors"))
    rules = ("--rule", "paper", "--rule", "similarity", "--draws", 1)
    assert run("track", model, clip, "--at", "20,20", *rules, "-o", picture, "-o", film, "-o", table) == 0
    assert is_picture(picture)
    assert len(list(read_video(film))) == 4
    assert load_file(table)["xy_similarity"].shape == (4, 1, 2)
    assert run("track", model, clip, "--at", "20,20", "--rule", "flow", "-o", tmp_path / "f.png") == 1
    assert "needs a flow head" in capsys.readouterr().err
    assert run("similarity", model, clip, "-o", tmp_path / "similarity.svg") == 0
    assert is_picture(tmp_path / "similarity.svg")
    assert run("pca", model, clip, "-o", tmp_path / "pca.png", "-o", tmp_path / "pca.npz") == 0
    assert is_picture(tmp_path / "pca.png")
    assert "% of tokens are foreground" in capsys.readouterr().out
    assert run("pca", model, clip / "0.png", "--whole", "-o", tmp_path / "one.png") == 0


def test_index_and_retrieve(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    index, found = tmp_path / "index.safetensors", tmp_path / "found.json"
    assert run("index", model, clip.parent, "-o", index) == 0
    assert "3 pairs" in capsys.readouterr().out
    assert run("index", model, clip.parent, "-o", index) == 1
    assert "--force" in capsys.readouterr().err
    assert run("index", model, clip.parent, "--update", "-o", index) == 0
    query = (index, clip / "1.png", clip / "2.png")
    assert run("retrieve", model, *query, "-o", found, "-o", tmp_path / "found.png") == 0
    best = json.loads(found.read_text())["answers"]["motion"][0]
    assert (best["clip"], best["frame"]) == (clip.name, 1)
    assert is_picture(tmp_path / "found.png")
    capsys.readouterr()
    assert run("retrieve", "midway_nano.scenes", *query) == 1
    assert "other weights" in capsys.readouterr().err


def test_latent_and_tracking(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    small = ("--textures", "procedural", "--pairs")
    out = tmp_path / "latent.json"
    assert (
        run("latent", model, *small, 40, "--pictures", 3, "--motions", 2, "-o", out, "-o", tmp_path / "latent.png") == 0
    )
    assert "nearest latent: same motion, %" in capsys.readouterr().out
    assert set(json.loads(out.read_text())["pictures"]["scenes"]) == {"weights", "random", "pixels"}
    assert is_picture(tmp_path / "latent.png")
    out = tmp_path / "truth.json"
    assert run("tracking", model, "--against", "truth", *small, 1, "-o", out, "-o", tmp_path / "truth.png") == 0
    assert "a token drawn at random hits 6.2" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["networks"]) == 4
    assert is_picture(tmp_path / "truth.png")
    few = ("--motions", 3, "--pictures", 1, "--rounds", 1, "--textures", "procedural")
    out = tmp_path / "retrieval.json"
    assert run("retrieval", model, *few, "-o", out, "-o", tmp_path / "retrieval.png") == 0
    assert "percent of 12 queries whose nearest clip, of 3," in capsys.readouterr().out
    assert list(json.loads(out.read_text())["networks"]) == ["small", "small, untrained"]
    assert is_picture(tmp_path / "retrieval.png")


def test_outputs_are_looked_at_first(clip: Path, model: Path, tmp_path: Path, capsys) -> None:
    pair = (clip / "0.png", clip / "1.png")
    for out, said in (
        (tmp_path / "gates.mp4", "written to .png or .svg"),
        (clip / "0.png", "is an input"),
        (tmp_path / "none" / "gates.png", "does not exist"),
    ):
        assert run("gates", model, *pair, "-o", out) == 1
        assert said in capsys.readouterr().err
    same = tmp_path / "twice.png"
    assert run("gates", model, *pair, "-o", same, "-o", same) == 1
    assert "two outputs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("track", model, clip, "--at", "20", "-o", same)
    assert "two numbers X,Y" in capsys.readouterr().err


def test_the_way_to_matplotlib_is_named_where_it_is_missing(
    clip: Path, model: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("gates", model, clip / "0.png", clip / "1.png", "-o", tmp_path / "gates.png") == 1
    assert "figures" in capsys.readouterr().err
