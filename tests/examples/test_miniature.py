"""The miniature's whole way with budgets of two steps, and its table from made-up results."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.train.loop import TrainingDivergedError
from tests.train.conftest import TINY_NETWORK

MINIATURE = Path(__file__).parents[2] / "examples" / "miniature"
MODULES = ("run", "rows", "stages", "tracking", "probing", "report", "curves", "footage")
SMALL = ("batch_size=2", "num_workers=0")
ASKED = ["--preset", "tiny", "--seeds", "0"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The command, with a preset "tiny"."""
    monkeypatch.syspath_prepend(str(MINIATURE))
    import rows
    import run
    import stages

    precision = torch.get_float32_matmul_precision()
    steps = ("schedule_steps=2", "save_every=1", "keep_every=1")
    tiny = rows.Budget(
        pretrain=(*TINY_NETWORK, *SMALL, *steps, "views.local_crops=0"),
        segmentation=(*SMALL, "schedule_steps=1", "data.val_scenes=4"),
        flow=(*SMALL, "schedule_steps=1", "validation.scenes=2"),
        pairs=2,
        clips=1,
        draws=1,
        probed=40,
        media_frames=2,
        frames=2,
        points=2,
    )
    monkeypatch.setitem(rows.BUDGETS, "tiny", tiny)
    monkeypatch.setattr(stages, "COURSE", (50,))
    yield run
    torch.set_float32_matmul_precision(precision)
    for name in MODULES:
        sys.modules.pop(name, None)


def result(out: Path, name: str) -> dict[str, Any]:
    """results/NAME.json."""
    loaded: dict[str, Any] = json.loads((out / "results" / f"{name}.json").read_text())
    return loaded


