"""What happens on the page, without a page: changes by name."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import midway_zoo as mz
from midway_zoo.app import callbacks as module
from midway_zoo.app.callbacks import Callbacks, Choices, Session, factor_of
from midway_zoo.app.models import RANDOM, Models
from midway_zoo.app.rooms import Rooms
from midway_zoo.app.settings import AppSettings
from midway_zoo.app.views import VIEWS, View
from midway_zoo.errors import InputError
from tests.app.files import write_clip, write_pictures

SMALL = {"embed_dim": 24, "num_heads": 3, "motion_dim": 12, "backward_heads": 3, "forward_heads": 3, "grid": (4, 4)}


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, str]:
    """Networks in folders, with and without a flow head, and without gates."""
    folder = tmp_path_factory.mktemp("models")
    kinds = {"head": {"flow_head": (8, 8, 8, 8, 16)}, "plain": {}, "ungated": {"gating": False}}
    torch.manual_seed(1)  # not the seed of the random weights that they are compared with
    for name, fields in kinds.items():
        fields = {"flow_head": None, "flow_size": (32, 32), **fields}
        mz.create_model("midway_nano", **SMALL, **fields).save_pretrained(folder / name)
    return {name: str(folder / name) for name in kinds}


@pytest.fixture(scope="module")
def callbacks(names, tmp_path_factory) -> Callbacks:
    settings = AppSettings(models=tuple(names.values()), frames=3, side=32)
    return Callbacks(settings, Models(settings), Rooms(tmp_path_factory.mktemp("rooms")))


@pytest.fixture(scope="module")
def shown(callbacks, names) -> dict[str, Any]:
    """The page with every view of the generated scene."""
    return after(callbacks.example(Session(), "first", names["head"], "scene"))


@pytest.fixture(autouse=True)
def only(monkeypatch, shown) -> Callable[..., None]:
    """Of the views flow alone is drawn, which costs least, unless a test asks for others."""
    whole = module.ordered

    def choose(*chosen: str) -> None:
        def some(network: mz.MidwayNetwork, kinds: Sequence[str]) -> list[View]:
            return [view for view in whole(network, kinds) if not chosen or view.name in chosen]

        monkeypatch.setattr(module, "ordered", some)

    choose("flow")
    return choose


def after(steps: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The page after all changes."""
    page: dict[str, Any] = {}
    for step in steps:
        page |= step
    return page


def sent(callbacks: Callbacks, paths: list[Path], visitor: str = "v") -> list[str]:
    """Files where Gradio puts what is uploaded."""
    folder = callbacks.rooms.folder / "upload"
    folder.mkdir(parents=True, exist_ok=True)
    return [str(path.rename(folder / path.name)) for path in paths]


def test_two_frames_then_a_click(callbacks, names, tmp_path, only) -> None:
    only("heat-map", "latents")
    uploads = sent(callbacks, write_pictures(tmp_path))
    page = after(callbacks.drop(Session(), "v", names["head"], uploads))
    assert not any(Path(path).exists() for path in uploads)  # what was read is not kept
    assert page["source"] == Choices([("A: frame0.png", 0), ("B: frame1.png", 1)], 0)
    assert "Ready." in page["status"]
    assert page["results"]
    sizes = {name: Image.open(page[name]).size for name in ("heat-map", "latents", "source-frame")}
    assert all(min(size) > 100 for size in sizes.values())
    assert "pair 3 back" in page["latents-said"]  # a pair has one motion: others are shown beside it
    session: Session = page["session"]
    factor = factor_of(session.moment.footage)
    assert sizes["source-frame"] == (43 * factor, 32 * factor)

    clicked = after(callbacks.click(session, "v", names["head"], [10 * factor, 20 * factor]))
    (point,) = clicked["session"].moment.points
    assert point == pytest.approx((10, 20), abs=0.5)
    assert (clicked["x"], clicked["y"]) == pytest.approx((10, 20), abs=0.51)
    assert Path(clicked["heat-map"]).read_bytes() != Path(page["heat-map"]).read_bytes()
    assert clicked["source-frame"] != page["source-frame"]
    assert "latents" not in clicked  # they do not depend on the point
    more = after(callbacks.point(clicked["session"], "v", names["head"], 5.0, 6.0, more=True))
    assert len(more["session"].moment.points) == 2


