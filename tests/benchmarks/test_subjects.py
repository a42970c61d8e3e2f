"""Every subject, at the smallest sizes."""

import subprocess
import sys

import pytest
import torch

from midway_zoo.benchmarks import (
    data,
    encoder,
    export,
    extract,
    flow,
    importing,
    load,
    measuring,
    motion,
    stream,
    train,
)
from midway_zoo.benchmarks.measuring import Comparison, How
from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.exporting import checking
from midway_zoo.weights.registry import create_model


@pytest.fixture(autouse=True)
def _one_run_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "peak_mib", lambda run, device: 1.0)  # test_measuring looks at it


def names(comparison: Comparison) -> list[str]:
    return [row.name for row in comparison.rows]


def test_encoder() -> None:
    (found,) = encoder.measure(How(rounds=1, warmup=0, dtype=torch.bfloat16), model="midway_nano", batch=1)
    assert names(found) == [
        "timm VisionTransformer",
        "midway_nano",
        "midway_nano, four levels",
        "midway_nano, bfloat16",
        "timm VisionTransformer, bfloat16",
    ]
    ours, peer = found.row("midway_nano"), found.row("timm VisionTransformer")
    assert ours.gflop == peer.gflop > 0.1
    assert "smallest cosine 0.99" in found.notes[0]


def test_encoder_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="eager"))
    way, note = encoder._compiled(torch.nn.Linear(4, 4), torch.rand(2, 4), "linear")
    assert way.name == "linear, compiled"
    assert note == "linear compiled: 1 graph(s), 0 graph break(s), 0 recompilation(s) over 8 calls"
    assert tuple(way.run().shape) == (2, 4)


def test_motion(how: How) -> None:
    (found,) = motion.measure(how, model="midway_nano", batch=2, frames=(3,))
    assert names(found) == ["2 pairs, one by one", "clip", "encoder alone"]
    assert found.peer == "2 pairs, one by one"
    assert found.row("clip").gflop > found.row("encoder alone").gflop
    assert found.notes[-1].startswith("frames per second of the clip, relative to the encoder alone: ")


def test_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    once = How(rounds=1, warmup=0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(flow._RAFT, "raft_large")
    found = list(flow.measure(once, model="midway_nano.scenes", sizes=("64x64",), zero_shot="32x32"))
    assert found[0].title == "flow of a pair of 64 x 64"
    assert names(found[0]) == ["raft_small", "midway_nano with head"]
    assert any("DIS is not measured: pip install" in note for note in found[0].notes)
    assert names(found[1]) == ["raft_small", "one tile", "tiles of the paper"]
    assert names(found[2]) == ["one direction", "both directions", "one direction, called twice"]
    assert names(found[3]) == ["perturbation"]


def test_flow_with_opencv() -> None:
    pytest.importorskip("cv2")
    image = torch.rand(3, 64, 64)
    run = flow._dis(image, image)
    assert run is not None
    assert run().shape == (64, 64, 2)


def test_stream() -> None:
    found = list(
        stream.measure(How(rounds=1, warmup=0), model="midway_nano.scenes", video_size="64x64", frames=1, flow=True)
    )
    assert [names(one) for one in found] == [
        ["each pair by itself", "MotionStream.push", "encoder alone"],
        ["each pair by itself", "MotionStream.push"],
    ]


def test_load(how: How) -> None:
    found = list(load.measure(how, model="midway_nano"))
    assert [one.title.split(" from ")[0] for one in found] == ["encoder of midway_nano", "midway_nano with dynamics"]
    assert "midway_zoo.create_model" in names(found[0])
    assert "timm.create_model" in names(found[0])
    with pytest.raises(ConfigError, match="Did you mean 'midway_nano'"):
        next(load.measure(how, model="midway_nan"))


def test_data(how: How) -> None:
    once = How(rounds=1, warmup=0)
    found = list(data.measure(once, video_size="160x120", scenes=("32x32",), batch=1, height=60))
    assert [names(one) for one in found] == [
        ["PIL", "ours"],
        ["PIL", "ours"],
        ["procedural"],
        ["a seek for each frame", "visit", "visit, scaled to 60", "visit, prepared"],
    ]
    with pytest.raises(MissingFileError, match="no video"):
        next(data.measure(how, video=data.Path("nowhere.mp4")))


def test_train(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"views.dynamics_size": 32, "views.global_size": 32, "views.local_size": 16}
    settings = train.settings
    monkeypatch.setattr(train, "settings", lambda *args, **changes: settings(*args, **small, **changes))
    (found,) = train.measure(how, model="midway_nano", batch=1, prototypes=64)
    assert names(found) == ["plain step", "trainer"]
    assert found.row("trainer").gflop == found.row("plain step").gflop > 0
    assert "both differ by" in found.notes[0]
    with pytest.raises(InputError, match="--largest needs --device cuda"):
        next(train.measure(how, largest=True))


@pytest.mark.slow
def test_export(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in float32 and that in int8; one that cannot be written is told of, and the other is measured."""
    small = {"depth": 4, "feature_blocks": (0, 1, 2, 3), "embed_dim": 24, "dynamics": False}
    tiny = create_model("midway_nano", **small)
    monkeypatch.setattr(export, "network_of", lambda model, device: tiny)
    (found,) = export.measure(how, model="tiny", batch=2, size=32)
    assert names(found) == ["network in torch", "float32 file", "int8 file"]
    assert found.title == "exported encoder of midway_nano, 2 of 32 x 32"
    assert [note.split(":")[0] for note in found.notes[:2]] == ["float32 file", "int8 file"]
    assert "times as fast as float32 in onnxruntime" in found.notes[-1]
    monkeypatch.setitem(checking.COSINE, "int8", 1.1)
    (found,) = export.measure(how, model="tiny", batch=2, size=32)
    assert names(found) == ["network in torch", "float32 file"]
    assert "1.1 is asked for" in found.notes[-1]
    with pytest.raises(InputError, match="on the CPU"):
        next(export.measure(How(device=torch.device("cuda"))))


def test_extract() -> None:
    sizes = {"clips": 1, "frames": 2, "video_size": "64x64", "size": 64, "items": 3, "readers": (2,)}
    once = How(rounds=1, warmup=0)
    found = list(extract.measure(once, model="midway_nano", parts=("throughput", "memory"), **sizes))
    assert [names(one) for one in found] == [
        *[["plain loop", "extract", "decoding alone", "extract, 2 reader(s)"]] * 2,
        ["extract"],
    ]
    assert found[-1].notes[0].startswith("resident MiB at each tenth of ")


def test_import(how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 2 if command[-1] == "lst" else 0, "[0.5, 0.25]", "")

    monkeypatch.setattr(subprocess, "run", run)
    found = list(importing.measure(how))
    assert [one.title for one in found] == ["import", "commands"]
    assert ["-m", "midway_zoo", "--help"] in commands
    assert found[0].row("import midway_zoo, after timm").seconds.median == 0.5
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no timm"))
    with pytest.raises(RuntimeError, match="no timm"):
        next(importing.measure(how))
