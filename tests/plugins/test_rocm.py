"""AMD's GPUs and Hygon's DCUs: told apart by PCI vendor, numbered as HIP numbers them."""

from __future__ import annotations

import importlib
import inspect

import pytest
from asking import (
    best,
    capabilities,
    card,
    changed,
    devices,
    fake,
    impls,
    imports_no_torch,
    refused,
)
from hypothesis import given
from hypothesis import strategies as st

from accel.facts import load_facts
from accel.recording import RecordedMachine
from accel.resolving import Capabilities
from accel.testing import machine
from accel.values import Feature
from accel_rocm import kfd

PLUGIN = "accel_rocm"
FILES = ("amd.toml", "hygon.toml")
GATE = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"


def env(here: RecordedMachine, **variables: str) -> RecordedMachine:
    return changed(here, env={**here._document["env"], **variables})


@pytest.mark.parametrize(
    ("name", "count", "vendor", "label", "arch", "mib", "attention", "dtype"),
    [
        ("mi300x", 2, "amd", "AMD Instinct MI300X OAM", "gfx942", 196592, "sdpa", "bfloat16"),
        ("rx-7900", 1, "amd", "AMD Radeon RX 7900 XT/XTX", "gfx1100", 24560, "sdpa", "bfloat16"),
        (
            "strix-point",
            1,
            "amd",
            "AMD Radeon 880M/890M (Strix Point)",
            "gfx1150",
            31744,
            "sdpa",
            "bfloat16",
        ),
        ("hygon-z100", 2, "hygon", "Z100L", "gfx906", 32752, "sdpa", "float16"),
        ("hygon-k100ai-x8", 8, "hygon", "K100_AI", "gfx928", 65520, "eager", "bfloat16"),
        ("hygon-bw1000", 4, "hygon", "BW series", "gfx936", 65520, "sdpa", "bfloat16"),
    ],
)
def test_recorded_machines(
    name: str,
    count: int,
    vendor: str,
    label: str,
    arch: str,
    mib: int,
    attention: str,
    dtype: str,
) -> None:
    found = devices(PLUGIN, machine(name))
    assert [d.torch_name for d in found] == [f"cuda:{index}" for index in range(count)]
    assert {(d.vendor, d.name, d.arch, d.problem) for d in found} == {(vendor, label, arch, None)}
    assert {d.memory for d in found} == {mib * 2**20}
    decided = capabilities(PLUGIN, machine(name))
    assert best(decided, Feature.ATTENTION) == attention
    assert best(decided, Feature.DTYPE) == dtype
    assert best(decided, Feature.COLLECTIVE) == "nccl"


def test_the_readings_are_kept() -> None:
    first = devices(PLUGIN, machine("mi300x"))[0]
    assert (first.driver, first.toolkit, first.pci_address) == (
        "6.10.5",
        "7.0.2-56",
        "0000:26:00.0",
    )
    assert first.attributes["compute_units"] == 304
    assert devices(PLUGIN, machine("hygon-k100ai-x8"))[7].pci_address == "0000:2c:00.0"


def test_one_gfx906_is_not_the_other() -> None:
    """The same name from another vendor is another machine: its driver, torch and facts differ."""
    hygon = machine("hygon-z100")
    amd_cards = [
        {**pci, "vendor": "1002", "device": "66a1", "driver": "amdgpu"}
        if pci["class_id"] == "038000"
        else pci
        for pci in hygon._document["pci"]
    ]
    amd = changed(hygon, pci=amd_cards)
    assert {d.arch for d in devices(PLUGIN, hygon) + devices(PLUGIN, amd)} == {"gfx906"}
    assert {d.vendor for d in devices(PLUGIN, hygon)} == {"hygon"}
    assert {d.vendor for d in devices(PLUGIN, amd)} == {"amd"}
    assert "Hygon" in refused(capabilities(PLUGIN, hygon), Feature.QUANT, "bitsandbytes_4bit")
    assert "wheel" in refused(capabilities(PLUGIN, amd), Feature.QUANT, "bitsandbytes_4bit")


