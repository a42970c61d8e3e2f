"""What a command reads is never overwritten, with ``--force`` neither; and what cannot be written says what to do."""

import shutil
from pathlib import Path

import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.cli.work.inputs import check_not_inputs
from midway_zoo.errors import InputError
from midway_zoo.files import write_png
from midway_zoo.inference.video_writer import write_video
from midway_zoo.weights.convert import convert

KEPT = "is an input; it is never overwritten"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    mz.create_model("midway_nano", grid=(4, 4)).save_pretrained(folder / "model")
    (folder / "frames").mkdir()
    torch.manual_seed(0)
    frames = [torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8) for _ in range(3)]
    for number, frame in enumerate(frames):
        write_png(folder / "frames" / f"0000{number}.png", frame)
    write_video(folder / "clip.mp4", frames, fps=5)
    write_png(folder / "demo.png", frames[0])
    return folder


@pytest.fixture
def here(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a model, frames and a video, in which the command is run."""
    shutil.copytree(original, tmp_path / "here")
    (tmp_path / "here" / "linked.png").symlink_to("frames/00001.png")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize(
    "command",
    [
        "features model frames -o f.npz --picture frames/00001.png",
        "features model frames/*.png -o f.npz --picture frames/00001.png",
        "features model frames -o f.npz --picture linked.png",
        "features model frames -o model/model.safetensors",
        "motion model frames -o model/model.safetensors",
        "flow model frames -o frames --format png",
        "demo --model model --images demo.png linked.png --out .",
        "demo --model model --video frames --out frames",
        "propagate model frames demo.png -o frames",
        "propagate model clip.mp4 demo.png -o clip.mp4",
        "propagate model clip.mp4 frames/00000.png -o frames",
        "segment model frames -o frames",
        "segment model clip.mp4 -o clip.mp4",
        "eval knn model --root frames -o model/config.json",
        "analyse heatmap model frames --at 3,4 -o frames/00001.png",
        "analyse heatmap model demo.png linked.png --at 3,4 -o model/model.safetensors",
        "convert model/model.safetensors model",
    ],
)
def test_inputs_are_kept(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    if "demo --model model --video" in command:
        shutil.copy(here / "demo.png", here / "frames" / "demo.png")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main([*command.split(), "--force"]) == 1
    assert KEPT in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_run_is_kept_by_name(tmp_path: Path) -> None:
    step = tmp_path / "run" / "checkpoints" / "step_00000002"
    step.mkdir(parents=True)
    for path in (step / "model.safetensors", tmp_path / "run" / "best.json", tmp_path / "run" / "figures.json"):
        path.write_bytes(b"")
    run = tmp_path / "run"
    for output in (step / "model.safetensors", run / "best.json"):
        with pytest.raises(InputError, match=KEPT):
            check_not_inputs([output], run)
    check_not_inputs([run / "figures.json", run / "new.json"], run, None, "midway_nano.scenes")


def test_converting_into_the_folder_that_is_read(original: Path, tmp_path: Path) -> None:
    convert(original / "model" / "model.safetensors", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=KEPT):
        convert(original / "model" / "model.safetensors", original / "model", overwrite=True)


@pytest.mark.parametrize(
    "command",
    [
        "features model frames -o {}/f.npz",
        "features model frames -o f.npz --picture {}/p.png",
        "motion model frames -o {}/m.safetensors",
        "flow model frames -o {}/x.mp4",
        "flow model frames -o {}/x",
        "flow model frames -o {}/new/x/",
        "flow model demo.png demo.png -o {}/new/x.flo",
        "propagate model frames demo.png -o {}/masks",
        "demo --model model --out {}/new",
        "convert model/model.safetensors {}/new",
        "export model -o {}/x.pt2",
        "train prepare frames {}/new",
        "train index frames -o {}/i.json",
        "extract frames {}/new",
    ],
)
@pytest.mark.parametrize("place", ["closed", "demo.png"])
def test_a_place_that_cannot_be_written_has_a_remedy(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    """A folder to which the system writes nothing, whatever its permissions say, and one that is a file."""
    (here / "closed").mkdir()
    refuse_in(monkeypatch, here / "closed")
    before = sorted(here.rglob("*"))
    assert main(command.format(place).split()) == 1
    error = capsys.readouterr().err
    assert "choose another place" in error
    assert error.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def refuse_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As of a read-only file system; the tests may run as root, whom permissions do not stop."""
    import os
    import tempfile

    def closed(path: object) -> bool:
        return Path(str(path)).resolve().is_relative_to(folder)

    making, opening, temporary = os.mkdir, os.open, tempfile.TemporaryFile

    def mkdir(path, *arguments, **options):
        if closed(path):
            raise OSError(30, "Read-only file system", str(path))
        return making(path, *arguments, **options)

    def open_(path, flags, *arguments, **options):
        if flags & os.O_CREAT and closed(path):
            raise OSError(30, "Read-only file system", str(path))
        return opening(path, flags, *arguments, **options)

    def file(*arguments, **options):
        if closed(options["dir"]):
            raise OSError(30, "Read-only file system", str(options["dir"]))
        return temporary(*arguments, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(tempfile, "TemporaryFile", file)
