"""Uses LLaMA-Factory's page as a person would, in a headless Chromium.

    python browser.py ADDRESS MODEL DATASET_DIR OUTPUT  ->  one JSON object on the last line

Runs in the environment `browser`, which has selenium; Chromium and its driver are the system's.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 200


def driver() -> Any:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,3000"):
        options.add_argument(flag)
    options.add_argument("--disable-dev-shm-usage")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Page:
    """The page, its fields by their labels."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def field(self, label: str) -> Any:
        """The input that belongs to a visible label."""
        path = (
            f"//label[.//span[normalize-space()='{label}']]//*[self::input or self::textarea]"
            f" | //*[normalize-space(text())='{label}']/following::input[1]"
        )

        def visible(browser: Any) -> Any:
            found = [e for e in browser.find_elements(By.XPATH, path) if e.is_displayed()]
            return found[0] if found else None

        return WebDriverWait(self.browser, SECONDS).until(visible, f"no field {label!r}")

    def fill(self, label: str, text: str, *, choose: bool = False) -> None:
        """Type into a field; `choose` takes it from a list."""
        element = self.field(label)
        element.click()
        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(text)
        if choose:
            time.sleep(1.0)
            element.send_keys(Keys.ENTER)
        element.send_keys(Keys.TAB)
        time.sleep(0.5)

    def value(self, label: str) -> str:
        return str(self.field(label).get_attribute("value"))

    def press(self, text: str) -> None:
        """Click the visible button with that text."""
        path = f"//button[normalize-space()='{text}']"

        def visible(browser: Any) -> Any:
            found = [e for e in browser.find_elements(By.XPATH, path) if e.is_displayed()]
            return found[0] if found else None

        WebDriverWait(self.browser, SECONDS).until(visible, f"no button {text!r}").click()

    def wait_for(self, *texts: str) -> str:
        """The first of the texts that appears on the page."""

        def found(browser: Any) -> str | None:
            body = browser.find_element(By.TAG_NAME, "body").text
            return next((text for text in texts if text in body), None)

        return str(WebDriverWait(self.browser, SECONDS).until(found, f"none of {texts}"))


def main(address: str, model: str, dataset_dir: str, output: str) -> None:
    """Fill in the page, start a training of two steps, and say how it ended."""
    browser = driver()
    try:
        browser.get(address)
        page = Page(browser)
        page.fill("Language", "en", choose=True)
        page.wait_for("Model name")
        page.fill("Model name", "Custom", choose=True)
        page.fill("Model path", model)
        page.fill("Data dir", dataset_dir)
        page.fill("Dataset", "tiny", choose=True)
        seen = {
            "devices": page.value("Device count"),
            "compute_type": page.value("Compute type"),
        }
        page.fill("Epochs", "1")
        page.fill("Cutoff length", "64")
        page.fill("Output dir", output)
        page.press("Start")
        seen["ended"] = page.wait_for("Finished.", "Failed.", "Exit code")
        print(json.dumps(seen))
    except Exception:
        browser.save_screenshot("page.png")
        raise
    finally:
        browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