def test_gfx1150_is_a_name_and_no_version() -> None:
    """Law 8: nothing of a device or its implementations makes a number of gfx1150."""
    here = machine("strix-point")
    device = devices(PLUGIN, here)[0]
    assert device.arch == "gfx1150"
    assert device.memory_model == "unified"
    said = [str(device), *map(str, impls(PLUGIN, device, here))]
    assert not any("11.5" in text or "(11, 5)" in text for text in said)
    assert device.priority < devices(PLUGIN, machine("rx-7900"))[0].priority


@pytest.mark.parametrize(
    ("version", "arch"),
    [
        (90402, "gfx942"),
        (90010, "gfx90a"),
        (90006, "gfx906"),
        (90208, "gfx928"),
        (90306, "gfx936"),
        (90500, "gfx950"),
        (100306, "gfx1036"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (0, None),
    ],
)
def test_target_versions(version: int, arch: str | None) -> None:
    assert kfd.architecture(version) == arch


@given(st.integers(0, 2**64 - 1))
def test_every_target_version_gives_a_name_or_nothing(version: int) -> None:
    arch = kfd.architecture(version)
    assert arch is None or arch.startswith("gfx")


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_addresses_are_pci_addresses(domain: int, location: int) -> None:
    text = kfd.address(domain, location)
    dom, bus, rest = text.split(":")
    slot, function = rest.split(".")
    assert (int(dom, 16), int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)) == (
        domain,
        location,
    )


def test_graphics_of_a_processor_are_counted_but_not_offered() -> None:
    found = devices(PLUGIN, machine("rx-7900"))
    assert [(d.arch, d.index) for d in found] == [("gfx1100", 0)]
    both = env(machine("rx-7900"), HIP_VISIBLE_DEVICES="1,0")
    assert [(d.arch, d.torch_name) for d in devices(PLUGIN, both)] == [("gfx1100", "cuda:1")]
    forced = env(machine("rx-7900"), HSA_OVERRIDE_GFX_VERSION="10.3.0")
    assert [d.arch for d in devices(PLUGIN, forced)] == ["gfx1100", "gfx1036"]


def test_sound_bridges_and_others_cards_are_left_alone() -> None:
    cards = [
        card("1002", "ab30", class_id="040300"),
        card("1002", "164e", class_id="030000", address="0000:16:00.0"),
        card("1d94", "1450", class_id="060000", address="0000:00:00.0"),
        card("10de", "2684", address="0000:02:00.0"),
    ]
    assert devices(PLUGIN, fake(pci=cards)) == []


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"])
@given(chosen=st.lists(st.integers(0, 12), unique=True, max_size=8))
def test_hip_keeps_the_order_and_stops_at_what_is_not_there(
    variable: str, chosen: list[int]
) -> None:
    text = ",".join(map(str, chosen))
    found = devices(PLUGIN, env(machine("hygon-k100ai-x8"), **{variable: text}))
    valid = chosen[: next((i for i, n in enumerate(chosen) if n > 7), len(chosen))]
    assert [d.attributes["physical_id"] for d in found] == (valid or list(range(8)))
    assert [d.index for d in found] == list(range(len(valid or range(8))))
    for one in found:
        assert (f"hidden by {variable}={text!r}" in (one.problem or "")) is not bool(valid)


