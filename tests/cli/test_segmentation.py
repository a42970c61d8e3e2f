"""``midway-zoo segment``: masks, overlays, videos, refusals."""

from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.files import write_png, write_safetensors
from midway_zoo.inference.image_files import read_labels
from midway_zoo.inference.images import to_tensor
from midway_zoo.inference.video_writer import write_video
from midway_zoo.readouts.segmentation import Segmenter, SegmenterConfig
from midway_zoo.readouts.segmenter_files import HEAD


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``train export`` writes it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    network = mz.create_model(
        "midway_nano", embed_dim=24, depth=4, feature_blocks=(0, 1, 2, 3), midway_depth=1, forward_depth=2
    )
    network.save_pretrained(folder)
    made = Segmenter(network, SegmenterConfig(classes=3, crop=32, names=("sky", "sea", "land")))
    torch.nn.init.normal_(made.head.weight)
    tensors = {key: value for key, value in made.state_dict().items() if not key.startswith("network.")}
    write_safetensors(folder / HEAD, tensors, {"segmenter": made.config.to_dict(), "backbone": None})
    return folder


def pictures(folder: Path, count: int = 2) -> list[Path]:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        write_png(path, torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8))
    return paths


def test_masks_of_images(export: Path, tmp_path: Path, capsys) -> None:
    paths = pictures(tmp_path / "in")
    out = tmp_path / "out"
    asked = ["segment", str(export), *map(str, paths), "-o", str(out), "--device", "cpu"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "2 masks" in told
    assert "sea" in told
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "0_overlay.png", "1.png", "1_overlay.png"]
    expected = mz.load_segmenter(export).predict(to_tensor(paths[0])).labels[0]
    assert (read_labels(out / "0.png") == expected.numpy()).all()
    assert main(asked) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*asked, "--force", "--no-overlays", "--size", "full"]) == 0


def test_a_video_and_a_folder_of_frames(export: Path, tmp_path: Path) -> None:
    frames = [torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8) for _ in range(4)]
    write_video(tmp_path / "in.mp4", frames, fps=5)
    assert main(["segment", str(export), str(tmp_path / "in.mp4"), "-o", str(tmp_path / "out.mp4")]) == 0
    shown = list(mz.read_video(tmp_path / "out.mp4"))
    assert [round(frame.pts_seconds, 3) for frame in shown] == [0, 0.2, 0.4, 0.6]
    assert shown[0].image.shape == (3, 32, 48)
    pictures(tmp_path / "frames", 3)
    assert main(["segment", str(export), str(tmp_path / "frames"), "-o", str(tmp_path / "frames.mp4")]) == 0
    assert len(list(mz.read_video(tmp_path / "frames.mp4"))) == 3
    assert main(["segment", str(export), str(tmp_path / "frames"), "-o", str(tmp_path / "masks")]) == 0
    assert (tmp_path / "masks" / "2.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{export}", "{in}/0.png", "{in}/copy/0.png", "-o", "{out}"], "two images would be written to"),
        (["{export}", "{in}/film.mov", "-o", "{out}"], "-o film_classes.mp4"),
        (["{export}", "{in}/none.png", "-o", "{out}"], "there is no"),
        (["{export}", "{in}/0.png", "{in}/1.png", "-o", "{out}.mp4"], "one video"),
        (["{in}", "{in}/0.png", "-o", "{out}"], "no checkpoint of a run"),
        (["{in}/nowhere", "{in}/0.png", "-o", "{out}"], "there is no"),
        (["{export}", "{in}/0.png", "-o", "{out}", "--alpha", "2"], "--alpha 2"),
        (["{export}", "{in}/0.png", "-o", "{out}", "--size", "3x4"], "--size"),
    ],
)
def test_refused(export: Path, tmp_path: Path, capsys, arguments, message) -> None:
    pictures(tmp_path / "in")
    pictures(tmp_path / "in" / "copy")
    (tmp_path / "in" / "film.mov").write_bytes(b"")
    places = {"export": export, "in": tmp_path / "in", "out": tmp_path / "out"}
    assert main(["segment", *(argument.format(**places) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
