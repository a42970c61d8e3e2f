"""Every script of examples/ starts, so that what it takes from the package is still there."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.inference.video_writer import TimedWriter

EXAMPLES = Path(__file__).parents[2] / "examples"
# Parts of run.py and gate.py, and a page that begins to serve.
PARTS = {"curves.py", "footage.py", "probing.py", "report.py", "rows.py", "stages.py", "tracking.py", "app.py"}
SCRIPTS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py") if path.name not in PARTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str((EXAMPLES / script).parent))  # as python does for a script
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


def test_textures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = tmp_path / "clip.mp4"
    generator = torch.Generator().manual_seed(0)
    with TimedWriter(video) as writer:
        for index in range(3):
            frame = torch.randint(256, (3, 48, 64), generator=generator, dtype=torch.uint8)
            writer.add(frame, index / 25, (index + 1) / 25)
    out = tmp_path / "textures"
    script = runpy.run_path(str(EXAMPLES / "miniature" / "textures.py"))
    for name, few in (("LEAVES", 2), ("NOISE", 1), ("SIDE", 32)):
        monkeypatch.setitem(script["main"].__globals__, name, few)
    monkeypatch.setattr(sys, "argv", ["textures.py", str(out), str(video)])
    assert script["main"]() == 0
    pictures = sorted(out.iterdir())
    assert [path.name.split("0")[0] for path in pictures] == ["clip_"] * 3 + ["leaves"] * 2 + ["noise"]
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (32, 32)
            assert np.asarray(image).std() > 5


def test_a_run_that_was_stopped_is_told_what_goes_on(tmp_path: Path) -> None:
    validated = runpy.run_path(str(EXAMPLES / "segmentation_scenes.py"))["validated"]
    assert validated(tmp_path, {"step": 100, "validation": {"mIoU": 0.5}}, 100) == 0.5
    for step, remedy in ((40, "the same command goes on"), (100, "delete the folder")):
        with pytest.raises(SystemExit, match=remedy):
            validated(tmp_path, {"step": step, "validation": {}}, 100)
