"""LLaMA-Factory's page in a real browser: device and dtype are right, and Start trains."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from failure import HERE
from fw_support import needs
from test_failures import ALL, python_of, surroundings
from tiny_training import write_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    needs("llamafactory", "gradio"),
    pytest.mark.skipif(not ALL, reason="make test-failures"),
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no Chromium: apt-get install chromium chromium-driver",
    ),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def page(tmp_path: Path, tiny_model: Path) -> Iterator[tuple[str, Path]]:
    """`accel llamafactory webui` in a folder with a data set, and its address."""
    write_job(tmp_path, tiny_model)
    port = free_port()
    log = tmp_path / "server.log"
    environment = surroundings(
        "test",
        tmp_path,
        GRADIO_SERVER_NAME="127.0.0.1",
        GRADIO_SERVER_PORT=str(port),
        GRADIO_ANALYTICS_ENABLED="False",
        PATH="/usr/bin:/bin",  # this environment is not activated
        NO_PROXY="127.0.0.1,localhost",
    )
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as sink:
        server = subprocess.Popen(
            [sys.executable, "-m", "accel", "llamafactory", "webui"],
            cwd=tmp_path,
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_up(address, server, log)
            yield address, log
        finally:
            server.terminate()
            server.wait(20)


def wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text())


def test_a_training_started_from_the_page_goes_through_accel(
    page: tuple[str, Path], tmp_path: Path, tiny_model: Path
) -> None:
    address, log = page
    done = subprocess.run(
        [
            python_of("browser"),
            str(HERE / "browser.py"),
            address,
            str(tiny_model),
            str(tmp_path / "data"),
            "out-of-the-page",
        ],
        cwd=tmp_path,
        env=surroundings("browser", tmp_path, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    logs = [log, *(tmp_path / "saves").rglob("running_log.txt")]
    told = "".join(f"\n{each.name}:\n{each.read_text()[-3000:]}" for each in logs)
    assert done.returncode == 0, f"{done.stderr[-6000:]}{told}"
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["ended"] == "Finished.", told
    assert "(cpu)" in seen["devices"]
    assert seen["compute_type"] in ("bf16", "fp32")
    (output,) = (tmp_path / "saves").rglob("out-of-the-page")
    assert (output / "adapter_model.safetensors").is_file()
    whole = (output / "running_log.txt").read_text() + log.read_text()
    assert "accel: cpu · sdpa" in whole, "the child said that it is repaired"