def test_whole_way(run, tmp_path, capsys) -> None:
    import stages

    footage = tmp_path / "footage"
    footage.mkdir()
    for number in range(2):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(
            footage / f"{number}.png"
        )
    out = tmp_path / "out"
    asked = [*ASKED, "--out", str(out)]

    with pytest.MonkeyPatch.context() as patch:  # stopped after the first step
        fit = stages.fit
        patch.setattr(stages, "fit", lambda task: fit(_short(task)))
        assert run.main([*asked, "--rows", "full", "--stages", "pretrain"]) == 3
    assert not list((out / "results").glob("*.json"))
    assert (
        run.main([*asked, "--rows", "full", "--stages", "pretrain,probe,flow,course,media", "--media", str(footage)])
        == 0
    )
    assert run.main([*asked, "--rows", "random", "--stages", "probe,segmentation,tracking"]) == 0

    full, random = result(out, "full-0")["stages"], result(out, "random-0")["stages"]
    assert full["pretrain"]["count"] == 4
    assert full["pretrain"]["command"].startswith("midway-zoo train pretrain --recipe ")
    assert full["course"]["figures"]["50_step"] == 1
    assert full["probe"]["figures"]["pairs"] == 8
    assert full["probe"]["figures"]["zero_epe"] == random["probe"]["figures"]["zero_epe"] > 0
    assert full["course"]["figures"]["50_probe_epe"] > 0
    assert 0 <= random["segmentation"]["figures"]["mIoU_backward"] <= 100
    assert 100 / 26 < random["segmentation"]["figures"]["background_mIoU"] < 50  # one of 13 classes, or of fewer
    assert {"similar_clip_pck_8", "clip_pck_8"} <= random["tracking"]["figures"].keys()
    assert "| (background everywhere) |" in (out / "table.md").read_text()
    assert full["course"]["figures"]["50_zero_pck_8"] == random["tracking"]["figures"]["zero_pck_8"]
    assert full["flow"]["figures"]["translation_epe"] < full["flow"]["figures"]["zero_epe"]
    assert full["media"]["figures"]["translation_epe_footage"] < full["media"]["figures"]["zero_epe_footage"]
    assert "initial=full" in full["flow"]["command"]
    assert full["flow"]["machine"]["torch"] == torch.__version__

    text = capsys.readouterr().out
    assert "Missing: full-0 segmentation, full-0 frozen, full-0 tracking." in text
    assert "Missing: random-0 flow, random-0 frozen." in text
    assert (out / "table.md").read_text() in text
    with Image.open(out / "curves.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24) or ()) > 5

    with pytest.MonkeyPatch.context() as patch:  # what is there is not done again
        patch.setattr(stages, "STAGES", dict.fromkeys(stages.STAGES, _refuse))
        assert run.main([*asked, "--rows", "full", "--stages", "pretrain,flow,course"]) == 0
        with pytest.raises(SystemExit, match="of another pretraining"):
            run.main([*asked, "--rows", "full", "optim.base_lr=0.5"])
        with pytest.raises(SystemExit, match="of another pretraining"):  # also where nothing is pretrained
            run.main([*asked, "--rows", "random", "--stages", "probe", "network.overrides.levels=[2]"])
        with pytest.raises(SystemExit, match="--preset tiny"):
            run.main(["--out", str(out), "--preset", "cpu", "--rows", "full"])


def _short(task: Any) -> Any:
    """A task that is told to stop after its first step."""
    task.config.max_seconds = 1e-9
    return task


def _refuse(job: Any) -> dict[str, Any]:
    raise AssertionError(f"{job.name} is done again")


def test_failure_is_recorded_and_others_go_on(run, tmp_path, monkeypatch, capsys) -> None:
    import stages

    def diverge(job: Any) -> dict[str, Any]:
        if job.row.name == "full":
            raise TrainingDivergedError("the loss of step 7 is not finite")
        return {"figures": {"loss": 1.0}, "settings": stages.portable(job.pretraining())}

    monkeypatch.setitem(stages.STAGES, "pretrain", diverge)
    asked = [*ASKED, "--out", str(tmp_path), "--rows", "full,dino", "--stages", "pretrain,segmentation"]
    assert run.main(asked) == 1
    assert "step 7" in result(tmp_path, "full-0")["failed"]["pretrain"]
    assert "not pretrained yet" in result(tmp_path, "full-0")["failed"]["segmentation"]
    assert result(tmp_path, "dino-0")["stages"]["pretrain"]["figures"] == {"loss": 1.0}
    assert "Failed: full-0 pretrain: TrainingDivergedError" in capsys.readouterr().out


def test_table_of_seeds(run, tmp_path, capsys) -> None:
    import rows

    machine = {"device": "a device", "torch": "2"}
    (tmp_path / "results").mkdir()
    for name, seed, epe in (("random", 0, 4.0), ("full", 1, 1.0), ("full", 0, 1.5), ("full", 2, 2.0)):
        figures = {"epe": epe, "zero_epe": 5.0, "px1": None}
        stage = {"figures": figures, "settings": [], "seconds": 90.0, "machine": machine}
        content = {"row": name, "seed": seed, "preset": "cpu", "stages": {"flow": stage}, "failed": {}}
        (tmp_path / "results" / f"{name}-{seed}.json").write_text(json.dumps(content))
    assert run.main(["--out", str(tmp_path), "--table"]) == 0
    table = capsys.readouterr().out
    assert "| full Midway | 0, 1, 2 | – | – | – | 1.50 (1.00 to 2.00, 3) | –" in table
    assert "| random initialisation | 0 | – | – | – | 4.00 | –" in table
    assert "| (no motion) |  | – | – | – | 5.00 |" in table
    assert "cpu preset on a device, torch 2: 6 minutes" in table
    summary = json.loads((tmp_path / "results.json").read_text())
    epe = {"mean": 1.5, "std": 0.5, "min": 1.0, "max": 2.0, "seeds": 3}
    assert summary["rows"]["full"]["flow"] == {"epe": epe, "zero_epe": summary["rows"]["full"]["flow"]["zero_epe"]}
    assert "full-0 pretrain" in summary["missing"]
    assert "full-0 flow" not in summary["missing"]
    assert "no_gating-0 tracking" in summary["missing"]
    assert not any(line.startswith("no_gating-1") for line in summary["missing"])
    assert len(rows.ROWS) == 9


def test_rows_are_what_they_say(run) -> None:
    import rows

    def network(name: str) -> Any:
        return rows.pretrain_config(*rows.pretraining(rows.ROWS[name], rows.BUDGETS["gpu"], 0, Path("x")))

    assert network("full").midway_config().dynamics
    assert not network("dino").midway_config().dynamics
    assert not network("no_gating").midway_config().gating
    assert not network("no_refinement").midway_config().refinement
    assert network("one_level").midway_config().levels == (2,)
    assert not network("no_backward").midway_config().backward
    assert network("dynamics").objective.dino_weight == 0
    with pytest.raises(SystemExit, match="Did you mean 'no_gating'"):
        run.main(["--out", "x", "--rows", "no_gates", "--table"])


def test_true_paths_show_the_same_point(run) -> None:
    import rows
    import tracking

    wide = tracking.scenes(rows.BUDGETS["gpu"])[1]
    scenes = tracking.replace(wide, frames=4, lighting=0.0, noise=0.0)
    batch = next(tracking.held_out(scenes, 4))
    generator = tracking.SceneGenerator(scenes, tracking.SEED)
    counted = 0
    for number in range(4):
        points = tracking._points(number, 32, 64)
        paths, seen = tracking.true_paths(batch, number, points)
        assert not (seen[1:] & ~seen[:-1]).any()
        colours = [generator.sample([number], t, *paths[t].nan_to_num()[None, None].unbind(-1)) for t in range(4)]
        for (colour, owner), visible in zip(colours, seen, strict=True):
            assert (owner == colours[0][1])[0, 0][visible].all()
            difference = (colour - colours[0][0]).abs().amax(1)[0, 0][visible]
            assert len(difference) == 0 or difference.median() < 0.005
            assert len(difference) == 0 or difference.max() < 0.1
        counted += int(seen[-1].sum())
    assert counted > 20


def test_figures_of_known_heat_maps(run, monkeypatch) -> None:
    import rows
    import tracking

    from midway_zoo.analysis import SensitivityMatrix

    config, budget = tracking.scenes(rows.BUDGETS["gpu"])[1], rows.BUDGETS["tiny"]
    (batch,) = tracking.held_out(config, budget.pairs)
    start = tracking._centres((8, 8), 64).expand(len(batch), -1, -1)
    goal = ((start + tracking.flow_at(batch.flow[:, 0], start) + 0.5) / 8).floor().clamp(0, 7).long()
    arrives = torch.nn.functional.one_hot(goal[..., 1] * 8 + goal[..., 0], 64).float()
    for matrix, copies, hits in ((arrives, 0, 100), (torch.eye(64).expand(len(batch), -1, -1), 100, 0)):
        known = SensitivityMatrix(matrix, (8, 8), (64, 64))
        monkeypatch.setattr(tracking, "sensitivity_matrix", lambda *_, known=known, **__: known)
        figures = tracking.pair_figures(None, config, budget)
        assert (figures["identity_moved"], figures["hit_moved"]) == (copies, hits)
        assert figures["moved"] > 5
        assert (figures["pck_8"] == 100) == (hits == 100)  # half a token's diagonal is 5.7 pixels
        assert (figures["pck_4"] == figures["zero_pck_4"]) == (hits == 0)


def test_probe_reads_what_is_linear_and_nothing_else(run, monkeypatch) -> None:
    import probing

    torch.manual_seed(0)
    motions = torch.randn(400, 2)
    spread = torch.randn(2, 24)
    for latents, best in ((motions @ spread + 3, 0.01), (torch.randn(400, 24), None)):
        monkeypatch.setattr(probing, "_pairs", lambda *_, latents=latents: iter([(latents, motions)]))
        figures = probing.measure(None, None)
        assert figures["pairs"] == 80
        if best is None:
            assert figures["epe"] > 0.9 * figures["mean_epe"]
        else:
            assert figures["epe"] < best
        assert figures["zero_epe"] == pytest.approx(float(motions[320:].norm(dim=1).mean()))
