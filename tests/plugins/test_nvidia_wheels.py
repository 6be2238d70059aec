"""NVIDIA: whether the installed torch fits the card and its driver, and which one would."""

from __future__ import annotations

import re

import pytest
from asking import changed
from test_nvidia import box, gpu, nvml, only

from accel.recording import RecordedMachine
from accel_nvidia.knowledge import archs, traits_of, wheels


def torch_box(
    capability: str,
    version: str | None,
    cuda: str | None,
    *,
    processor: str = "x86_64",
    driver_cuda: str = "13.0",
    system: str = "Linux",
    hip: str | None = None,
) -> RecordedMachine:
    each = gpu(0, capability)
    here = box(
        each,
        queries=nvml(each, cuda=driver_cuda),
        platform={"system": system, "arch": processor, "python": "3.12.3"},
        paths=["/proc/driver/nvidia/version"],
    )
    if version is None:
        return changed(here, distributions={}, distribution_files={})
    text = f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = {hip!r}\n"
    return changed(
        here,
        distributions={"torch": version.partition("+")[0]},
        distribution_files={"torch:torch/version.py": text},
    )


def pip(version: str) -> str:
    return f'pip install --force-reinstall "torch=={version}"'


GOOD = [
    ("6.1", "2.7.1+cu126", "12.6", "x86_64", "12.2"),
    ("6.0", "2.14.0+cu126", "12.6", "x86_64", "13.0"),
    ("7.0", "2.10.0+cu128", "12.8", "x86_64", "12.4"),
    ("7.5", "2.15.0+cu132", "13.2", "x86_64", "13.0"),
    ("8.6", "2.13.0+cu130", "13.0", "aarch64", "13.0"),  # runs sm_80 code
    ("8.9", "2.13.0+cu130", "13.0", "x86_64", "13.0"),  # runs sm_86 code
    ("10.3", "2.10.0+cu128", "12.8", "x86_64", "12.8"),  # runs sm_100 code
    ("11.0", "2.13.0+cu130", "13.0", "aarch64", "13.0"),
    ("12.1", "2.11.0+cu130", "13.0", "aarch64", "13.0"),  # runs sm_120 code
    ("12.1", "2.10.0a0+b4e4ee81d3.nv25.12", "13.1", "aarch64", "13.0"),  # a distributor's
    ("9.0", "2.6.0+cu124", "12.4", "x86_64", "12.2"),
    ("13.0", "2.13.0+cu130", "13.0", "x86_64", "13.0"),  # nothing is known, nothing claimed
]


@pytest.mark.parametrize(("capability", "version", "cuda", "processor", "driver"), GOOD)
def test_a_torch_that_fits(
    capability: str, version: str, cuda: str, processor: str, driver: str
) -> None:
    here = torch_box(capability, version, cuda, processor=processor, driver_cuda=driver)
    device = only(here)
    assert (device.problem, device.remedy, device.toolkit) == (None, None, cuda)


BAD = [
    # capability, version, cuda, processor, driver's CUDA, what is said, remedy
    ("6.1", "2.13.0+cu130", "13.0", "x86_64", "13.0", "no longer makes code", pip("2.7.1")),
    ("6.1", "2.8.0+cu128", "12.8", "x86_64", "12.8", "without code that runs", pip("2.7.1")),
    ("7.0", "2.11.0+cu130", "13.0", "x86_64", "13.0", "no longer makes code", pip("2.10.0")),
    ("7.5", "2.13.0+cu130", "13.0", "x86_64", "12.2", "driver 580 or newer", pip("2.10.0")),
    ("7.5", "2.13.0+cu130", "13.0", "aarch64", "13.0", "without code that runs", "from source"),
    ("12.0", "2.7.1+cu126", "12.6", "x86_64", "12.8", "does not know sm_120 yet", pip("2.8.0")),
    ("12.0", "2.6.0+cu124", "12.4", "x86_64", "13.0", "does not know sm_120 yet", pip("2.8.0")),
    ("11.0", "2.10.0+cu128", "12.8", "aarch64", "13.0", "does not know sm_110", pip("2.11.0")),
    ("12.1", "2.10.0+cpu", None, "aarch64", "13.0", "CPU-only", pip("2.11.0")),
    ("9.0", "2.10.0+cpu", None, "aarch64", "13.0", "CPU-only", pip("2.11.0")),
    ("9.0", "2.13.0+cpu", None, "x86_64", "13.0", "CPU-only", pip("2.13.0")),
    ("9.0", "2.13.0+cpu", None, "x86_64", "12.2", "CPU-only", pip("2.10.0")),
    ("9.0", "2.16.0.dev20261101+cpu", None, "x86_64", "13.2", "CPU-only", pip("2.15.0")),
    ("9.0", None, None, "x86_64", "13.2", "not installed", pip("2.15.0")),
    ("9.0", None, None, "aarch64", "12.4", "not installed", "cu126 wheel index"),
    ("9.0", None, None, "x86_64", "11.4", "not installed", "NVIDIA driver 525"),
    ("8.7", "2.13.0+cpu", None, "aarch64", "12.6", "CPU-only", "wheel index for Jetson"),
    ("5.2", "2.13.0+cu130", "13.0", "x86_64", "13.0", "no longer makes code", pip("2.10.0")),
]


