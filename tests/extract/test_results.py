"""What is extracted: the same as by the functions for one clip, every frame encoded once."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import midway_zoo as mz
from midway_zoo.extract import Extracted, Settings
from midway_zoo.extract.compute import Extractor
from tests.extract.conftest import drifting
from tests.extract.runs import assert_same, failures, rows, run
from tests.models.test_flow_head import TINY

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_clips(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path, form: str) -> None:
    """Features, motion and times, over the borders of chunks."""
    summary = run(nano, clips, tmp_path / "out", blocks=(5, 11), format=form)
    assert (summary.items, summary.failed, summary.planned, summary.frames) == (4, 0, 4, 28)
    extracted = Extracted(tmp_path / "out")
    assert sorted(extracted.items()) == ["a1.mp4", "a10.mp4", "a2.mp4", "more/b.mp4"]
    frames = list(mz.read_video(clips / "a10.mp4"))
    features = mz.extract_features(nano, [frame.image for frame in frames], blocks=(5, 11), size=32)
    motion = mz.infer_motion_latents(nano, clips / "a10.mp4", size=32)
    found = extracted["a10.mp4"]
    close(found["cls"], features.cls)
    close(found["block5"], features.maps[5])
    close(found["block11"], features.maps[11])
    close(found["motion"], motion.tokens)
    assert torch.equal(found["pair_pts_seconds"], motion.pts_seconds)
    assert found["pts_seconds"].tolist() == [frame.pts_seconds for frame in frames]
    assert found["concealed"].dtype == torch.bool
    assert dict(extracted).keys() == set(extracted.items())


def test_any_number_of_readers_gives_the_same(
    nano: mz.MidwayNetwork, clips: Path, pictures: Path, tmp_path: Path
) -> None:
    """Bit for bit, and in the same order, of clips and of pictures; a broken one among them is listed."""
    shutil.copytree(clips, tmp_path / "in")
    shutil.copytree(pictures, tmp_path / "in" / "pictures")
    (tmp_path / "in" / "a3.mp4").write_bytes(b"no video")
    for readers in (1, 3):
        summary = run(nano, tmp_path / "in", tmp_path / f"{readers}", what=("features",), running={"readers": readers})
        assert (summary.items, summary.failed) == (11, 1)
    one, three = rows(tmp_path / "1"), rows(tmp_path / "3")
    assert_same(three, one)
    assert list(three) == list(one)
    assert failures(tmp_path / "3").keys() == {"a3.mp4"}


def test_zero_shot_flow(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    run(nano, clips / "a2.mp4", tmp_path / "out", what=("flow", "motion"), size=32)
    flow = list(mz.predict_flows(nano, clips / "a2.mp4", size=32))
    found = Extracted(tmp_path / "out")["a2.mp4"]
    close(found["flow"], torch.cat([one.flow for one in flow]))
    close(found["confidence"], torch.cat([one.confidence for one in flow]))
    assert "cls" not in found


def test_every_frame_is_encoded_once(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path, monkeypatch) -> None:
    """For all three together, where the flow sees the same picture."""
    seen: list[int] = []
    encode = nano.encode

    def counted(images: Tensor, **options: object) -> list[Tensor]:
        seen.append(len(images))
        return encode(images, **options)

    monkeypatch.setattr(nano, "encode", counted)
    run(nano, clips / "a2.mp4", tmp_path / "out", what=("features", "motion", "flow"), size=32)
    assert sum(seen) == 7


def test_flow_of_the_head(clips: Path, tmp_path: Path) -> None:
    """In tiles of its own size, whatever size the features are of; alone and beside them the same."""
    torch.manual_seed(2)
    network = mz.MidwayNetwork(TINY).eval()
    expected = torch.cat([one.flow for one in mz.predict_flows(network, clips / "a2.mp4", size="full")])
    for what in (("flow",), ("features", "flow")):
        out = tmp_path / "-".join(what)
        run(network, clips / "a2.mp4", out, what=what, size=32, flow_size="full")
        close(Extracted(out)["a2.mp4"]["flow"], expected)


def test_pictures(nano: mz.MidwayNetwork, pictures: Path, tmp_path: Path) -> None:
    """Each an item, of any size, in batches."""
    summary = run(nano, pictures, tmp_path / "out", what=("features",))
    assert (summary.items, summary.frames) == (7, 7)
    found = Extracted(tmp_path / "out")["dogs/6.png"]
    expected = mz.extract_features(nano, pictures / "dogs/6.png", blocks=(11,), size=32)
    close(found["cls"], expected.cls)
    close(found["block11"], expected.maps[11])
    assert "pts_seconds" not in found


def test_pictures_as_clips(nano: mz.MidwayNetwork, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, frame in enumerate(drifting(6)):
        Image.fromarray(frame).save(tmp_path / "in" / f"{index}.png")
    run(nano, tmp_path / "in", tmp_path / "out", stride=2)
    expected = mz.infer_motion_latents(nano, tmp_path / "in", stride=2, size=32)
    close(Extracted(tmp_path / "out")["."]["motion"], expected.tokens)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_hold_the_same(nano: mz.MidwayNetwork, clips: Path, pictures: Path, tmp_path: Path, mode: str) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / ("x.tar" if mode == "w" else "x.tar.gz"), mode) as archive:
        archive.add(clips / "a2.mp4", "a2.mp4")
        archive.add(pictures / "dogs" / "5.png", "5.png")
    run(nano, tmp_path / "tars", tmp_path / "out", what=("features",))
    extracted = {key.partition("::")[2]: tensors for key, tensors in Extracted(tmp_path / "out")}
    run(nano, clips / "a2.mp4", tmp_path / "plain", what=("features",))
    assert torch.equal(extracted["a2.mp4"]["cls"], Extracted(tmp_path / "plain")["a2.mp4"]["cls"])
    assert extracted["5.png"]["cls"].shape == (1, nano.config.embed_dim)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_that_are_something_else_are_named(nano: mz.MidwayNetwork, tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).bytes(3000)
    contents = {"pointer.png": POINTER, "none.png": b"", "page.jpg": b"<!DOCTYPE html><html>", "noise.png": noise}
    contents |= {"pointer.mp4": POINTER, "none.mp4": b"", "noise.mp4": noise}
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / ("x.tar" if mode == "w" else "x.tar.gz"), mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    run(nano, tmp_path / "in", tmp_path / "out", what=("features",))
    found = {key.partition("::")[2]: reason for key, reason in failures(tmp_path / "out").items()}
    assert found.keys() == contents.keys()
    assert_named(found)


def test_remote_files_that_are_something_else_are_named(nano: mz.MidwayNetwork, tmp_path: Path) -> None:
    memory, found = fsspec.filesystem("memory"), {}
    try:
        memory.pipe({"/in/a/pointer.png": POINTER, "/in/b/none.png": b"", "/in/c/pointer.mp4": POINTER})
        for name in ("a/pointer.png", "b/none.png", "c/pointer.mp4"):
            run(nano, f"memory://in/{name}", tmp_path / name, what=("features",))
            found[Path(name).name] = next(iter(failures(tmp_path / name).values()))
    finally:
        memory.rm("/in", recursive=True)
    assert_named(found)


def assert_named(reasons: dict[str, str]) -> None:
    """Of files whose names say what they are."""
    said = {"pointer": "git lfs pull", "none": "is empty", "page": "download link", "noise": ""}
    for name, reason in reasons.items():
        assert name in reason
        assert said[Path(name).stem] in reason
        assert "Error:" not in reason
        assert "midway_zoo_" not in reason  # a temporary copy's name


def test_from_and_to_urls(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe("/in/a2.mp4", (clips / "a2.mp4").read_bytes())
        for _ in range(2):  # the second time there is nothing to do
            summary = run(nano, "memory://in", "memory://out", format="parquet")
            assert (summary.items, summary.failed) == (1, 0)
        assert summary.new.items == 0
        run(nano, clips / "a2.mp4", tmp_path / "out")
        assert_same(rows("memory://out"), rows(tmp_path / "out"))
    finally:
        for folder in ("/in", "/out"):
            if memory.exists(folder):
                memory.rm(folder, recursive=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", ["parquet", "safetensors"])
def test_other_dtypes(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path, dtype: str, form: str) -> None:
    """The caller's network stays as it is."""
    run(nano, clips / "a1.mp4", tmp_path / "out", dtype=dtype, format=form)
    found = Extracted(tmp_path / "out")["a1.mp4"]
    kept = torch.float32 if (form, dtype) == ("parquet", "bfloat16") else getattr(torch, dtype)
    assert found["cls"].dtype == found["motion"].dtype == kept
    assert found["pts_seconds"].dtype == torch.float64
    assert nano.dtype == torch.float32
    expected = mz.extract_features(nano, [frame.image for frame in mz.read_video(clips / "a1.mp4")], size=32).cls
    assert torch.nn.functional.cosine_similarity(found["cls"].float(), expected).min() > 0.99


