"""examples/onnx_inference.py runs exported files, and needs neither torch nor this package for it."""

import ast
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import midway_zoo as mz


def picture(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def test_it_imports_little(example: ModuleType) -> None:
    tree = ast.parse(Path(str(example.__file__)).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.startswith(("torch", "timm", "midway_zoo"))]


def test_features_of_an_image(
    example: ModuleType, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example.main([str(encoder_file), str(picture(tmp_path / "a.png", 0))])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("midway_nano, encoder, fp32")
    assert lines[1].startswith("cls  (1, 24)")
    assert lines[-1].startswith("block3  (1, 24, 4, 6)")


def test_a_stream_over_a_folder(
    example: ModuleType, stream_file: Path, tiny: mz.MidwayNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [picture(tmp_path / f"{index}.png", index) for index in range(3)]
    example.main([str(stream_file), str(tmp_path)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["1.png", "2.png"]
    session, facts = example.open_model(str(stream_file), ["CPUExecutionProvider"])
    images = np.concatenate([example.read(path, facts) for path in frames])
    wanted = mz.infer_motion_latents(tiny, list(images.transpose(0, 2, 3, 1))).pooled
    found = np.concatenate([motion["pooled"] for motion in example.stream(session, facts, frames)])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-3)
