"""Commands that read features out."""

import json
from pathlib import Path

import pytest
from PIL import Image

from midway_zoo.cli import main
from midway_zoo.inference.video import read_video
from midway_zoo.readouts.davis import davis_palette
from tests.readouts.folders import write_classes, write_davis

RANDOM = ("midway_nano", "--random")
TIMM = ("timm:vit_tiny_patch16_224", "--random")


@pytest.mark.parametrize("model", [RANDOM, TIMM], ids=["zoo", "timm"])
def test_eval_knn(tmp_path: Path, capsys, model) -> None:
    write_classes(tmp_path / "data", 4)
    arguments = ["eval", "knn", *model, "--root", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
    out = tmp_path / "knn.json"
    assert main([*arguments, "--k", "1,5", "--size", "64" if model is RANDOM else "224", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| k | top1 % |" in printed
    assert "3 classes, 9 train images, 3 val images" in printed
    found = json.loads(out.read_text())
    assert found["model"] == model[0]
    assert found["random"] is True
    assert set(found["k"]) == {"1", "5"}
    assert main([*arguments, "-o", str(out)]) == 1
    assert "--force" in capsys.readouterr().err


def test_eval_davis(tmp_path: Path, capsys) -> None:
    write_davis(tmp_path / "DAVIS", {"one": 1, "two": 2})
    out, masks = tmp_path / "davis.json", tmp_path / "masks"
    arguments = ["eval", "davis", *RANDOM, "--root", str(tmp_path / "DAVIS"), "--side", "48", "--radius", "3"]
    assert main([*arguments, "-o", str(out), "--masks", str(masks)]) == 0
    printed = capsys.readouterr().out
    assert "| mean over objects |       3 |" in printed
    found = json.loads(out.read_text())
    assert set(found["objects"]["two"]) == {"1", "2"}
    assert found["mean"]["J&F"] == pytest.approx((found["mean"]["J"] + found["mean"]["F"]) / 2)
    assert len(list((masks / "two").glob("*.png"))) == 5
    assert main([*arguments, "--masks", str(masks)]) == 1
    assert "not empty" in capsys.readouterr().err


def test_propagate_writes_palettes_or_a_film(tmp_path: Path, capsys) -> None:
    write_davis(tmp_path, {"one": 1})
    frames, mask = tmp_path / "JPEGImages/480p/one", tmp_path / "Annotations/480p/one/00000.png"
    arguments = ["propagate", *RANDOM, str(frames), str(mask), "--side", "48", "-o"]
    assert main([*arguments, str(tmp_path / "masks")]) == 0
    assert "5 frames, labels [0, 1]" in capsys.readouterr().out
    written = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in written] == [f"{index:05d}.png" for index in range(5)]
    with Image.open(written[3]) as image:
        assert image.mode == "P"
        assert bytes(image.getpalette())[:768] == davis_palette()
    assert main([*arguments, str(tmp_path / "masks")]) == 1
    assert "holds pictures" in capsys.readouterr().err
    film = tmp_path / "film.mp4"
    assert main([*arguments, str(film)]) == 0
    shown = list(read_video(film))
    assert len(shown) == 5
    assert shown[1].pts_seconds == pytest.approx(0.1, abs=1e-3)
    assert main([*arguments, str(mask)]) == 1
    assert "is an input" in capsys.readouterr().err
    (tmp_path / "taken.png").write_bytes(mask.read_bytes())
    assert main([*arguments, str(tmp_path / "taken.png")]) == 1
    assert "is a file" in capsys.readouterr().err
    assert main(["propagate", *RANDOM, str(film), str(mask), "--side", "48", "-o", str(tmp_path / "again")]) == 0
    assert len(list((tmp_path / "again").iterdir())) == 5
