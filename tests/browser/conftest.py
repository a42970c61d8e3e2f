"""The page in Debian's Chromium: `pytest -m browser tests/browser` with the extra test-app."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)


def found(names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(shutil.which, names)), None)


def need_browser() -> None:
    """Skip a module, in one line, where the page cannot be tried."""
    for module, reason in (("gradio", "the page needs Gradio"), ("selenium", "a browser is driven by Selenium")):
        pytest.importorskip(module, reason=f"{reason}: pip install -e '.[test-app]'")
    if found(BROWSERS) is None or found(DRIVERS) is None:
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver", allow_module_level=True)


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """Browser and driver."""
    browser, driver = found(BROWSERS), found(DRIVERS)
    assert browser is not None
    assert driver is not None
    return browser, driver


@pytest.fixture(scope="module")
def address(chromium) -> Iterator[str]:
    """Of a page with the bundled model."""
    from midway_zoo.app.server import serving
    from midway_zoo.app.settings import AppSettings

    with serving(AppSettings(frames=3, side=64)) as url:
        yield url


@pytest.fixture
def visit(chromium, address, tmp_path) -> Iterator[Callable[..., object]]:
    """Start a browser at the page; all are ended after the test."""
    from tests.browser.page import Page

    pages: list[Page] = []

    def start(width: int = 1280, height: int = 1000) -> Page:
        profile = tmp_path / f"profile{len(pages)}"
        pages.append(Page(*chromium, address, profile, (width, height)))
        return pages[-1]

    try:
        yield start
    finally:
        for page in pages:
            page.leave()


@pytest.fixture
def folder(tmp_path) -> Path:
    """For files that are dropped."""
    path = tmp_path / "files"
    path.mkdir()
    return path
