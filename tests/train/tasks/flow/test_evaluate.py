"""Evaluation of flow on miniature data sets, and the files for the servers."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import ConfigError, InputError, MissingFileError, OutputExistsError
from midway_zoo.flow import read_flow
from midway_zoo.train.data.flow_pairs import read_sample
from midway_zoo.train.tasks.flow import evaluate as module
from midway_zoo.train.tasks.flow.evaluate import (
    evaluate_flow,
    evaluate_parts,
    evaluation_files,
    table,
    write_submission,
)
from tests.train.data import flow_miniatures as miniatures
from tests.train.data.flow_miniatures import SIZE


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A flow that is known: (3, -4) everywhere. Returns the arguments of each call."""
    calls: list[dict[str, Any]] = []

    def predict_flow(network: object, source: Any, target: Any, **options: Any) -> mz.results.FlowPrediction:
        calls.append({"pairs": len(source), **options})
        assert all(image.dtype == torch.uint8 for image in [*source, *target])
        flow = torch.tensor([3.0, -4.0]).view(2, 1, 1)
        flows = torch.stack([flow.expand(2, *image.shape[1:]) for image in source])
        return mz.results.FlowPrediction(flow=flows, confidence=flows[:, :1], method="head", grid=(1, 1))

    monkeypatch.setattr(module, "predict_flow", predict_flow)
    return calls


def truth(files: Any) -> Any:
    """(N, 2, H, W)"""
    return np.stack([read_sample(entry).flow for entry in files]).astype(np.float64)


def test_sintel_is_pooled(tmp_path: Path, nano: mz.MidwayNetwork, shifted: list[dict[str, Any]]) -> None:
    miniatures.sintel(tmp_path)
    parts = evaluation_files("sintel", tmp_path)
    assert list(parts) == ["sintel_clean_subval", "sintel_final_subval"]
    files = parts["sintel_final_subval"]
    result = evaluate_flow(nano, files, title="final", tile=32, overlap=0.7, batch_size=3)
    assert shifted == [{"pairs": n, "method": "auto", "batch_size": 3, "tile": 32} for n in (3, 1)]
    error = np.linalg.norm(truth(files) - np.array([3.0, -4.0]).reshape(2, 1, 1), axis=1)
    metrics = result.pop("metrics")
    assert metrics["epe"] == pytest.approx(error.mean(), rel=1e-5)
    assert metrics["px5"] == pytest.approx(100 * (error > 5).mean(), rel=1e-5)
    assert metrics["epe_occ"] == pytest.approx(error[:, 4, 5].mean(), rel=1e-5)
    assert metrics["s40_plus"] is None
    assert result == {
        "data": "final",
        "pairs": 4,
        "method": "head",
        "settings": {"tile": 32, "overlap": 0.7, "max_flow": None},
    }
    json.dumps(metrics, allow_nan=False)


def test_kitti_is_averaged_over_images_and_masked(
    tmp_path: Path, nano: mz.MidwayNetwork, shifted: list[dict[str, Any]]
) -> None:
    made = miniatures.kitti(tmp_path, "image_2")
    flow = "training/flow_occ/000000_10.png"
    pixels = np.full((*SIZE, 3), 2**15, np.uint16)
    pixels[:, :, 2] = 0
    pixels[:1, :2, 2] = 1  # two valid pixels that do not move: an error of 5
    (tmp_path / flow).write_bytes(miniatures.png(pixels))
    (files,) = evaluation_files("kitti", tmp_path).values()
    metrics = evaluate_flow(nano, files)["metrics"]
    second = made.content["training/flow_occ/000001_10.png"].reshape(-1, 2).astype(np.float64)
    second = second[~np.isnan(second).any(axis=1)]
    error = np.linalg.norm(second - [3, -4], axis=1)
    outlier = (error > 3) & (error > 0.05 * np.linalg.norm(second, axis=1))
    assert metrics["epe_per_image"] == pytest.approx((5 + error.mean()) / 2, rel=1e-5)
    assert metrics["fl_all"] == pytest.approx(100 * (2 + outlier.sum()) / (2 + len(second)), rel=1e-5)


def test_rows_of_methods(tmp_path: Path, nano: mz.MidwayNetwork) -> None:
    """With the real zero-shot flow, and its settings."""
    miniatures.flying_things(tmp_path / "FlyingThings3D")
    parts = evaluation_files("flying-things", tmp_path, passes=["clean"])
    assert list(parts) == ["flying_things_clean_test"]
    assert {len(files) for files in parts.values()} == {4}
    options: dict[str, Any] = {"size": 32, "seed": 3}
    rows = evaluate_parts(nano, parts, methods=("perturbation", "zero"), **options)
    assert [row["method"] for row in rows] == ["perturbation", "zero"]
    flow = truth(parts["flying_things_clean_test"])
    length = np.linalg.norm(flow, axis=1)
    assert rows[1]["metrics"]["epe"] == pytest.approx(np.nanmean(length), rel=1e-5)
    assert rows[0]["metrics"]["epe"] > 0
    assert rows[0]["settings"] == {**options, "tile": None, "overlap": 0.9, "max_flow": None}
    short = evaluate_parts(nano, parts, methods=["zero"], max_flow=5)[0]["metrics"]["epe"]
    assert short == pytest.approx(length[length < 5].mean(), rel=1e-5)
    text = table(rows).splitlines()
    assert len(text) == 4
    assert len({len(line) for line in text}) == 1
    cells = [cell.strip() for cell in text[3].split("|")[1:-1]]
    assert cells[:4] == ["flying_things_clean_test", "4", "zero", f"{np.nanmean(length):.3f}"]


