"""Real footage through the command line: a full-size checkpoint, a highway, pictures included."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.inference.video import read_video


def frames(video: Path, folder: Path) -> list[Path]:
    paths = []
    for frame in read_video(video, stride=100):
        path = folder / f"{frame.index}.png"
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(path)
        paths.append(path)
    return paths[:2]


def test_highway(formula_vits: Path, shared: Path, tmp_path: Path, capsys) -> None:
    video = shared / "media/drive_highway.mp4"
    a, b = frames(video, tmp_path)
    checkpoint = str(formula_vits)

    features = ["features", checkpoint, str(a), str(b), "-o", str(tmp_path / "f.safetensors")]
    assert main([*features, "--picture", str(tmp_path / "pca.png")]) == 0
    saved = load_file(tmp_path / "f.safetensors")
    assert saved["block11"].shape == (2, 384, 14, 25)
    assert Image.open(tmp_path / "pca.png").size == (2 * 400 + 8, 224)  # a gap between the two
    network = mz.load_checkpoint(checkpoint)
    assert torch.equal(saved["cls"], mz.extract_features(network, [a, b], batch_size=8).cls)

    assert main(["motion", checkpoint, str(video), "--stride", "20", "-o", str(tmp_path / "m.safetensors")]) == 0
    motion = load_file(tmp_path / "m.safetensors")
    assert motion["tokens"].shape == (11, 10, 192)
    assert torch.allclose(motion["pts_seconds"][:, 1] - motion["pts_seconds"][:, 0], torch.tensor(0.8).double())

    flow = ["flow", checkpoint, str(a), str(b), "--size", "112", "-o", str(tmp_path / "flow.flo")]
    assert main([*flow, "--picture", str(tmp_path / "flow.png")]) == 0
    assert mz.flow.read_flow(tmp_path / "flow.flo").shape == (2, 540, 960)
    assert Image.open(tmp_path / "flow.png").size == (960, 540 + 52)  # the legend below
    assert "wrote" in capsys.readouterr().out


def test_every_clip_decodes_upright_and_in_order(shared: Path) -> None:
    for name, count, size in (
        ("drive_highway", 221, (540, 960)),
        ("drive_traffic", 38, (720, 1280)),
        ("nasa", 325, (180, 320)),
    ):
        decoded = [
            (frame.pts_seconds, tuple(frame.image.shape[1:])) for frame in read_video(shared / f"media/{name}.mp4")
        ]
        assert len(decoded) == count, name
        assert {shape for _, shape in decoded} == {size}, name
        assert [seconds for seconds, _ in decoded] == sorted(seconds for seconds, _ in decoded), name