def test_parquet_is_read_by_anyone(nano: mz.MidwayNetwork, clips: Path, tmp_path: Path) -> None:
    """One schema, lists of numbers with their shapes, and metadata that say how it was made."""
    dataset = pytest.importorskip("pyarrow.dataset")
    run(nano, clips, tmp_path / "out")
    table = dataset.dataset(tmp_path / "out" / "data", format="parquet").to_table()
    row = table.slice(0, 1).to_pylist()[0]
    assert row["cls_shape"] == [row["frames"], nano.config.embed_dim]
    assert len(row["cls"]) == row["frames"] * nano.config.embed_dim
    about = json.loads(table.schema.metadata[b"midway_zoo"])["facts"]
    assert about["settings"]["size"] == 32
    assert len(about["weights_sha256"]) == 64
    assert about["midway_zoo"] == mz.__version__


def test_chunks_do_not_grow_with_the_picture(nano: mz.MidwayNetwork) -> None:
    """A row of large flow has fewer frames."""
    extractor = Extractor(nano, Settings(what=("flow",), chunk=64, size=64))
    chunk = extractor.look(8).chunk
    assert (chunk(64, 64), chunk(1080, 1920)) == (64, 4)


def test_clips_too_short_for_motion_fail(nano: mz.MidwayNetwork, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.png").write_bytes((pictures / "cats" / "1.png").read_bytes())
    assert run(nano, tmp_path / "in", tmp_path / "out").failed == 1
    assert "at least two" in failures(tmp_path / "out")["."]
