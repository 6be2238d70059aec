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
TRAINING_SECONDS = 400
"""The whole of a training: importing everything anew, on a machine that has other things to do."""
QUIET_SECONDS = 1.0
ATTEMPTS = 3
ENDED = ("Finished.", "Failed.", "Exit code")
REFUSED = ("Please select a model.", "Model not found.", "Please choose a dataset.")
"""What the page says when Start came before a field had its value."""

# An answer of the server may set a field, the model's path among them, that was typed into before.
WATCH = """
(() => {
  const original = window.fetch;
  window.asked = {pending: 0, last: Date.now()};
  window.fetch = async (...given) => {
    const address = String(given[0].url || given[0]);
    if (/heartbeat|queue\\/data/.test(address)) return original(...given);  // stay open
    window.asked.pending += 1;
    try {
      const answer = await original(...given);
      await answer.clone().text();
      return answer;
    } finally {
      window.asked.pending -= 1;
      window.asked.last = Date.now();
    }
  };
})();
"""
IDLE = "return window.asked.pending === 0 && Date.now() - window.asked.last > arguments[0] * 1000"


def driver() -> Any:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,3000"):
        options.add_argument(flag)
    options.add_argument("--disable-dev-shm-usage")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return browser


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
        """Type into a field, or `choose` from its list; wait for what the server makes of it."""
        element = self.field(label)
        element.click()
        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(text)
        if choose:
            path = f"//*[@role='option'][normalize-space(@aria-label)='{text}']"
            self._visible(path, f"no choice {text!r} in {label!r}").click()
        else:
            element.send_keys(Keys.TAB)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has asked the server for nothing for a while."""
        time.sleep(0.3)  # until what was typed has become a question
        WebDriverWait(self.browser, SECONDS).until(
            lambda browser: browser.execute_script(IDLE, QUIET_SECONDS), "the page never rests"
        )

    def value(self, label: str) -> str:
        return str(self.field(label).get_attribute("value"))

    def press(self, text: str) -> None:
        """Click the visible button with that text."""
        self._visible(f"//button[normalize-space()='{text}']", f"no button {text!r}").click()

    def _visible(self, path: str, otherwise: str) -> Any:
        def visible(browser: Any) -> Any:
            found = [e for e in browser.find_elements(By.XPATH, path) if e.is_displayed()]
            return found[0] if found else None

        return WebDriverWait(self.browser, SECONDS).until(visible, otherwise)

    def text(self) -> str:
        """All that can be read, values of fields included."""
        fields = self.browser.find_elements(By.XPATH, "//input | //textarea")
        values = [str(field.get_attribute("value")) for field in fields if field.is_displayed()]
        body = self.browser.find_element(By.TAG_NAME, "body").text
        return "\n".join([body, *filter(None, values)])

    def wait_for(self, *texts: str, seconds: float = SECONDS) -> str:
        """The first of the texts that appears on the page."""

        def found(browser: Any) -> str | None:
            body = browser.find_element(By.TAG_NAME, "body").text
            return next((text for text in texts if text in body), None)

        return str(WebDriverWait(self.browser, seconds).until(found, f"none of {texts}"))


def main(address: str, model: str, dataset_dir: str, output: str) -> None:
    """Fill in the page, start a training of two steps, and say how it ended."""
    browser = driver()
    try:
        browser.get(address)
        page = Page(browser)
        WebDriverWait(browser, SECONDS).until(
            lambda _: page.value("Output dir").startswith("train_"), "the page is not set up"
        )
        page.fill("Language", "en", choose=True)
        for _ in range(ATTEMPTS):
            page.fill("Model name", "Custom", choose=True)
            page.fill("Model path", model)
            page.fill("Data dir", dataset_dir)
            page.fill("Dataset", "tiny", choose=True)
            page.fill("Epochs", "1")
            page.fill("Cutoff length", "64")
            page.fill("Output dir", output)
            seen = {
                "devices": page.value("Device count"),
                "compute_type": page.value("Compute type"),
            }
            page.press("Start")
            seen["ended"] = page.wait_for(*ENDED, *REFUSED, seconds=TRAINING_SECONDS)
            if seen["ended"] not in REFUSED:
                break
        print(json.dumps(seen))
    except Exception:
        browser.save_screenshot("page.png")
        print(f"the page:\n{Page(browser).text()}", file=sys.stderr)
        raise
    finally:
        browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
