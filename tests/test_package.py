"""The package as a whole: its doors, its size, its documents."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.config import ARCHITECTURES
from midway_zoo.manifest import BUNDLED, load_manifest
from tests.weights.released_files import write_released

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"(<!-- needs: \w+ -->\n)?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_reaches_no_trainer_no_analysis_and_no_extra() -> None:
    loaded = modules_after("import midway_zoo")
    assert not {name for name in loaded if name.startswith(("midway_zoo.train", "midway_zoo.analysis"))}
    assert not {"av", "h5py", "omegaconf", "accelerate"} & (loaded - modules_after("import timm"))


def lines_after(statement: str) -> int:
    """Physical lines of this package's modules that are loaded after a statement."""
    return lines_of(modules_after(statement))


def lines_of(loaded: set[str]) -> int:
    names = [name for name in loaded if name.split(".")[0] == "midway_zoo"]
    return sum(len(Path(find_spec(name).origin).read_text().splitlines()) for name in names)


def test_library_is_thin() -> None:
    assert lines_after("import midway_zoo") < 500  # timm, and with it the encoders, is not imported for it
    assert 500 < lines_after("import timm, midway_zoo") <= 3000
    assert lines_after("from midway_zoo import *") > lines_after("import midway_zoo")


def test_bundled_weights_and_the_three_functions_load_little() -> None:
    """No reader of pickles, no client of the Hub, no video: what a program does not use, it does not pay for."""
    statement = """
import torch, midway_zoo as mz
model, image = mz.create_model("midway_nano.scenes", pretrained=True), torch.rand(3, 64, 64)
mz.extract_features(model, image)
mz.infer_motion_latent(model, image, image)
for method in ("head", "perturbation"):
    mz.predict_flow(model, image, image, method=method)
"""
    loaded = modules_after(statement)
    assert {"midway_zoo.inference.tiles", "midway_zoo.inference.perturbation"} <= loaded
    ours = {name.removeprefix("midway_zoo.weights.") for name in loaded if name.startswith("midway_zoo.weights.")}
    assert ours == {"load", "registry"}
    assert not {"midway_zoo.inference.video", "midway_zoo.files", "midway_zoo.visualize"} & loaded
    assert not {"midway_zoo.inference.refinement", "midway_zoo.flow.consistency"} & loaded
    assert lines_of(loaded) <= 4350


@pytest.mark.parametrize(
    "before",
    [
        "import midway_zoo, timm",
        "import timm, midway_zoo",
        # as transformers and others ask whether timm is installed
        "import midway_zoo, importlib.util; importlib.util.find_spec('timm'); import timm",
        "import midway_zoo.models.network, timm",
    ],
)
def test_encoders_are_registered_whenever_timm_is_imported(before: str) -> None:
    code = f"{before}; assert timm.is_model('midway_vits'); assert timm.__spec__.loader is timm.__loader__"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_listed_without_torch() -> None:
    assert not {"torch", "timm"} & modules_after("import midway_zoo; midway_zoo.list_models()")
    assert not {"torch", "timm"} & modules_after("from midway_zoo.cli import main; main(['list'])")


def test_every_public_name_is_there_and_documented() -> None:
    for name in mz.__all__:
        assert name == "__version__" or getattr(mz, name).__doc__, name


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_readme_block(index: int, tmp_path, monkeypatch) -> None:
    needs, code = BLOCKS[index]
    if "network" in needs:  # tests/weights/hub does what it shows, on a loopback server
        compile(code, f"README block {index}", "exec")
        return
    monkeypatch.chdir(tmp_path)
    if needs:
        write_released(tmp_path / "midway-bdd-vit-s-ep300.pth", ARCHITECTURES["midway_nano"])
    exec(compile(code, f"README block {index}", "exec"), {})  # its asserts are its own comments' shapes, below


def test_readme_comments_tell_the_truth() -> None:
    """Every `expression  # (shape), ...` line of README's API block."""
    code = next(code for _, code in BLOCKS if "extract_features" in code)
    names: dict[str, object] = {}
    checked = 0
    for line in code.splitlines():
        expression, _, comment = line.partition("  # ")
        shape = re.match(r"\((\d+(?:, \d+)*,?)\)", comment)
        if shape and "=" not in expression.split("(")[0]:
            value = eval(expression, names)  # noqa: S307
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            assert found == tuple(int(side) for side in shape[1].split(",") if side.strip()), line
            checked += 1
        else:
            exec(line, names)
    assert checked == 6


def test_documents_agree_with_the_manifest() -> None:
    readme, card = (ROOT / "README.md").read_text(), (ROOT / "MODEL_CARD.md").read_text()
    for name, entry in load_manifest()["models"].items():
        for text in (readme, card):
            row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
            assert entry["file"] in row
            assert f"{entry['training_data']}" in row
            if entry["format"] == BUNDLED:
                assert "package" in text
                continue
            assert str(entry["epochs"]) in row
            assert entry["repo_id"] in text
        ours = entry["format"] == BUNDLED
        for metric in entry["metrics"]:
            assert metric["source"].startswith("measured by this project" if ours else "reported by the authors")
            value = metric["value"]
            assert re.search(rf"\b({value:.1f}|{value:g})\b", card), (name, metric)


def test_manifest_is_where_the_wheel_takes_it_from() -> None:
    assert json.loads((ROOT / "weights_manifest.json").read_text()) == load_manifest()
