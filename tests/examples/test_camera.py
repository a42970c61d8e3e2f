"""The example for cameras, on a file."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from midway_zoo.inference.video_writer import write_video

pytest.importorskip("av")
EXAMPLE = Path(__file__).parents[2] / "examples" / "camera.py"


@pytest.fixture
def camera() -> ModuleType:
    spec = importlib.util.spec_from_file_location("camera", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_source_that_is_not_there_is_one_line(camera: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        camera.main(["nothing.mp4", "--device", "cpu"])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("camera.py: error: ")


@pytest.mark.parametrize("flow", [False, True])
def test_a_line_per_pair_of_frames(
    camera: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], flow: bool
) -> None:
    frames = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    write_video(tmp_path / "clip.mp4", list(frames), fps=10)
    camera.main([str(tmp_path / "clip.mp4"), "--device", "cpu", *(["--flow"] if flow else [])])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0.10", "0.20", "0.30"]
    assert all(("px" in line) == flow for line in lines)