@given(
    st.permutations(range(8)).flatmap(lambda p: st.integers(1, 8).map(lambda n: p[:n])),
    st.data(),
)
def test_hip_chooses_among_what_the_runtime_below_left(
    outer: list[int], data: st.DataObject
) -> None:
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), unique=True))
    here = env(
        machine("hygon-k100ai-x8"),
        ROCR_VISIBLE_DEVICES=",".join(map(str, outer)),
        HIP_VISIBLE_DEVICES=",".join(map(str, inner)),
        CUDA_VISIBLE_DEVICES="7",
    )
    found = devices(PLUGIN, here)
    chosen = [outer[place] for place in inner]
    assert [d.attributes["physical_id"] for d in found] == (chosen or list(range(8)))
    assert [one.problem is None for one in found] == [bool(chosen)] * len(found)


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0"}, "unset HIP_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "unset CUDA_VISIBLE_DEVICES"),
        ({"ROCR_VISIBLE_DEVICES": "9"}, "unset ROCR_VISIBLE_DEVICES"),
        (
            {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"},
            "unset ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES",
        ),
        # the graphics of the processor, on which torch does not compute, is all that is left
        ({"HIP_VISIBLE_DEVICES": "1"}, "unset HIP_VISIBLE_DEVICES"),
    ],
)
def test_a_card_that_is_hidden_is_told_of(variables: dict[str, str], remedy: str) -> None:
    (found,) = devices(PLUGIN, env(machine("rx-7900"), **variables))
    assert (found.arch, found.remedy) == ("gfx1100", remedy)
    assert "no card is left to torch" in (found.problem or "")


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_setting_breaks_detection(rocr: str, hip: str) -> None:
    here = env(machine("hygon-k100ai-x8"), ROCR_VISIBLE_DEVICES=rocr, HIP_VISIBLE_DEVICES=hip)
    found = devices(PLUGIN, here)
    assert len({d.attributes["physical_id"] for d in found}) == len(found) <= 8


def rebuilt(
    name: str, version: str, *, cuda: str | None = None, hip: str | None = None
) -> RecordedMachine:
    here = machine(name)
    text = f"__version__ = {version!r}\ncuda = {cuda!r}\nhip: str = {hip!r}\n"
    return changed(
        here,
        distributions={**here.distributions(), "torch": version},
        distribution_files={"torch:torch/version.py": text},
    )