@pytest.mark.parametrize(
    ("capability", "version", "cuda", "processor", "driver", "said", "remedy"), BAD
)
def test_a_torch_that_does_not_fit(
    capability: str,
    version: str | None,
    cuda: str | None,
    processor: str,
    driver: str,
    said: str,
    remedy: str,
) -> None:
    here = torch_box(capability, version, cuda, processor=processor, driver_cuda=driver)
    device = only(here)
    assert said in (device.problem or "")
    assert remedy in (device.remedy or "")


@pytest.mark.parametrize("row", [row for row in BAD if "torch==" in row[6] and row[0] != "5.2"])
def test_the_torch_of_a_remedy_fits(row: tuple[str, str, str | None, str, str, str, str]) -> None:
    capability, version, cuda, processor, driver, _, _ = row
    before = torch_box(capability, version, cuda, processor=processor, driver_cuda=driver)
    wanted = re.search(r"torch==([\d.]+)", only(before).remedy or "")
    assert wanted
    release = next(r for r in wheels().extra["release"] if r["torch"] == wanted[1])
    toolkit = release[processor]
    local = f"{wanted[1]}+cu{toolkit.replace('.', '')}"
    after = torch_box(capability, local, toolkit, processor=processor, driver_cuda=driver)
    assert only(after).usable


def test_a_torch_for_hip_is_told_apart_from_a_cpu_build() -> None:
    device = only(torch_box("9.0", "2.13.0+rocm7.0", None, hip="7.0.51831"))
    assert device.problem == "torch 2.13.0+rocm7.0 is built for HIP, not for CUDA"
    assert device.remedy == pip("2.13.0")


def test_nothing_is_claimed_of_a_torch_that_cannot_be_read() -> None:
    here = changed(torch_box("9.0", "2.13.0+cpu", None), distribution_files={})
    assert only(here).usable


def test_windows_has_cuda_from_the_wheel_indexes_alone() -> None:
    here = torch_box("8.9", "2.13.0+cpu", None, processor="AMD64", system="Windows")

    class Windows(RecordedMachine):
        def glob(self, pattern: str) -> tuple[str, ...]:
            return (pattern,)

    device = only(Windows(here._document, "windows"))
    assert device.remedy == "install torch from PyTorch's cu132 wheel index"


def test_without_nvmls_cuda_the_drivers_own_version_counts() -> None:
    here = torch_box("9.0", "2.13.0+cu130", "13.0")
    queries = nvml(gpu(0))
    queries["nvml"]["value"].update(cuda=None, driver="575.57.08")
    assert "575.57.08 is installed" in (only(changed(here, queries=queries)).problem or "")
    queries["nvml"]["value"]["driver"] = "580.95.05"
    assert only(changed(here, queries=queries)).usable


def test_no_remedy_names_a_host() -> None:
    for capability, version, cuda, processor, driver, *_ in BAD:
        here = torch_box(capability, version, cuda, processor=processor, driver_cuda=driver)
        assert not re.search(r"://|\.(org|com|io)\b", only(here).remedy or "")


def test_the_table_of_builds_names_code_that_some_architecture_runs() -> None:
    runs = {code for arch in archs().archs for code in traits_of(arch).get("runs", ())}
    for build in wheels().extra["build"]:
        for processor in ("x86_64", "aarch64"):
            assert set(build.get(processor, ())) <= runs | {"sm_50"}
        assert str(build["toolkit"]).partition(".")[0] in wheels().extra["driver"]
    assert set(wheels().extra["jetson"]["archs"]) <= {"sm_53", "sm_62", "sm_72", "sm_87"}