def test_everything_shown_can_be_taken_along(shown, names, tmp_path) -> None:
    page = shown
    with zipfile.ZipFile(page["download"]) as file:
        file.extractall(tmp_path / "all")
    found = {path.name for path in (tmp_path / "all").iterdir()}
    assert found == {f"{name}.png" for name in VIEWS} | {"numbers.safetensors", "about.json"}
    about = json.loads((tmp_path / "all" / "about.json").read_text())
    assert about["model"] == names["head"]
    numbers = load_file(tmp_path / "all" / "numbers.safetensors")
    height, width = page["session"].moment.footage.frames.shape[2:]
    assert numbers["flow"].shape == (2, height, width)
    assert {"heatmaps", "track_flow", "track_paper", "gates_level2", "similarity", "pca_first"} <= set(numbers)
    assert "px apart on average" in page["flow-said"]  # of a generated scene the truth is known


def test_frames_of_a_clip(callbacks, names, tmp_path, only) -> None:
    only("tracks")
    page = after(callbacks.drop(Session(), "v", names["plain"], sent(callbacks, [write_clip(tmp_path / "a.mp4")])))
    assert len(page["source"].labels) == 3
    assert "no flow head" in page["model-said"]
    other = after(callbacks.pair(page["session"], "v", names["plain"], 2, 1))
    assert (other["session"].moment.source, other["session"].moment.target) == (2, 1)
    assert "Over 3 frames" in other["tracks-said"]  # backwards, to the first
    assert "pca" not in other
    assert set(after(callbacks.pair(page["session"], "v", names["plain"], 0, 1))) == {"session"}  # as they were
    same = after(callbacks.pair(page["session"], "v", names["plain"], 1, 1))
    assert "the same frame" in same["status"]
    assert set(same) == {"status"}


def test_a_view_that_cannot_be_had_says_so_in_its_place(callbacks, names, only) -> None:
    only("flow", "gates")
    page = after(callbacks.example(Session(), "v", names["ungated"], "scene"))
    assert page["gates"] is None
    assert "has no gates" in page["gates-said"]
    assert "Ready." in page["status"]
    with zipfile.ZipFile(page["download"]) as file:
        assert "gates.png" not in file.namelist()


def test_another_model_beside(callbacks, names, shown, only) -> None:
    only("flow", "gates")
    alone = Image.open(shown["flow"])
    page = after(callbacks.compare(shown["session"], "v", names["head"], RANDOM))
    both = Image.open(page["flow"])
    assert both.width >= alone.width
    assert both.height > 2 * alone.height
    assert f"{names['head']}: By the flow head" in page["flow-said"]
    assert f"{RANDOM}: By the flow head" in page["flow-said"]
    found = page["session"].tensors["flow"]
    assert found["flow"].shape == found["against_flow"].shape
    assert not found["flow"].equal(found["against_flow"])
    with zipfile.ZipFile(page["download"]) as file:
        assert json.loads(file.read("about.json"))["against"] == RANDOM
    # It stays with what is done next, other frames too; what the second cannot show is said in its place.
    page = after(callbacks.example(page["session"], "v", names["head"], "scene"))
    assert Image.open(page["flow"]).size == both.size
    other = after(callbacks.compare(page["session"], "v", names["head"], names["ungated"]))
    assert "has no gates" in other["gates-said"]
    refused = after(callbacks.compare(page["session"], "v", names["head"], "hf-hub:somebody/something"))
    assert "only the models in its list" in refused["status"]
    page = after(callbacks.compare(page["session"], "v", names["head"], ""))
    assert Image.open(page["flow"]).size == alone.size
    assert set(page["session"].tensors["flow"]) == {"flow", "flow_confidence"}
    assert set(after(callbacks.compare(Session(), "v", names["head"], RANDOM))) == {"session"}  # nothing to draw yet