@pytest.mark.parametrize(
    ("here", "problem", "remedy"),
    [
        (
            rebuilt("mi300x", "2.13.0", cuda="13.0"),
            "built for CUDA 13.0, not ROCm",
            "torch-backend",
        ),
        (rebuilt("mi300x", "2.13.0+cpu"), "built for the CPU, not ROCm", "torch-backend=rocm"),
        (
            rebuilt("hygon-k100ai-x8", "2.13.0", cuda="13.0"),
            "built for CUDA 13.0: it has replaced",
            "--no-deps --force-reinstall torch-*+das*dtk2604*-cp311-*.whl",
        ),
        (
            rebuilt("hygon-k100ai-x8", "2.9.1+rocm6.4", hip="6.4"),
            "built for AMD's ROCm: it has replaced",
            "+das",
        ),
        (changed(machine("mi300x"), distributions={}), "torch is not installed", "uv pip install"),
        (changed(machine("mi300x"), paths=[]), "not in this container", "--device=/dev/kfd"),
        (changed(machine("hygon-bw1000"), paths=[]), "not in this container", "--device=/dev/mkfd"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    here: RecordedMachine, problem: str, remedy: str
) -> None:
    first = devices(PLUGIN, here)[0]
    assert problem in str(first.problem)
    assert remedy in str(first.remedy)


@pytest.mark.parametrize("name", ["mi300x", "hygon-k100ai-x8", "hygon-bw1000", "strix-point"])
def test_a_card_without_its_driver_is_found_on_the_bus(name: str) -> None:
    there = machine(name)
    cards = [{**pci, "driver": None} for pci in there._document["pci"]]
    found = devices(PLUGIN, changed(there, pci=cards, paths=[], files={}))
    expected = devices(PLUGIN, there)
    assert [(d.vendor, d.arch, d.pci_address) for d in found] == [
        (d.vendor, d.arch, d.pci_address) for d in expected
    ]
    assert "driver is not loaded" in str(found[0].problem)
    assert found[0].remedy


def test_dtk_s_sdpa_needs_its_flash_attn() -> None:
    without = capabilities(PLUGIN, machine("hygon-k100ai-x8"))
    assert "No matching libraries found" in refused(without, Feature.ATTENTION, "sdpa")
    assert refused(without, Feature.OP, "sdpa_flash")
    with_it = capabilities(PLUGIN, machine("hygon-bw1000"))
    assert with_it.supports(Feature.ATTENTION, "flash_attention_2")
    assert with_it.supports(Feature.OP, "sdpa_flash")


def test_flash_of_sdpa_on_rdna_waits_for_its_switch() -> None:
    """Without the switch torch takes math and says nothing."""
    closed = capabilities(PLUGIN, machine("rx-7900"))
    assert f"{GATE}=1" in refused(closed, Feature.OP, "sdpa_flash")
    opened = capabilities(PLUGIN, env(machine("rx-7900"), **{GATE: "1"}))
    assert opened.supports(Feature.OP, "sdpa_flash")
    assert capabilities(PLUGIN, machine("mi300x")).supports(Feature.OP, "sdpa_flash")


def test_triton_counts_under_every_name_it_has() -> None:
    for name in ("mi300x", "rx-7900", "hygon-bw1000"):
        assert capabilities(PLUGIN, machine(name)).supports(Feature.OP, "triton")
    assert "triton" in refused(capabilities(PLUGIN, machine("hygon-z100")), Feature.OP, "triton")


def test_an_architecture_to_come_is_promised_little() -> None:
    here = machine("mi300x")
    files = {
        path: text.replace("gfx_target_version 90402", "gfx_target_version 130000")
        for path, text in here._document["files"].items()
    }
    later = changed(here, files=files)
    device = devices(PLUGIN, later)[0]
    assert device.arch == "gfx1300"
    decided = Capabilities(device, impls(PLUGIN, device, later), later)
    assert best(decided, Feature.DTYPE) == "float16"
    assert "not known" in refused(decided, Feature.DTYPE, "bfloat16")


def test_fp8_encodings_are_told_apart() -> None:
    assert "e4m3fnuz" in refused(
        capabilities(PLUGIN, machine("mi300x")), Feature.DTYPE, "float8_e4m3fn"
    )
    mi350 = next(
        i for i in load_facts(PLUGIN, "amd.toml").archs["gfx950"].impls if i.name == "float8_e4m3fn"
    )
    assert mi350.unavailable is None


@pytest.mark.parametrize("resource", FILES)
def test_facts(resource: str) -> None:
    facts = load_facts(PLUGIN, resource)
    for arch in facts.archs.values():
        for impl in arch.impls:
            where = f"{resource}: {arch.arch} {impl.feature.value} {impl.name}"
            assert impl.source in facts.sources.values(), where
            if impl.unavailable is None:
                assert impl.probe is not None, where
                module, _, name = impl.probe.function.partition(":")
                function = getattr(importlib.import_module(module), name)
                inspect.signature(function).bind("cuda:0", **impl.probe.arguments)
        if "trap" in arch.extra:
            assert arch.extra["trap"]["source"] in facts.sources
    assert {row["arch"] for row in facts.extra["pci"].values()} <= set(facts.archs)
    assert set(facts.extra["table_sources"].values()) <= set(facts.sources)


def test_the_two_vendors_share_no_facts() -> None:
    amd, hygon = (load_facts(PLUGIN, resource) for resource in FILES)
    assert set(amd.archs) & set(hygon.archs) == {"gfx906", "unknown"}
    assert not set(amd.sources.values()) & set(hygon.sources.values()) - {
        amd.sources["fa_csrc"],
        amd.sources["bnb_ci"],
    }


def test_detection_imports_no_torch() -> None:
    imports_no_torch(PLUGIN, "mi300x")
