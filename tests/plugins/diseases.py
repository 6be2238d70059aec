"""Machines on which one trouble each is, and is not: recorded ones with something changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from accel.recording import RecordedMachine, parse
from accel.testing import machine

Document = dict[str, Any]


class Case(NamedTuple):
    """`base` with `ill` changed has the trouble; with `well` changed (or as it is) it has not."""

    trouble: str
    base: str
    ill: Mapping[str, Any] = {}
    well: Mapping[str, Any] | None = None
    healthy: str = ""
    """Another base for the machine that has it not."""


def box(base: str, parts: Mapping[str, Any]) -> RecordedMachine:
    """A recorded machine with tables merged (None takes an entry away) and lists replaced.

    A function is called with the whole document.
    """
    document: Document = copy.deepcopy(dict(machine(base)._document))
    for key, value in parts.items():
        if callable(value):
            value(document)
        elif isinstance(value, Mapping):
            merged = {**document.get(key, {}), **value}
            document[key] = {name: item for name, item in merged.items() if item is not None}
        else:
            document[key] = value
    return parse(document, base)


def installed(**versions: str | None) -> Document:
    """Distributions, underscores for dashes."""
    return {"distributions": {name.replace("_", "-"): v for name, v in versions.items()}}


def torch(version: str, **build: str) -> Document:
    """That torch, and its own word on what it was built for."""
    text = f"__version__ = {version!r}\n" + "".join(
        f"{key} = {build.get(key)!r}\n" for key in ("cuda", "hip", "xpu")
    )
    return {**installed(torch=version), "distribution_files": {"torch:torch/version.py": text}}


def env(**variables: str | None) -> Document:
    return {"env": variables}


def meminfo(free: int, available: int, swap: int = 0) -> Document:
    """GiB."""
    sizes = {"MemTotal": 122, "MemFree": free, "MemAvailable": available, "SwapTotal": swap}
    text = "".join(f"{name}:  {size * 2**20} kB\n" for name, size in sizes.items())
    return {"files": {"/proc/meminfo": text}}


def drivers(name: str | None) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for card in document["pci"]:
            card["driver"] = name

    return change


def without_instances(document: Document) -> None:
    answer = document["queries"]["nvml"]["value"]
    answer["gpus"] = [{**gpu, "instances": []} for gpu in answer["gpus"] if gpu["mig"]]


def told_in_part(document: Document) -> None:
    document["queries"]["nvml"]["value"]["gpus"][0]["untold"] = ["MIG mode: Unknown Error"]


def old_driver(document: Document) -> None:
    document["queries"]["nvml"]["value"].update(driver="470.57.02", cuda="11.4")


def added(*paths: str) -> Callable[[Document], None]:
    return lambda document: document.setdefault("paths", []).extend(paths)


def only_nodes(*numbers: int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        nodes = [f"/dev/davinci{number}" for number in numbers]
        document["paths"] = [*nodes, "/dev/davinci_manager"]

    return change


def without(start: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["paths"] = [path for path in document["paths"] if not path.startswith(start)]

    return change


def record(name: str, version: str, *files: str) -> Document:
    """What pip recorded of a wheel."""
    key = f"{name}:{name}-{version}.dist-info/RECORD"
    return {"distribution_files": {key: "".join(f"{file},,\n" for file in files)}}


def requires(name: str, version: str, text: str) -> Document:
    key = f"{name}:{name}-{version}.dist-info/METADATA"
    return {"distribution_files": {key: f"Name: {name}\nRequires-Dist: {text}\n"}}


def said(query: str, value: Any) -> Document:
    return {"queries": {query: {"value": value}}}


def shm(size: str) -> Document:
    return {"files": {"/proc/mounts": f"shm /dev/shm tmpfs rw,nosuid,size={size} 0 0\n"}}


NVML_FAILS = {
    "queries": {"nvml": {"error": "NVMLError: Driver/library version mismatch"}},
}
NPU, HIP, MLU, MUSA, XPU = (
    *("ascend-910b2-x8", "mi300x", "cambricon-mlu590", "moore-s4000", "intel-arc-b60"),
)
CUDA_LIBRARIES = [f"bitsandbytes/libbitsandbytes_cuda{n}.so" for n in (118, 128)]

CASES = [
    Case("nvidia-driver-missing", "nvidia-driver-missing", healthy="rtx-3090"),
    Case("nvidia-driver-mute", "h100", NVML_FAILS),
    Case("nvidia-nvml-in-part", "h100", {"": told_in_part}),
    Case("nvidia-container-without-gpu", "h100", {**NVML_FAILS, "paths": []}, NVML_FAILS),
    Case("nvidia-hidden", "a100-x8", env(CUDA_VISIBLE_DEVICES=""), env(CUDA_VISIBLE_DEVICES="1")),
    Case("nvidia-mig-empty", "h100-mig", {"": without_instances}),
    Case("nvidia-torch-missing", "rtx-4090", installed(torch=None)),
    Case("nvidia-torch-cpu-only", "dgx-spark-cpu-torch", healthy="dgx-spark"),
    Case("nvidia-wheel-without-arch", "v100", torch("2.13.0+cu130", cuda="13.0")),
    Case("nvidia-driver-too-old", "rtx-4090", {"": old_driver}),
    Case("nvidia-ptxas-too-old", "thinkstation-pgx", {}, env(TRITON_PTXAS_PATH="/opt/ptxas")),
    Case("nvidia-unified-page-cache", "dgx-spark", meminfo(10, 110), meminfo(100, 110)),
    Case("nvidia-unified-swap", "dgx-spark", meminfo(100, 110, swap=16), meminfo(100, 110)),
    Case(
        "nvidia-container-newer-than-driver",
        "rtx-4090",
        {**env(CUDA_VERSION="13.0.1"), "": added("/.dockerenv")},
        {**env(CUDA_VERSION="12.9.1"), "": added("/.dockerenv")},
    ),
    Case(
        "nvidia-container-of-another-vendor",
        "dgx-spark-cpu-torch",
        {**env(ROCM_PATH="/opt/rocm"), "": added("/.dockerenv")},
        env(ROCM_PATH="/opt/rocm"),
    ),
    Case(
        "nvidia-bitsandbytes-other-cuda",
        "rtx-4090",
        record("bitsandbytes", "0.50.2", CUDA_LIBRARIES[0]),
        record("bitsandbytes", "0.50.2", *CUDA_LIBRARIES),
    ),
    Case("nvidia-flash-attn-other-card", "t4", installed(flash_attn="2.8.3"), healthy="rtx-4090"),
    # Ascend
    Case("ascend-driver-missing", NPU, {"paths": [], "": drivers(None)}),
    Case("ascend-container-without-npu", NPU, {"paths": []}),
    Case(
        "ascend-hidden", NPU, env(ASCEND_RT_VISIBLE_DEVICES=""), env(ASCEND_RT_VISIBLE_DEVICES="1")
    ),
    Case("ascend-torch-missing", NPU, installed(torch=None)),
    Case("ascend-bridge-missing", NPU, installed(torch_npu=None)),
    Case("ascend-bridge-of-another-torch", NPU, installed(torch="2.13.0+cpu")),
    Case("ascend-cann-missing", NPU, env(ASCEND_HOME_PATH=None, ASCEND_TOOLKIT_HOME=None)),
    Case(
        "ascend-bridge-without-npu",
        "x86-avx2",
        installed(torch_npu="2.13.0"),
        {**installed(torch_npu="2.13.0"), **env(TORCH_DEVICE_BACKEND_AUTOLOAD="0")},
    ),
    Case(
        "ascend-device-ids",
        NPU,
        {**env(ASCEND_RT_VISIBLE_DEVICES="6"), "": only_nodes(3, 6)},
        {**env(ASCEND_RT_VISIBLE_DEVICES="1"), "": only_nodes(3, 6)},
    ),
    Case(
        "ascend-cuda-variable",
        NPU,
        env(CUDA_VISIBLE_DEVICES="1"),
        env(CUDA_VISIBLE_DEVICES="1", ASCEND_RT_VISIBLE_DEVICES="1"),
    ),
    Case("ascend-triton-overwritten", NPU, installed(triton="3.2.0")),
    # AMD and Hygon
    Case("rocm-driver-missing", HIP, {"paths": [], "": drivers(None)}),
    Case("rocm-container-without-gpu", HIP, {"paths": []}),
    Case("rocm-hidden", HIP, env(HIP_VISIBLE_DEVICES="-1"), env(HIP_VISIBLE_DEVICES="0")),
    Case("hygon-torch-replaced", "hygon-k100ai-x8", torch("2.9.0+cu128", cuda="12.8")),
    Case("rocm-torch-of-another-vendor", HIP, torch("2.10.0", cuda="12.8")),
    Case("rocm-torch-missing", HIP, installed(torch=None)),
    # Cambricon, Moore Threads, Intel, Apple
    Case("cambricon-driver-missing", MLU, {"paths": [], "": drivers(None)}),
    Case("cambricon-container-without-mlu", MLU, {"paths": []}),
    Case("cambricon-bridge", MLU, installed(torch_mlu=None)),
    Case(
        "cambricon-neuware-missing",
        MLU,
        {**env(NEUWARE_HOME=None, LD_LIBRARY_PATH=None), "": without("/usr/local/neuware")},
    ),
    Case("cambricon-hidden", MLU, env(MLU_VISIBLE_DEVICES="99")),
    Case("cambricon-triton-replaced", MLU, installed(triton="3.2.0")),
    Case("musa-driver-missing", MUSA, {"paths": [], "": drivers(None)}),
    Case("musa-container-without-gpu", MUSA, {"paths": []}),
    Case("musa-bridge", MUSA, installed(torch_musa=None)),
    Case("musa-hidden", MUSA, env(MUSA_VISIBLE_DEVICES="99")),
    Case("xpu-driver-missing", XPU, {"": drivers(None)}),
    Case("xpu-container-without-gpu", XPU, {"paths": []}),
    Case("xpu-torch-of-another-vendor", XPU, torch("2.11.0", cuda="13.0")),
    Case("xpu-hidden", XPU, env(ZE_AFFINITY_MASK="99")),
    Case(
        "mps-rosetta",
        "apple-m2-max",
        {"platform": {"arch": "x86_64"}, "commands": {"sysctl -n sysctl.proc_translated": "1\n"}},
    ),
    Case("mps-macos-too-old", "apple-m2-max", {"commands": {"sw_vers -productVersion": "11.7\n"}}),
    Case("mps-torch", "apple-m2-max", installed(torch=None)),
    # torch's surroundings
    Case("shm-too-small", "x86-avx2", shm("65536k"), shm("8g")),
    Case("vendor-torch-unguarded", "hygon-k100ai-x8", {}, env(PIP_CONSTRAINT="/etc/pip.txt")),
    Case("torch-for-absent-card", "kunpeng-920", torch("2.13.0+cu130", cuda="13.0")),
    Case(
        "two-bridges",
        "x86-avx2",
        installed(torch_npu="2.13.0", torch_mlu="1.33.1+torch2.13.0"),
        installed(torch_npu="2.13.0"),
    ),
    Case(
        "bridge-over-cuda", "rtx-4090", installed(torchada="0.1.9"), installed(torch_npu="2.10.0")
    ),
    # builds
    Case(
        "built-for-another-torch",
        "rtx-4090",
        installed(flash_attn="2.8.3+cu12torch2.9cxx11abiTRUE"),
        installed(flash_attn="2.8.3+cu12torch2.10cxx11abiTRUE"),
    ),
    Case(
        "built-for-another-toolkit",
        "x86-avx2",
        installed(torchvision="0.28.0"),
        installed(torchvision="0.28.0+cpu"),
    ),
    Case(
        "import-fails",
        "rtx-4090",
        said("import flash_attn", "ImportError: undefined symbol: _ZN3c105ErrorC2E"),
        said("import flash_attn", ""),
    ),
    Case(
        "triton-of-another-torch",
        "thinkstation-pgx",
        requires("torch", "2.11.0", 'triton==3.6.0; platform_system == "Linux"'),
        requires("torch", "2.11.0", 'triton (==3.5.1) ; platform_system == "Linux"'),
    ),
    Case(
        "module-without-metadata",
        "rtx-3090",
        said("module flash_attn", True),
        {**said("module flash_attn", True), **installed(flash_attn="2.8.3")},
    ),
    Case("apex-of-pypi", "rtx-3090", installed(apex="0.9.10.dev0"), installed(apex="0.1")),
    # combinations
    Case("transformers-5_6_0-fa2", "rtx-4090", {}, installed(transformers="5.6.1")),
    Case(
        "gptqmodel-without-optimum",
        "rtx-3090",
        installed(gptqmodel="7.3.6", optimum="1.23.0"),
        installed(gptqmodel="7.3.6", optimum="1.24.0"),
    ),
    Case(
        "awq-double-bind",
        "rtx-3090",
        installed(autoawq="0.2.9", gptqmodel="7.3.6"),
        installed(autoawq="0.2.9", gptqmodel="7.3.6", transformers="4.56.0"),
    ),
    Case(
        "autoawq-with-transformers-5",
        "rtx-3090",
        installed(autoawq="0.2.9"),
        installed(autoawq="0.2.9", transformers="4.56.0"),
    ),
    Case(
        "autoawq-gelu",
        "rtx-3090",
        installed(autoawq="0.2.9", transformers="4.57.6"),
        installed(autoawq="0.2.9", transformers="4.56.2"),
    ),
    Case(
        "peft-too-old-for-transformers-5",
        "rtx-3090",
        installed(peft="0.17.1"),
        installed(peft="0.17.1", transformers="4.57.6"),
    ),
    Case("llamafactory-transformers-too-new", "x86-amx", installed(transformers="5.7.0")),
    Case(
        "llamafactory-peft-too-new", "x86-amx", installed(peft="0.20.1"), installed(peft="0.20.0")
    ),
    Case("llamafactory-trl-too-new", "x86-amx", installed(trl="0.25.0")),
    Case(
        "llamafactory-accelerate-too-new",
        "x86-amx",
        installed(accelerate="1.15.1"),
        installed(accelerate="1.15.0"),
    ),
]
