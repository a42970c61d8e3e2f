"""``midway-zoo extract``: what it prints, its exit codes, how it is stopped."""

import json
from pathlib import Path

import pytest
from PIL import Image

from midway_zoo.cli import main
from midway_zoo.extract import Extracted, work

pytest.importorskip("pyarrow")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        Image.effect_noise((48, 32), 60 + index).convert("RGB").save(folder / f"{index}.png")
    return folder


def extract(*arguments: object) -> int:
    return main(["extract", *map(str, arguments), "--size", "32", "--blocks", "none", "--device", "cpu"])


def test_all_there(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing on stderr without a terminal; the second time there is nothing to do."""
    out = tmp_path / "out"
    for _ in range(2):
        assert extract(pictures, out) == 0
        said = capsys.readouterr()
        assert said.out == f"3 of 3 items, 3 frames, in {out}\n"
        assert said.err == ""
    assert Extracted(out).facts["model"] == "midway_nano.scenes"
    assert json.loads((out / "index.json").read_text())["items"] == 3
    assert Extracted(out)["1.png"].keys() == {"cls"}


def test_some_failed(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "3.png").write_bytes(b"none")
    assert extract(pictures, tmp_path / "out", "--format", "safetensors") == 3
    assert "3 of 4 items, 1 failed (failures.jsonl)" in capsys.readouterr().out
    (pictures / "3.png").write_bytes((pictures / "0.png").read_bytes())
    assert extract(pictures, tmp_path / "out", "--format", "safetensors", "--retry-failed", "-q") == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_refused(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extract(pictures, tmp_path / "out", "-q") == 0
    assert extract(pictures, tmp_path / "out", "--dtype", "float16") == 1
    assert "dtype: 'float32' there, 'float16' now" in capsys.readouterr().err
    assert extract(pictures, tmp_path / "out", "--workers", "2") == 1
    assert 'engine="ray"' in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        extract(pictures, tmp_path / "out", "--what", "features", "--form", "csv")
    assert stopped.value.code == 2


def test_interrupted(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(work, "_images", interrupt)
        assert extract(pictures, tmp_path / "out") == 130
    assert "interrupted: 0 of 3 items are settled" in capsys.readouterr().err
    assert extract(pictures, tmp_path / "out") == 0
