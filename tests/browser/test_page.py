"""A visitor's ways through the page, in a browser."""

import threading
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import midway_zoo as mz
from midway_zoo.app import callbacks
from midway_zoo.app.views import Moment, Picture, View
from tests.app.files import write_clip, write_pictures
from tests.browser.conftest import need_browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]  # seconds; a busy machine is not a fault of the page
need_browser()
from tests.browser.page import PATIENCE  # noqa: E402  (needs Selenium, which may not be there)


def test_two_frames_and_a_click(visit, folder) -> None:
    page = visit()
    page.drop(*write_pictures(folder))
    page.ready()
    page.all_pictures()
    assert "frame0.png and frame1.png: 64 x 48 pixels" in page.status()
    before = {name: page.pixels(name) for name in ("source-frame", "heat-map-picture", "tracks-picture")}
    shown = page.picture("heat-map-picture")
    page.click_source(0.8, 0.3)
    page.changed("heat-map-picture", shown)
    page.ready()
    page.all_pictures()
    assert all(page.pixels(name) != pixels for name, pixels in before.items())
    assert float(page.one("#x input").get_attribute("value")) == pytest.approx(0.8 * 64, abs=1.5)
    assert float(page.one("#y input").get_attribute("value")) == pytest.approx(0.3 * 48, abs=1.5)
    # Nothing came from anywhere else.
    asked = page.requests()
    assert len(asked) > 20
    assert not [url for url in asked if not url.startswith(page.address)]
    # All of it can be taken along, and is gone with the visitor.
    page.downloads_go_to(folder)
    page.click("#download")
    page.until((folder / "midway-zoo.zip").exists, "file")
    with zipfile.ZipFile(folder / "midway-zoo.zip") as file:
        assert {"heat-map.png", "latents.png", "numbers.safetensors"} <= set(file.namelist())
    kept = Path(unquote(shown.partition("/file=")[2]))
    assert kept.exists()
    page.driver.get("about:blank")
    page.until(lambda: not kept.parents[1].exists(), "removal of the visitor's folder")


def test_a_clip(visit, folder) -> None:
    page = visit()
    page.drop(write_clip(folder / "clip.mp4"))
    page.ready()
    page.all_pictures()
    assert "clip.mp4: the first 3 frames at 5 per second" in page.status()
    before, shown = page.pixels("target-frame"), page.picture("target-frame")
    page.click("#target input")
    page.until(lambda: len(page.all("#target [role=option]")) == 3, "list of frames")
    page.all("#target [role=option]")[2].click()
    page.changed("target-frame", shown)
    assert page.pixels("target-frame") != before
    page.ready()


def test_wrong_files(visit, folder) -> None:
    page = visit()
    (folder / "notes.png").write_text("no picture")
    page.drop(folder / "notes.png")
    page.says("notes.png is neither a picture nor a video")
    first, second = write_pictures(folder)
    first.write_bytes(first.read_bytes()[:-900])
    page.drop(first, second)
    page.says("frame0.png cannot be read as an image: image file is truncated")
    assert page.all(".said.wrong[role=alert]")
    assert "Traceback" not in page.driver.page_source
    # The page is none the worse for it.
    page.drop(write_clip(folder / "clip.mkv"))
    page.ready()


def test_thirty_megabytes(visit, folder) -> None:
    page = visit()
    (folder / "large.mp4").write_bytes(bytes(30_000_000))
    page.drop(folder / "large.mp4")
    page.until(lambda: "maximum allowed size of 25" in page.one("body").text, "message")
    page.drop(*write_pictures(folder))
    page.ready()


def test_two_visitors_at_once(visit, folder) -> None:
    one, other = visit(), visit()
    one.drop(*write_pictures(folder, names="one{}.png"))
    other.drop(*write_pictures(folder, names="other{}.png", height=64))
    for page, name in ((one, "one"), (other, "other")):
        page.ready()
        page.all_pictures()
        assert f"{name}0.png and {name}1.png" in page.status()
        assert page.one("#source input").get_attribute("value") == f"A: {name}0.png"
    seen, shown = other.pixels("heat-map-picture"), one.picture("heat-map-picture")
    one.click_source(0.2, 0.2)
    one.changed("heat-map-picture", shown)
    one.ready()
    assert other.pixels("heat-map-picture") == seen
    assert "other0.png" in other.one("#source input").get_attribute("value")


def test_two_models_side_by_side(visit) -> None:
    page = visit()
    page.one("#example-real").click()
    page.ready()
    height, shown = page.one("#gates-picture img").get_property("naturalHeight"), page.picture("gates-picture")
    page.click("#against input")
    page.until(lambda: len(page.all("#against [role=option]")) > 1, "list of models")
    page.all("#against [role=option]")[1].click()
    page.changed("gates-picture", shown)
    page.ready()
    assert page.one("#gates-picture img").get_property("naturalHeight") > 1.9 * height
    said = "random weights of the same shape: On average"
    page.until(lambda: said in page.one("#gates-said").text, "sentence of both")


def test_stop(visit, monkeypatch) -> None:
    page, whole, stopped = visit(), callbacks.ordered, threading.Event()

    def held(network: mz.MidwayNetwork, kinds: Sequence[str]) -> list[View]:
        """The views, of which the second is not drawn before the test has pressed Stop."""
        first, second, *others = whole(network, kinds)

        def draw(network: mz.MidwayNetwork, moment: Moment) -> Picture:
            assert stopped.wait(PATIENCE)
            return second.draw(network, moment)

        return [first, replace(second, draw=draw), *others]

    monkeypatch.setattr(callbacks, "ordered", held)
    try:
        page.one("#example-real").click()
        page.says("(2 of 6)")
        page.click("#stop")
        page.says("Stopped.")
    finally:
        stopped.set()
    assert not page.picture("tracks-picture")
    page.click("#follow")
    page.ready()
    assert page.picture("tracks-picture")


def test_keyboard_alone(visit) -> None:
    from selenium.webdriver import Keys

    page = visit()
    page.tab_to("#example-scene")
    page.press(Keys.ENTER)
    page.ready()
    page.all_pictures()
    before = page.pixels("heat-map-picture")
    shown = page.picture("heat-map-picture")
    page.tab_to("#x")
    page.press(Keys.CONTROL, "a", Keys.NULL)
    page.press("50")
    page.tab_to("#y")
    page.press(Keys.CONTROL, "a", Keys.NULL)
    page.press("12")
    page.tab_to("#follow")
    page.press(Keys.SPACE)
    page.changed("heat-map-picture", shown)
    page.ready()
    assert page.pixels("heat-map-picture") != before
    page.tab_to("#download")


def test_a_phone(visit) -> None:
    page = visit(390, 844)
    assert page.width() == 390
    page.one("#example-real").click()
    page.ready()
    page.all_pictures()
    assert page.width() == 390
    wide = [image for image in page.all("img") if image.rect["x"] + image.rect["width"] > 391]
    assert not wide
    assert page.one("#source-frame img").size["width"] > 280  # a finger finds its point
    shown = page.picture("heat-map-picture")
    page.click_source(0.3, 0.6)
    page.changed("heat-map-picture", shown)
    page.ready()
    # What goes on stays in sight while one looks at the results.
    page.driver.execute_script("window.scrollTo(0, document.body.scrollHeight / 2)")
    assert 0 <= page.driver.execute_script("return document.querySelector('#status').getBoundingClientRect().top") < 50
