"""NVIDIA: what NVML is asked, and what becomes of a GPU that does not answer, or in part."""

from __future__ import annotations

import json
import types
from typing import Any

import pytest
from asking import changed
from test_nvidia import box, found, gpu

import accel_nvidia.nvml
from accel_nvidia.nvml import address, ask


class Error(Exception):
    pass


class NotSupported(Error):
    pass


class NoPermission(Error):
    pass


class NotFound(Error):
    pass


class FunctionNotFound(Error):
    pass


class Nvml(types.ModuleType):
    """As much of the bindings as is asked: an H100 with one MIG instance, and a GB10."""

    NVMLError, NVMLError_NotSupported, NVML_CLOCK_SM = Error, NotSupported, 1
    NVMLError_NoPermission, NVMLError_NotFound = NoPermission, NotFound
    NVMLError_FunctionNotFound = FunctionNotFound

    def __init__(self) -> None:
        super().__init__("libnvml")
        self.open = 0
        self.broken: str | None = None
        self.lost: int | None = None
        self.failing: dict[tuple[str, Any], Error] = {}
        """By question and handle."""

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        if name == self.broken:
            raise Error("GPU is lost")
        return lambda *arguments: self.answer(name.removeprefix("nvml"), *arguments)

    def answer(self, name: str, handle: Any = None, slot: Any = None) -> Any:
        spark = handle == 1
        if (failure := self.failing.get((name, handle))) is not None:
            raise failure
        if name == "DeviceGetHandleByIndex" and handle == self.lost:
            raise Error("GPU is lost")
        if name == "DeviceGetMemoryInfo" and spark:
            raise NotSupported("Not Supported")
        if name == "DeviceGetMigDeviceHandleByIndex" and slot != 2:
            raise NotFound("Not Found")
        if name == "DeviceGetMigMode" and spark:
            raise NotSupported("Not Supported")
        return {
            "DeviceGetCount": 2,
            "DeviceGetHandleByIndex": handle,
            "SystemGetDriverVersion": b"580.95.05",
            "SystemGetCudaDriverVersion_v2": 13020,
            "DeviceGetCudaComputeCapability": (12, 1) if spark else (9, 0),
            "DeviceGetName": {0: "H100", 1: b"GB10"}.get(handle, "H100 MIG 1g.10gb"),
            "DeviceGetPciInfo": types.SimpleNamespace(
                busId=b"0000000F:01:00.0" if spark else "00000000:CA:00.0"
            ),
            "DeviceGetMemoryInfo": types.SimpleNamespace(total=80 if handle == 0 else 10),
            "DeviceGetMigMode": (1, 1),
            "DeviceGetMaxMigDeviceCount": 7,
            "DeviceGetMigDeviceHandleByIndex": "mig",
            "DeviceGetGpuInstanceId": 9,
            "DeviceGetComputeInstanceId": 0,
            "DeviceGetUUID": {0: "GPU-aaaa", 1: "GPU-bbbb"}.get(handle, "MIG-cccc"),
            "DeviceGetNumGpuCores": 100,
            "DeviceGetMaxClockInfo": 2000,
        }[name]


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml()
    monkeypatch.setattr(accel_nvidia.nvml, "bindings", lambda: fake)
    return fake


def test_what_nvml_says_is_plain_and_holds_no_uuid(bindings: Nvml) -> None:
    answer = ask("MIG-cc,GPU-b,0")
    assert bindings.open == 0
    assert json.loads(json.dumps(answer)) == answer
    assert not any(uuid in json.dumps(answer) for uuid in ("aaaa", "bbbb", "cccc"))
    assert answer["named"] == {"0": [0, 0], "1": [1, None]}
    assert (answer["driver"], answer["cuda"]) == ("580.95.05", "13.2")
    whole, spark = answer["gpus"]
    assert (whole["pci"], whole["memory"], whole["unified"]) == ("0000:ca:00.0", 80, False)
    assert whole["instances"] == [
        {"index": 0, "profile": "1g.10gb", "memory": 10, "gpu_instance": 9, "compute_instance": 0}
    ]
    assert (spark["pci"], spark["compute_capability"]) == ("000f:01:00.0", "12.1")
    assert (spark["memory"], spark["unified"], spark["mig"]) == (None, True, None)
    assert spark["speed"] == 200_000  # asked because the box is mixed


def test_nvml_is_shut_down_also_where_it_fails(bindings: Nvml) -> None:
    bindings.broken = "nvmlSystemGetDriverVersion"
    with pytest.raises(Error, match="GPU is lost"):
        ask(None)
    assert bindings.open == 0


def test_a_gpu_that_cannot_be_read_keeps_its_place(bindings: Nvml) -> None:
    bindings.broken = "nvmlDeviceGetCudaComputeCapability"
    gpus = ask(None)["gpus"]
    assert [(each["index"], each["error"]) for each in gpus] == [
        (0, "GPU is lost"),
        (1, "GPU is lost"),
    ]


