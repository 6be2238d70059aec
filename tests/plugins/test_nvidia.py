"""NVIDIA: the recorded machines, who claims what, and what is no NVIDIA GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from asking import card, changed, fake

import accel_nvidia
from accel.machine import Machine
from accel.recording import RecordedMachine
from accel.resolving import Capabilities
from accel.testing import machine
from accel.values import Device, Feature
from accel_nvidia.knowledge import archs, card_arch, card_name, facts, family_of, is_known

FAMILIES = ("pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell")
GIB = 2**30
NO_LIBRARY = {"nvml": {"error": "NVMLError_LibraryNotFound: NVML Shared Library Not Found"}}


def found(here: Machine) -> list[tuple[str, Device]]:
    """Every device with the family whose plugin claimed it."""
    return [
        (family, device)
        for family in FAMILIES
        for device in getattr(accel_nvidia, family).accel_detect(machine=here)
    ]


def only(here: Machine) -> Device:
    [(_, device)] = found(here)
    return device


def decided(here: Machine) -> Capabilities:
    family, device = found(here)[0]
    plugin = getattr(accel_nvidia, family)
    return Capabilities(device, plugin.accel_capabilities(device=device, machine=here), here)


def nvml(*gpus: dict[str, Any], named: dict[str, Any] | None = None, cuda: str = "13.0") -> Any:
    value = {"driver": "580.95.05", "cuda": cuda, "gpus": list(gpus), "named": named or {}}
    return {"nvml": {"value": value}}


def gpu(index: int = 0, capability: str = "9.0", **other: Any) -> dict[str, Any]:
    standing = {
        "index": index,
        "name": f"GPU of {capability}",
        "compute_capability": capability,
        "pci": f"0000:{index + 1:02x}:00.0",
        "memory": 8 * GIB,
        "mig": None,
        "instances": [],
    }
    return {**standing, **other}


def box(*gpus: dict[str, Any], **parts: Any) -> RecordedMachine:
    """A box with a working torch for CUDA 13 and these GPUs."""
    cards = [card("10de", "2330", address=each["pci"], driver="nvidia") for each in gpus]
    standing = {
        "pci": cards,
        "queries": nvml(*gpus),
        "paths": ["/dev/nvidia0", "/dev/nvidiactl"],
        "distributions": {"torch": "2.13.0"},
        "distribution_files": {
            "torch:torch/version.py": "__version__ = '2.13.0+cu130'\ncuda = '13.0'\nhip = None\n"
        },
    }
    return fake(**{**standing, **parts})


# recorded machines ---------------------------------------------------------------------------

MACHINES = {
    # name: family, arch, count, GiB, toolkit
    "a100-x8": ("ampere", "sm_80", 8, 80.0, "12.8"),
    "b200": ("blackwell", "sm_100", 1, 179.1, "13.0"),
    "dgx-spark": ("blackwell", "sm_121", 1, 121.7, "13.0"),
    "h100": ("hopper", "sm_90", 1, 79.6, "13.0"),
    "h100-mig": ("hopper", "sm_90", 1, 19.6, "12.8"),
    "h200-x8": ("hopper", "sm_90", 8, 140.4, "13.0"),
    "rtx-3090": ("ampere", "sm_86", 1, 24.0, "13.0"),
    "rtx-4090": ("ada", "sm_89", 1, 24.0, "12.8"),
    "rtx-5090": ("blackwell", "sm_120", 1, 31.8, "13.2"),
    "t4": ("turing", "sm_75", 1, 15.0, "12.8"),
    "tesla-p4-x4": ("pascal", "sm_61", 4, 7.5, "12.6"),
    "thinkstation-pgx": ("blackwell", "sm_121", 1, 121.7, "13.0"),
    "v100": ("volta", "sm_70", 1, 32.0, "12.8"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_recorded_machine_gives_its_devices(name: str) -> None:
    family, arch, count, size, toolkit = MACHINES[name]
    claimed = found(machine(name))
    assert [owner for owner, _ in claimed] == [family] * count
    devices = [device for _, device in claimed]
    assert [device.index for device in devices] == list(range(count))
    for device in devices:
        assert (device.vendor, device.kind, device.arch) == ("nvidia", "cuda", arch)
        assert (device.family, device.toolkit, device.problem) == (family, toolkit, None)
        assert device.memory is not None
        assert round(device.memory / GIB, 1) == size
        unified = arch == "sm_121"
        assert device.memory_model == ("unified" if unified else "discrete")
        assert device.attributes.get("integrated", False) is unified
        assert device.attributes["compute_capability"].replace(".", "") == arch[3:]


def test_gb10_has_the_hosts_memory_and_needs_another_torch_where_it_is_a_cpu_build() -> None:
    here = machine("dgx-spark-cpu-torch")
    device = only(here)
    assert device.memory == here.memory().total
    assert device.problem == "torch 2.10.0+cpu is a CPU-only build"
    assert device.remedy == 'pip install --force-reinstall "torch==2.11.0"'


def test_numa_nodes_and_physical_numbers_are_kept() -> None:
    devices = [device for _, device in found(machine("a100-x8"))]
    assert [device.attributes["numa"] for device in devices] == [3, 3, 1, 1, 7, 7, 5, 5]
    assert [device.attributes["physical_index"] for device in devices] == list(range(8))
    assert only(machine("h100")).attributes["numa"] is None  # its firmware says -1


def test_a_card_without_its_driver_is_named_and_mended() -> None:
    device = only(machine("nvidia-driver-missing"))
    assert (device.name, device.arch) == ("NVIDIA GeForce RTX 3090", "sm_86")
    assert device.problem is not None
    assert "driver missing" in device.problem
    assert "nouveau" in device.problem
    assert "driver" in (device.remedy or "")


def test_a_library_that_answers_nvml_over_anothers_card_is_not_nvidia() -> None:
    here = machine("nvml-facade")
    assert here.query("nvml", dict).ok
    assert found(here) == []


def test_a_facade_beside_a_real_card_adds_nothing() -> None:
    here = box(gpu(0), gpu(1))
    cards = [
        card("10de", "2330", address="0000:01:00.0", driver="nvidia"),
        card("1e3e", "0002", address="0000:02:00.0"),
    ]
    assert only(changed(here, pci=cards)).pci_address == "0000:01:00.0"


# evidence other than PCI ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "paths",
    [
        ["/dev/dxg", "/usr/lib/wsl/lib/libnvidia-ml.so.1"],
        ["/etc/nv_tegra_release"],
        ["/proc/driver/nvidia/version"],
    ],
    ids=["wsl", "jetson", "driver"],
)
def test_nvml_is_believed_without_pci_on_nvidias_own_evidence(paths: list[str]) -> None:
    here = changed(box(gpu()), pci=[], paths=paths)
    assert only(here).usable
    assert found(changed(here, paths=paths[1:])) == []


@pytest.mark.parametrize("paths", [["/dev/dxg"], ["/usr/lib/wsl/lib/libnvidia-ml.so.1"], []])
def test_wsl_without_nvidias_driver_is_not_claimed(paths: list[str]) -> None:
    assert found(changed(box(gpu()), pci=[], paths=paths)) == []


def test_a_driver_that_shows_no_gpu_is_never_silent() -> None:
    here = changed(box(gpu()), pci=[], paths=["/proc/driver/nvidia/version"], queries=NO_LIBRARY)
    device = only(here)
    assert not device.usable
    assert "Shared Library Not Found" in (device.problem or "")


def test_windows_has_its_driver_in_the_driver_store() -> None:
    driver = "/C:/Windows"  # a recording holds absolute paths alone
    here = changed(box(gpu()), pci=[], paths=[driver])
    windows = changed(here, platform={"system": "Windows", "arch": "AMD64", "python": "3.12.3"})
    assert found(windows) == []

    class Windows(RecordedMachine):
        def glob(self, pattern: str) -> tuple[str, ...]:
            return (pattern.replace("*", "_1"),) if pattern.endswith("nvlddmkm.sys") else ()

    assert only(Windows(windows._document, "windows")).usable


@pytest.mark.parametrize(
    ("chip", "arch", "family"),
    [
        ("nvidia,tegra234", "sm_87", "ampere"),
        ("nvidia,tegra264", "sm_110", "blackwell"),
        ("nvidia,tegra194", "sm_72", "volta"),
        ("nvidia,tegra999", "unknown", "blackwell"),
    ],
)
def test_a_jetson_is_known_by_its_device_tree(chip: str, arch: str, family: str) -> None:
    here = fake(
        platform={"system": "Linux", "arch": "aarch64", "python": "3.10.13"},
        paths=["/etc/nv_tegra_release"],
        files={
            "/proc/device-tree/compatible": f"nvidia,p3737-0000+p3701-0005\0{chip}\0",
            "/proc/device-tree/model": "A Jetson Board\0",
        },
        queries=NO_LIBRARY,
    )
    [(owner, device)] = found(here)
    assert (owner, device.arch, device.name) == (family, arch, "A Jetson Board")
    assert (device.memory, device.memory_model) == (here.memory().total, "unified")
    assert device.problem == "torch is not installed"
    assert ("Jetson" in (device.remedy or "")) is (arch in {"sm_87", "sm_72"})
    hidden = only(changed(here, env={"CUDA_VISIBLE_DEVICES": ""}))
    assert "CUDA_VISIBLE_DEVICES" in (hidden.problem or "")


# cards that NVML is silent about -------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "paths", "said"),
    [
        (None, [], "no driver is bound"),
        ("nouveau", [], "nouveau is bound"),
        ("vfio-pci", [], "virtual machine"),
        ("nvidia", [], "container"),
        ("nvidia", ["/dev/nvidiactl"], "NVMLError_LibraryNotFound"),
    ],
)
def test_a_silent_card_says_why(driver: str | None, paths: list[str], said: str) -> None:
    here = fake(pci=[card("10de", "1eb8", driver=driver)], paths=paths, queries=NO_LIBRARY)
    [(family, device)] = found(here)
    assert (family, device.arch, device.name) == ("turing", "sm_75", "NVIDIA Tesla T4")
    assert said in (device.problem or "")
    assert device.remedy


def test_a_second_card_without_driver_comes_after_the_ones_that_work() -> None:
    here = box(gpu(0, "8.6"))
    cards = [*here._document["pci"], card("10de", "1bb3", address="0000:09:00.0", driver="nouveau")]
    claimed = found(changed(here, pci=cards))
    assert [(family, d.index, d.usable) for family, d in claimed] == [
        ("pascal", 1, False),
        ("ampere", 0, True),
    ]


def test_cards_that_are_not_graphics_are_left_alone() -> None:
    cards = [
        card("10de", "22ba", class_id="040300"),  # the sound of an RTX card
        card("10de", "22a3", address="0000:02:00.0", class_id="068000"),  # NVSwitch
    ]
    assert found(fake(pci=cards, queries=NO_LIBRARY)) == []


def test_a_card_of_no_known_block_is_there_all_the_same() -> None:
    here = fake(pci=[card("10de", "ffff")], queries=NO_LIBRARY)
    [(family, device)] = found(here)
    assert (family, device.arch, device.family) == ("blackwell", "unknown", "")
    assert device.name == "NVIDIA graphics card (10de:ffff)"


def test_names_and_chips_of_cards() -> None:
    def of(device: str) -> tuple[str, str]:
        [pci] = fake(pci=[card("10de", device)]).pci()
        return card_arch(pci), card_name(pci)

    assert of("2330") == ("sm_90", "NVIDIA H100 SXM5 80GB")
    assert of("2e12") == ("sm_121", "NVIDIA GB10")
    assert of("2480") == ("sm_86", "NVIDIA GA10x (10de:2480)")


def test_a_gpu_that_fell_off_the_bus_does_not_hide_the_others() -> None:
    here = changed(box(gpu(0)), queries=nvml({"index": 0, "error": "GPU is lost"}, gpu(1)))
    claimed = [device for _, device in found(here)]
    assert sorted((d.index, d.usable) for d in claimed) == [(0, True), (1, False)]
    lost = next(device for device in claimed if not device.usable)
    assert "GPU is lost" in (lost.problem or "")


# families ------------------------------------------------------------------------------------


def every_arch() -> list[str]:
    known = [arch for arch in archs().archs if arch.startswith("sm_")]
    unknown = ["sm_30", "sm_52", "sm_53", "sm_62", "sm_72", "sm_88", "sm_91", "sm_130", "sm_200"]
    return [*known, *unknown, "unknown"]


@pytest.mark.parametrize("arch", every_arch())
def test_every_architecture_is_claimed_by_exactly_one_family(arch: str) -> None:
    capability = "" if arch == "unknown" else f"{arch[3:-1]}.{arch[-1]}"
    if capability:
        claimed = found(box(gpu(0, capability)))
        assert [family for family, _ in claimed] == [family_of(arch)]
    device = Device(vendor="nvidia", name="x", kind="cuda", arch=arch)
    answering = [
        family
        for family in FAMILIES
        if list(getattr(accel_nvidia, family).accel_capabilities(device=device, machine=fake()))
    ]
    assert answering == [family_of(arch)]


@pytest.mark.parametrize(
    ("capability", "family"), [("13.0", "blackwell"), ("8.8", "ampere"), ("20.1", "blackwell")]
)
def test_an_unknown_architecture_is_a_device_left_to_probes(capability: str, family: str) -> None:
    here = box(gpu(0, capability))
    [(owner, device)] = found(here)
    assert (owner, device.family, device.usable) == (family, "", True)
    assert "no facts" in device.attributes["remark"]
    decisions = decided(here)
    for feature, name in (
        (Feature.DTYPE, "bfloat16"),
        (Feature.DTYPE, "float16"),
        (Feature.DTYPE, "float32"),
        (Feature.ATTENTION, "sdpa"),
        (Feature.ATTENTION, "eager"),
    ):
        decision = decisions.find(feature, name)
        assert decision is not None
        assert decision.accepted
        assert decision.impl.probe is not None
        assert decision.impl.confidence == "inferred"


@pytest.mark.parametrize("capability", ["5.2", "6.2", "7.2"])
def test_an_unknown_old_architecture_gets_no_emulated_bfloat16(capability: str) -> None:
    here = changed(
        box(gpu(0, capability)),
        distribution_files={"torch:torch/version.py": "__version__ = '2.7.1+cu126'\ncuda = '12.6'"},
    )
    assert decided(here).best(Feature.DTYPE).name == "float16"  # type: ignore[union-attr]


def test_a_stranger_s_device_is_not_answered_for() -> None:
    device = Device(vendor="other", name="x", kind="cuda", arch="sm_90")
    for family in FAMILIES:
        plugin = getattr(accel_nvidia, family)
        assert list(plugin.accel_capabilities(device=device, machine=fake())) == []


def test_each_family_is_an_entry_point_of_its_own() -> None:
    import importlib.metadata

    named = {
        entry.name: entry.value
        for entry in importlib.metadata.entry_points(group="accel")
        if entry.value.startswith("accel_nvidia")
    }
    assert named == {family: f"accel_nvidia:{family}" for family in FAMILIES}
    assert {archs().archs[arch].family for arch in archs().archs if is_known(arch)} == set(FAMILIES)
    assert list(facts().archs) == list(archs().archs)


# privacy and torch ---------------------------------------------------------------------------


def test_recordings_hold_nothing_private() -> None:
    for name in [*MACHINES, "dgx-spark-cpu-torch", "nvidia-driver-missing", "nvml-facade"]:
        text = json.dumps(machine(name)._document).lower()
        assert not re.search(r"uuid|serial|gpu-[0-9a-f]{4}|mig-[0-9a-f]{4}|devices\.toml", text)


def test_detecting_and_declaring_import_no_torch_and_no_nvml_bindings() -> None:
    program = """
        import sys
        import accel_nvidia
        from accel.testing import machine
        here = machine("h100")
        [device] = accel_nvidia.hopper.accel_detect(machine=here)
        assert len(list(accel_nvidia.hopper.accel_capabilities(device=device, machine=here))) > 20
        assert not {"torch", "ctypes", "transformers"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
