"""PyPI's torchvision and torchaudio beside a CPU torch, and torch_npu without CANN."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fw_support import losses, needs
from test_failures import SECONDS, python_of, surroundings

pytestmark = [pytest.mark.slow, needs("llamafactory")]
BROKEN = {
    "torchvision": "operator torchvision::nms does not exist",
    "torchaudio": "OSError",
}
NPU = "torch_npu"
NPU_VARIABLES = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


@pytest.fixture(params=["test", "torch-npu"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Python of the environment, which is the one it is taken for: exit code, output, errors."""
    environment: str = request.param
    interpreter = python_of(environment)

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [interpreter, *arguments],
            cwd=tmp_path,
            env={**surroundings(environment, tmp_path), **variables},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    for name, error in BROKEN.items():
        code, _, told = run("-c", f"import torch, {name}", **NPU_VARIABLES)
        if code == 0 or "No module named" in told:
            pytest.skip(f"no {name} for another torch: there is nothing broken")
        assert error in told
    assert (environment == "torch-npu") == (run("-c", "import torch")[0] != 0)
    return run


def test_llamafactory_trains_and_the_doctor_explains(
    python: Callable[..., tuple[int, str, str]],
    training_yaml: Callable[..., Path],
    tmp_path: Path,
) -> None:
    code, _, told = python("-m", "accel", "llamafactory", "train", str(training_yaml()))
    assert code == 0, told
    assert len(losses(tmp_path / "out")) == 3
    npu = f"{NPU}: is installed but cannot be loaded" in told
    for name in BROKEN:
        assert f"{name}: is installed but cannot be imported" in told

    code, output, told = python("-m", "accel", "doctor", "--json")
    assert code == 1, told
    found = {one["subject"].removeprefix("import "): one for one in json.loads(output)["findings"]}
    for name in BROKEN:
        (one,) = (one for subject, one in found.items() if subject.partition(" ")[0] == name)
        assert one["id"] == "built-for-another-toolkit"
        assert "for cuda; torch" in one["evidence"]
        assert name in one["command"]
    if npu:
        assert found["torch"]["id"] == "torch-backend-broken"
        assert found["torch"]["command"] == "export TORCH_DEVICE_BACKEND_AUTOLOAD=0"
        assert found["torch-npu 2.13.0"]["id"] == "ascend-bridge-without-npu"
