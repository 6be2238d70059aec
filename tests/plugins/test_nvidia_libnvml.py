"""The ctypes calls, against a library in C that answers as NVML does for one H100 and one GB10."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = r"""
#include <string.h>
typedef struct { char old[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
static int open_ = 0;
static long of(void *device) { return (long) device - 1000; }
int nvmlInitWithFlags(unsigned flags) { open_++; return flags; }
int nvmlShutdown(void) { return --open_; }
const char *nvmlErrorString(int code) { return code == 3 ? "Not Supported" : "GPU is lost"; }
static int text(char *to, unsigned size, const char *what) {
    if (size < strlen(what) + 1) return 7;
    strcpy(to, what); return 0;
}
int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(to, size, "580.95.05"); }
int nvmlSystemGetCudaDriverVersion_v2(int *to) { *to = 13020; return 0; }
int nvmlDeviceGetCount_v2(unsigned *to) { *to = 3; return open_ ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **to) { *to = (void *)(1000L + i); return 0; }
int nvmlDeviceGetName(void *d, char *to, unsigned size) {
    return text(to, size, of(d) == 0 ? "NVIDIA H100" : of(d) == 1 ? "NVIDIA GB10"
        : "NVIDIA H100 MIG 1g.10gb");
}
int nvmlDeviceGetUUID(void *d, char *to, unsigned size) {
    return text(to, size, of(d) == 0 ? "GPU-aaaa" : of(d) == 1 ? "GPU-bbbb" : of(d) == 2
        ? "GPU-dddd" : "MIG-cccc");
}
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) {
    if (of(d) == 2) return 15;
    *major = of(d) ? 12 : 9; *minor = of(d); return 0;
}
int nvmlDeviceGetPciInfo_v3(void *d, pci_t *to) {
    strcpy(to->bus_id, of(d) ? "0000000F:01:00.0" : "00000000:CA:00.0"); return 0;
}
int nvmlDeviceGetMemoryInfo(void *d, memory_t *to) {
    if (of(d) == 1) return 3;
    to->total = of(d) ? 10ULL << 30 : 85520809984ULL; return 0;
}
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *then) {
    if (of(d)) return 3;
    *now = *then = 1; return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned *to) { *to = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *d, unsigned i, void **to) {
    if (i != 2) return 6;
    *to = (void *) 2000L; return 0;
}
int nvmlDeviceGetGpuInstanceId(void *d, unsigned *to) { *to = 9; return 0; }
int nvmlDeviceGetComputeInstanceId(void *d, unsigned *to) { *to = 0; return 0; }
int nvmlDeviceGetNumGpuCores(void *d, unsigned *to) { *to = 100; return 0; }
int nvmlDeviceGetMaxClockInfo(void *d, unsigned clock, unsigned *to) {
    *to = clock == 1 ? 2000 : 0; return 0;
}
"""
COMPILER = shutil.which("cc") or shutil.which("gcc")


def asked(folder: Path | None, code: str) -> str:
    env = dict(os.environ, LD_LIBRARY_PATH=str(folder)) if folder else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "nvml.c").write_text(SOURCE)
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-o", str(target), str(folder / "nvml.c")], check=True
    )
    return folder


def test_every_call_is_made_as_nvml_has_it(library: Path) -> None:
    code = """
        import json
        from accel_nvidia.nvml import ask
        print(json.dumps(ask("MIG-cc,GPU-b,0")))
    """
    answer = json.loads(asked(library, code))
    assert (answer["driver"], answer["cuda"]) == ("580.95.05", "13.2")
    assert answer["named"] == {"0": [0, 0], "1": [1, None]}
    h100, gb10, lost = answer["gpus"]
    assert h100 == {
        "index": 0,
        "name": "NVIDIA H100",
        "compute_capability": "9.0",
        "pci": "0000:ca:00.0",
        "memory": 85520809984,
        "unified": False,
        "mig": True,
        "speed": 200_000,
        "instances": [
            {
                "index": 0,
                "profile": "1g.10gb",
                "memory": 10 << 30,
                "gpu_instance": 9,
                "compute_instance": 0,
            }
        ],
    }
    assert (gb10["pci"], gb10["compute_capability"]) == ("000f:01:00.0", "12.1")
    assert (gb10["memory"], gb10["unified"], gb10["mig"]) == (None, True, None)
    assert lost["error"] == "GPU is lost"


def test_a_library_that_lacks_a_function_says_which(library: Path) -> None:
    code = """
        from accel_nvidia import libnvml
        try:
            libnvml._call("nvmlDeviceGetTomorrow")
        except libnvml.NVMLError as error:
            print(error.code, error)
    """
    assert asked(library, code).strip() == "13 Function Not Found: nvmlDeviceGetTomorrow"


def test_no_library_is_an_answer_like_another(tmp_path: Path) -> None:
    code = """
        from accel.machine import ThisMachine
        from accel_nvidia import libnvml
        from accel_nvidia.nvml import ask
        libnvml._places = lambda: ["libnvidia-ml-that-is-not-there.so.1"]
        print(ThisMachine().query("nvml", lambda: ask(None)).error)
    """
    assert asked(None, code).strip() == "NVMLError: NVML Shared Library Not Found"