def test_workers_read_the_same(tmp_path: Path, nano: mz.MidwayNetwork) -> None:
    miniatures.hd1k(tmp_path)
    (files,) = evaluation_files("hd1k", tmp_path).values()
    one, two = (evaluate_flow(nano, files, method="zero", batch_size=2, num_workers=n) for n in (0, 2))
    assert one == two


def test_sintel_submission(tmp_path: Path, nano: mz.MidwayNetwork, shifted: list[dict[str, Any]]) -> None:
    miniatures.sintel(tmp_path / "Sintel")
    parts = evaluation_files("sintel", tmp_path, split="test")
    out = tmp_path / "out"
    written = [path for files in parts.values() for path in write_submission(nano, files, out, form="sintel")]
    assert [path.relative_to(out).as_posix() for path in written] == [
        f"{name}/ambush_1/frame_{k:04d}.flo" for name in ("clean", "final") for k in (1, 2)
    ]
    content = written[0].read_bytes()
    assert content[:12] == b"PIEH" + struct.pack("<ii", SIZE[1], SIZE[0])
    values = np.frombuffer(content, "<f4", offset=12).reshape(*SIZE, 2)
    assert (values == [3, -4]).all()
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(written)
    calls = len(shifted)
    with pytest.raises(OutputExistsError):
        write_submission(nano, parts["sintel_final_test"], out, form="sintel")
    assert len(shifted) == calls
    write_submission(nano, parts["sintel_final_test"], out, form="sintel", overwrite=True)


def test_kitti_submission_is_whole_and_within_the_format(
    tmp_path: Path, nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniatures.kitti(tmp_path, "image_2")
    (files,) = evaluation_files("kitti-2015", tmp_path, split="test").values()
    far = torch.tensor([700.0, -700.0]).view(2, 1, 1).expand(2, *SIZE)

    def predict_flow(network: object, source: Any, target: Any, **options: Any) -> mz.results.FlowPrediction:
        return mz.results.FlowPrediction(flow=[far] * len(source), confidence=[far[:1]], method="head", grid=(1, 1))

    monkeypatch.setattr(module, "predict_flow", predict_flow)
    written = write_submission(nano, files, tmp_path / "out", form="kitti")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "flow/000000_10.png",
        "flow/000001_10.png",
    ]
    flow = read_flow(written[0])
    assert flow[0].unique().tolist() == [511.984375]
    assert flow[1].unique().tolist() == [-511.984375]
    far = far * float("nan")
    with pytest.raises(InputError, match="000000_10 is not finite"):
        write_submission(nano, files, tmp_path / "other", form="kitti")


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, nano: mz.MidwayNetwork) -> None:
    miniatures.sintel(tmp_path)
    (test,) = evaluation_files("sintel", tmp_path, split="test", passes=["clean"]).values()
    with pytest.raises(InputError, match="not published"):
        evaluate_flow(nano, test, method="zero")
    with pytest.raises(InputError, match="method='raft'"):
        evaluate_flow(nano, test, method="raft")
    with pytest.raises(InputError, match="no pair"):
        evaluate_flow(nano, [], method="zero")
    with pytest.raises(ConfigError, match="form"):
        write_submission(nano, test, tmp_path / "out", form="hd1k")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no data set 'middlebury'"):
        evaluation_files("middlebury", tmp_path)
    with pytest.raises(ConfigError, match="Did you mean"):
        evaluation_files("sintel", tmp_path, passes=["albedo"])
    with pytest.raises(MissingFileError, match="nowhere"):
        evaluation_files("sintel", tmp_path / "nowhere")


def test_the_head_is_evaluated_on_tiles(tmp_path: Path) -> None:
    miniatures.sintel(tmp_path)
    torch.manual_seed(2)
    network = mz.create_model("midway_nano", flow_head=True)
    (files,) = evaluation_files("sintel", tmp_path, split="subtrain", passes=["final"]).values()
    result = evaluate_flow(network, files, tile=(8, 16), overlap=0.5, batch_size=3)
    assert result["method"] == "head"
    errors = []
    for entry in files:
        sample = read_sample(entry)
        assert sample.flow is not None
        found = mz.predict_flow(network, sample.source, sample.target, method="head", tile=(8, 16), overlap=0.5)
        assert isinstance(found.flow, torch.Tensor)
        errors.append(torch.hypot(*(found.flow[0] - sample.flow)).mean())
    assert result["metrics"]["epe"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    metrics = result["metrics"]
    assert metrics["epe_noc"] != metrics["epe_occ"]
