"""What a visitor sees and does, by Selenium."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

VIEWS = ("heat-map", "tracks", "flow", "pca", "gates", "latents")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
PATIENCE = 300.0
"""Seconds. A machine that is busy otherwise is slow, and no test here is about time."""


class Page:
    """A browser of its own, at the page."""

    def __init__(self, browser: str, driver: str, address: str, profile: Path, size: tuple[int, int]) -> None:
        options = Options()
        options.binary_location = browser
        for argument in (*QUIET, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.address = address
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        try:
            self.driver.command_executor.client_config.timeout = PATIENCE
            self.driver.set_page_load_timeout(PATIENCE)
            self.driver.set_script_timeout(PATIENCE)
            # A window has a least width; a phone's is less.
            self.driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500},
            )
            self.driver.get(address)
            self.until(lambda: self.all("#example-real"), "the page")
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        self.driver.quit()

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if true():
                    return
            except StaleElementReferenceException:  # the page changed while it was read
                pass
            time.sleep(0.1)
        said = self.status() if self.all("#status") else self.driver.current_url
        raise AssertionError(f"no {what} within {PATIENCE:g} s; the page says: {said}")

    def status(self) -> str:
        return self.one("#status").text

    def says(self, text: str) -> None:
        """Wait until the page says so."""
        self.until(lambda: text in self.status(), repr(text))

    def ready(self) -> None:
        self.says("Ready.")

    def click(self, selector: str) -> None:
        """Click what is in the middle of the window: what goes on stands above everything at its top."""
        element = self.one(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def changed(self, name: str, shown: str) -> None:
        """Wait for another picture than ``shown``, of :meth:`picture`: what is said passes, pictures stay."""
        self.until(lambda: self.picture(name) not in ("", shown), f"another {name}")

    def downloads_go_to(self, folder: Path) -> None:
        place = {"behavior": "allow", "downloadPath": str(folder)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", place)

    def drop(self, *paths: Path) -> None:
        self.one("#files input[type=file]").send_keys("\n".join(map(str, paths)))

    def picture(self, name: str) -> str:
        """Address of a picture that has been loaded, or an empty text."""
        (image, *_) = self.all(f"#{name} img") or [None]
        whole = "return arguments[0].complete && arguments[0].naturalWidth > 0"
        if image is not None:  # what is out of sight is not fetched
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        if image is None or not self.driver.execute_script(whole, image):
            return ""
        return str(image.get_attribute("src"))

    def pixels(self, name: str) -> str:
        """What a picture shows, as a data address: its own file may have another name for the same."""
        script = """
            const image = arguments[0], canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();"""
        return str(self.driver.execute_script(script, self.one(f"#{name} img")))

    def all_pictures(self) -> None:
        """Wait until every view has its picture, and none of it is cut off at the right."""
        names = [f"{name}-picture" for name in VIEWS] + ["source-frame", "target-frame"]
        self.until(lambda: all(map(self.picture, names)), "pictures")

    def click_source(self, x: float, y: float) -> None:
        """Click at a share of the source's width and height."""
        image = self.one("#source-frame img")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        across, down = (x - 0.5) * image.size["width"], (y - 0.5) * image.size["height"]
        ActionChains(self.driver).move_to_element_with_offset(image, round(across), round(down)).click().perform()

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, selector: str, most: int = 80) -> None:
        """Press Tab until something in there has the focus."""
        script = "return document.activeElement !== document.body && arguments[0].contains(document.activeElement)"
        for _ in range(most):
            self.press(Keys.TAB)
            if self.driver.execute_script(script, self.one(selector)):
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    def width(self) -> int:
        """Of what would have to be scrolled to."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, by the page and not by the browser's own."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        urls = [str(one["request"]["url"]) for one in asked if not one.get("documentURL", "").startswith("chrome")]
        return [url for url in urls if not url.startswith(("data:", "blob:", "chrome"))]