def test_random_weights_are_those_of_the_shape(names) -> None:
    models = Models(AppSettings(models=tuple(names.values())))
    network = models.get(names["head"])
    random = models.rival(RANDOM, network)
    assert random.config == network.config
    assert models.rival(RANDOM, network) is random
    assert models.rival(names["head"], network) is network


def test_one_picture_waits_for_another(callbacks, names, tmp_path) -> None:
    first, second = sent(callbacks, write_pictures(tmp_path, names="z{}.png")[::-1])
    page = after(callbacks.drop(Session(), "v", names["head"], [first]))
    assert "one more frame" in page["status"]
    assert Path(first).exists()
    wrong = after(callbacks.drop(page["session"], "v", names["head"], sent(callbacks, [write_text(tmp_path)])))
    assert "neither a picture" in wrong["status"]
    assert Path(first).exists()
    page |= after(callbacks.drop(page["session"], "v", names["head"], [second]))
    assert page["source"].labels[0][0] == "A: z1.png"  # as they came
    assert not Path(first).exists()


def write_text(folder: Path) -> Path:
    path = folder / "<b>notes.txt"
    path.write_text("no picture")
    return path


def test_what_goes_wrong_is_said(callbacks, shown, names, tmp_path, monkeypatch, caplog) -> None:
    page = after(callbacks.drop(Session(), "v", names["head"], sent(callbacks, [write_text(tmp_path)])))
    assert page["files"] is None
    assert "&lt;b&gt;notes.txt" in page["status"]  # names are the visitor's: they are shown, not obeyed
    assert str(tmp_path) not in page["status"]
    assert not list((callbacks.rooms.folder / "upload").iterdir())
    assert "no frames (" in after(callbacks.click(Session(), "v", names["head"], [1, 1]))["status"]
    assert "Nothing was dropped" in after(callbacks.drop(Session(), "v", names["head"], []))["status"]
    page = shown
    assert "outside" in after(callbacks.point(page["session"], "v", names["head"], 1e4, 0.0))["status"]
    assert "outside" in after(callbacks.point(page["session"], "v", names["head"], None, 0.0))["status"]

    def broken(*_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(callbacks.models, "get", broken)
    status = after(callbacks.again(page["session"], "v", names["head"]))["status"]
    assert "RuntimeError" in status
    assert "secret" not in status
    assert "secret detail" in caplog.text


def test_visitors_do_not_share(callbacks, names, tmp_path) -> None:
    pages = {who: after(callbacks.example(Session(), who, names["head"], "scene")) for who in ("a", "../b")}
    folders = {who: callbacks.rooms.of(who) for who in pages}
    assert folders["a"].parent == folders["../b"].parent == callbacks.rooms.folder
    assert all(Path(page["flow"]).is_relative_to(folders[who]) for who, page in pages.items())
    kept = sent(callbacks, write_pictures(tmp_path))
    for who in pages:
        callbacks.rooms.note_uploads(who, [Path(path) for path in kept])
    callbacks.rooms.leave("a")
    assert not folders["a"].exists()
    assert folders["../b"].exists()
    assert Path(kept[0]).exists()  # Gradio keeps equal uploads once: the other visitor's are still needed
    callbacks.rooms.leave("../b")
    assert not folders["../b"].exists()
    assert not Path(kept[0]).exists()
    outside = tmp_path / "outside.png"
    outside.touch()
    callbacks.rooms.note_uploads("a", [outside])
    callbacks.rooms.leave("a")
    assert outside.exists()


def test_models(names) -> None:
    closed = Models(AppSettings(models=(names["head"],)))
    assert closed.names()[0] == names["head"]
    assert "midway_vits.bdd100k" in closed.names()
    assert closed.get(names["head"]) is closed.get(names["head"])
    for name in (names["plain"], "hf-hub:somebody/something", "/etc/passwd"):
        with pytest.raises(InputError, match="only the models in its list"):
            closed.get(name)
    with pytest.raises(InputError, match="No model is chosen"):
        closed.get(" ")
    opened = Models(AppSettings(models=(names["head"],), any_model=True))
    first = opened.get(names["head"])
    opened.get(names["plain"])
    opened.get(names["ungated"])
    assert opened.get(names["head"]) is not first  # two are kept