@pytest.mark.parametrize(("lost", "named"), [(0, {"1": [1, None]}), (1, {"0": [0, 0]})])
def test_a_gpu_that_fell_off_the_bus_hides_no_other(
    bindings: Nvml, lost: int, named: dict[str, Any]
) -> None:
    """NVML has no handle of it then: the error comes before any question."""
    bindings.lost = lost
    answer = ask("MIG-cc,GPU-b")
    assert answer["gpus"][lost] == {"index": lost, "error": "GPU is lost"}
    other = answer["gpus"][1 - lost]
    assert other["name"] == ("GB10", "H100")[lost]
    assert "speed" not in other  # one that answers is no mixed box
    assert answer["named"] == named


@pytest.mark.parametrize(
    ("question", "handle", "gpu", "named"),
    [
        ("DeviceGetMaxMigDeviceCount", 0, {"mig": True, "instances": []}, {"1": [1, None]}),
        (
            "DeviceGetMigDeviceHandleByIndex",
            0,
            {"mig": True, "instances": []},
            {"1": [1, None]},
        ),
        ("DeviceGetUUID", "mig", {"mig": True}, {"1": [1, None]}),
        ("DeviceGetUUID", 0, {"mig": True}, {"0": [0, 0], "1": [1, None]}),
        ("DeviceGetMigMode", 0, {"mig": None, "instances": []}, {"1": [1, None]}),
        ("DeviceGetMemoryInfo", 0, {"memory": None, "unified": False}, None),
        ("DeviceGetNumGpuCores", 0, {"speed": None}, None),
        ("DeviceGetGpuInstanceId", "mig", {"mig": True}, None),
    ],
)
def test_what_one_gpu_fails_to_tell_is_a_line_of_that_gpu_alone(
    bindings: Nvml, question: str, handle: Any, gpu: dict[str, Any], named: dict[str, Any] | None
) -> None:
    bindings.failing[question, handle] = Error("GPU is lost")
    answer = ask("MIG-cc,GPU-b")
    whole, spark = answer["gpus"]
    assert (whole["name"], whole["compute_capability"]) == ("H100", "9.0")
    assert {**whole, **gpu} == whole
    [line] = whole["untold"]
    assert line.endswith(": GPU is lost")
    assert (spark["name"], "untold" in spark) == ("GB10", False)
    assert answer["named"] == ({"0": [0, 0], "1": [1, None]} if named is None else named)


@pytest.mark.parametrize("kind", [NotSupported, NoPermission, NotFound, FunctionNotFound])
@pytest.mark.parametrize(
    ("question", "handle"), [("DeviceGetUUID", "mig"), ("DeviceGetMaxMigDeviceCount", 0)]
)
def test_what_a_gpu_has_not_takes_no_line(
    bindings: Nvml, question: str, handle: Any, kind: type[Error]
) -> None:
    bindings.failing[question, handle] = kind("no")
    answer = ask("MIG-cc,GPU-b")
    assert not any("untold" in each for each in answer["gpus"])
    assert answer["named"] == {"1": [1, None]}


def in_part(**other: Any) -> dict[str, Any]:
    return gpu(0, mig=True, untold=["MIG instances: Unknown Error"], **other)


def test_a_gpu_whose_instances_are_not_told_is_listed_with_the_reason() -> None:
    here = box(in_part(), gpu(1))
    blind, other = (device for _, device in found(here))
    assert (blind.usable, other.usable) == (False, True)
    assert "instances: MIG instances: Unknown Error" in (blind.problem or "")
    assert "nvidia-smi mig" not in (blind.remedy or "")  # it may well have some
    assert [d.usable for _, d in found(changed(here, env={"CUDA_VISIBLE_DEVICES": "1"}))] == [True]


def test_a_list_by_uuid_that_could_not_be_read_says_so() -> None:
    here = box(gpu(0, untold=["UUID: GPU is lost"]))
    [(_, hidden)] = found(changed(here, env={"CUDA_VISIBLE_DEVICES": "GPU-aaaa"}))
    assert "hidden by CUDA_VISIBLE_DEVICES" in (hidden.problem or "")
    assert "UUID: GPU is lost" in (hidden.problem or "")


def test_an_instance_without_its_profile_is_named_all_the_same() -> None:
    instance = {
        "index": 0,
        "profile": None,
        "memory": 5,
        "gpu_instance": None,
        "compute_instance": 0,
    }
    [(_, device)] = found(box(in_part(instances=[instance])))
    assert (device.usable, device.name, device.memory) == (True, "GPU of 9.0 MIG ?", 5)
    assert device.attributes["untold"] == ["MIG instances: Unknown Error"]


def test_addresses_as_linux_writes_them() -> None:
    assert address("00000000:00:06.0") == "0000:00:06.0"
    assert address("0000000F:01:00.0") == "000f:01:00.0"
    assert address("00010000:01:00.0") == "10000:01:00.0"
