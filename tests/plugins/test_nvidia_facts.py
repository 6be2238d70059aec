"""NVIDIA: what the facts decide on the recorded machines, and that the facts hold together."""

from __future__ import annotations

import pytest
from asking import changed, check_facts, refused
from test_nvidia import decided

from accel.recording import RecordedMachine
from accel.testing import machine
from accel.values import Device, Feature
from accel_nvidia import ampere, blackwell, probes
from accel_nvidia.knowledge import archs, facts, impls_of, is_known, traits_of

KNOWN = [arch for arch in archs().archs if arch.startswith("sm_")]


def with_packages(name: str, **versions: str) -> RecordedMachine:
    here = machine(name)
    more = {key.replace("_", "-"): value for key, value in versions.items()}
    return changed(here, distributions={**here.distributions(), **more})


def accepted(name: str, feature: Feature) -> set[str]:
    return {d.name for d in decided(machine(name)).of(feature) if d.accepted}


def test_every_fact_has_a_source_and_a_probe_that_can_be_called() -> None:
    check_facts("accel_nvidia")


def test_every_source_is_used_and_none_names_this_project_s_own_notes() -> None:
    used = {impl.source for arch in facts().archs.values() for impl in arch.impls}
    unused = set(facts().sources.values()) - used
    assert unused == set()


@pytest.mark.parametrize("arch", KNOWN)
def test_every_known_architecture_says_yes_or_no_to_the_same_things(arch: str) -> None:
    named = {(impl.feature, impl.name) for impl in impls_of(arch)}
    assert named == {(impl.feature, impl.name) for impl in impls_of("sm_90")}
    assert isinstance(traits_of(arch)["features"], list)
    assert arch in traits_of(arch)["runs"] or arch == "sm_101"  # Thor's old name


@pytest.mark.parametrize(
    ("name", "dtype", "attention"),
    [
        ("tesla-p4-x4", "float32", "sdpa"),
        ("v100", "float16", "sdpa"),
        ("t4", "float16", "sdpa"),
        ("a100-x8", "bfloat16", "sdpa"),
        ("rtx-3090", "bfloat16", "sdpa"),
        ("rtx-4090", "bfloat16", "sdpa"),
        ("h100", "bfloat16", "sdpa"),
        ("b200", "bfloat16", "sdpa"),
        ("rtx-5090", "bfloat16", "sdpa"),
        ("dgx-spark", "bfloat16", "sdpa"),
    ],
)
def test_what_is_best(name: str, dtype: str, attention: str) -> None:
    decisions = decided(machine(name))
    best = {feature: decisions.best(feature) for feature in Feature}
    assert best[Feature.DTYPE].name == dtype  # type: ignore[union-attr]
    assert best[Feature.ATTENTION].name == attention  # type: ignore[union-attr]
    assert best[Feature.COLLECTIVE].name == "nccl"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["tesla-p4-x4", "v100", "t4"])
def test_before_ampere_bfloat16_is_emulated_and_there_is_no_flash_attention(name: str) -> None:
    decisions = decided(with_packages(name, flash_attn="2.8.3"))
    assert refused(decisions, Feature.DTYPE, "bfloat16").startswith("emulated")
    assert "sm_80" in refused(decisions, Feature.ATTENTION, "flash_attention_2")
    assert "sm_80" in refused(decisions, Feature.OP, "sdpa_flash")


def test_a_p4_computes_in_float32() -> None:
    decisions = decided(machine("tesla-p4-x4"))
    assert "1/64" in refused(decisions, Feature.DTYPE, "float16")
    for name in ("sdpa", "eager"):
        decision = decisions.find(Feature.ATTENTION, name)
        assert decision is not None
        assert decision.impl.probe is not None
        assert decision.impl.probe.arguments["dtype"] == "float32"


def test_flash_attention_is_there_for_whom_asks() -> None:
    assert accepted("rtx-4090", Feature.ATTENTION) == {"sdpa", "flash_attention_2", "eager"}
    assert "not installed" in refused(
        decided(machine("h100")), Feature.ATTENTION, "flash_attention_3"
    )
    decisions = decided(with_packages("h100", flash_attn="2.8.3", flash_attn_3="3.0.0"))
    assert decisions.supports(Feature.ATTENTION, "flash_attention_3")
    assert decisions.best(Feature.ATTENTION).name == "sdpa"  # type: ignore[union-attr]
    old = decided(with_packages("rtx-5090", flash_attn="2.7.2"))
    assert "2.7.3" in refused(old, Feature.ATTENTION, "flash_attention_2")


def test_gptq_by_triton_on_gb10_waits_for_triton_3_6() -> None:
    assert "gptq_triton" in accepted("dgx-spark", Feature.QUANT)
    reason = refused(decided(machine("thinkstation-pgx")), Feature.QUANT, "gptq_triton")
    assert "found 3.5.1" in reason
    assert "ptxas 12.8 does not know sm_121" in reason


def test_everything_triton_compiles_on_gb10_waits_for_it() -> None:
    here = with_packages("thinkstation-pgx", kernels="0.10.0")
    decisions = decided(here)
    for feature, names in (
        (Feature.OP, ("triton", "compile")),
        (Feature.QUANT, ("gptq_triton", "awq_triton", "fp8", "mxfp4")),
        (Feature.DTYPE, ("mxfp4",)),
    ):
        for name in names:
            assert "triton>=3." in refused(decisions, feature, name)
    device = Device(vendor="nvidia", name="x", kind="cuda", arch="sm_120")
    on_5090 = {i.name: i for i in blackwell.accel_capabilities(device=device, machine=here)}
    assert on_5090["gptq_triton"].requires == ("triton>=3.3",)


@pytest.mark.parametrize(
    ("triton", "variable", "helps"),
    [
        ("3.5.1", "TRITON_PTXAS_PATH", True),
        ("3.5.1", "TRITON_PTXAS_BLACKWELL_PATH", False),
        ("3.2.0", "TRITON_PTXAS_PATH", False),
    ],
)
def test_a_ptxas_of_ones_own_mends_an_older_triton(triton: str, variable: str, helps: bool) -> None:
    here = changed(with_packages("dgx-spark", triton=triton), env={variable: "/cuda/bin/ptxas"})
    decision = decided(here).find(Feature.QUANT, "gptq_triton")
    assert decision is not None
    assert decision.accepted is helps
    assert ("/cuda/bin/ptxas" in decision.reason) is helps


def test_thor_takes_the_variable_that_its_triton_reads() -> None:
    device = Device(vendor="nvidia", name="x", kind="cuda", arch="sm_110")

    def needs(variable: str) -> tuple[str, ...]:
        here = changed(with_packages("dgx-spark", triton="3.6.0"), env={variable: "/ptxas"})
        found = blackwell.accel_capabilities(device=device, machine=here)
        return next(impl.requires for impl in found if impl.name == "triton")

    assert needs("TRITON_PTXAS_BLACKWELL_PATH") == ("triton>=3.3",)
    assert needs("TRITON_PTXAS_PATH") == ("triton>=3.7",)


def test_fp8_is_native_from_ada_on() -> None:
    for name in ("a100-x8", "rtx-3090"):
        assert "sm_89" in refused(decided(machine(name)), Feature.DTYPE, "float8_e4m3fn")
    for name in ("rtx-4090", "h100", "b200", "rtx-5090", "dgx-spark"):
        assert {"float8_e4m3fn", "float8_e5m2"} <= accepted(name, Feature.DTYPE)


def test_four_bit_floats_are_blackwells() -> None:
    assert "Blackwell" in refused(decided(machine("h100")), Feature.DTYPE, "nvfp4")
    for name in ("b200", "rtx-5090"):
        assert {"nvfp4", "mxfp4"} <= accepted(name, Feature.DTYPE)
    reason = refused(decided(machine("dgx-spark")), Feature.DTYPE, "mxfp4")
    assert "triton>=3.8" in reason


def test_nccl_says_which_dtypes_it_refuses() -> None:
    def refuses(name: str) -> list[str]:
        decision = decided(machine(name)).find(Feature.COLLECTIVE, "nccl")
        assert decision is not None
        return list(decision.impl.limits.get("refuses_dtypes", []))

    assert refuses("a100-x8") == ["float8_e4m3fn", "float8_e5m2"]
    assert refuses("rtx-4090") == ["float8_e4m3fn", "float8_e5m2"]
    assert refuses("h100") == refuses("b200") == refuses("dgx-spark") == []


def test_nccl_is_not_on_windows() -> None:
    here = changed(
        machine("rtx-3090"), platform={"system": "Windows", "arch": "AMD64", "python": "3.12.3"}
    )
    device = Device(vendor="nvidia", name="x", kind="cuda", arch="sm_86")
    nccl = next(
        impl
        for impl in ampere.accel_capabilities(device=device, machine=here)
        if impl.name == "nccl"
    )
    assert "Windows" in (nccl.unavailable or "")


def test_blackwells_are_five_machines() -> None:
    """No feature follows from a higher number: sm_120 and sm_121 lack what sm_100 has."""
    for arch in ("sm_100", "sm_103", "sm_110"):
        assert "tcgen05" in traits_of(arch)["features"]
        assert traits_of(arch)["smem_kib"] == 227
    for arch in ("sm_120", "sm_121"):
        assert not {"tcgen05", "wgmma"} & set(traits_of(arch)["features"])
        assert traits_of(arch)["smem_kib"] == 99
    assert [arch for arch in KNOWN if "wgmma" in traits_of(arch)["features"]] == ["sm_90"]
    unified = {arch for arch in KNOWN if traits_of(arch).get("memory_model") == "unified"}
    assert unified == {"sm_87", "sm_101", "sm_110", "sm_121"}
    assert not is_known("unknown")


# probes of the plugin's own ------------------------------------------------------------------


def test_nvfp4_is_refused_where_torch_cannot_multiply_it() -> None:
    pytest.importorskip("torch")
    with pytest.raises((RuntimeError, NotImplementedError, probes.Refused, ValueError)):
        probes.nvfp4_matmul("cpu")


def test_codes_of_four_bits_stand_for_their_values() -> None:
    torch = pytest.importorskip("torch")
    packed, values = probes._codes(64, 3)
    low, high = (packed & 15).long(), (packed >> 4).long()
    codes = torch.stack([low, high], dim=-1).reshape(64, 64)
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    assert torch.equal(values, torch.where(codes >= 8, -1.0, 1.0) * table[codes % 8])


def test_a_wrong_product_is_refused() -> None:
    torch = pytest.importorskip("torch")
    right = torch.ones(4, 4)
    assert "max relative error 0.0e+00" in probes._verdict("x", right, right.double(), "cpu", 4, 0)
    wrong = right.clone()
    wrong[0, 0] = 1.01
    with pytest.raises(probes.Refused, match="the x product is wrong"):
        probes._verdict("x", wrong, right.double(), "cpu", 4, 0)
    wrong[0, 0] = float("nan")
    with pytest.raises(probes.Refused, match="not finite"):
        probes._verdict("x", wrong, right.double(), "cpu", 4, 0)
    with pytest.raises(probes.Refused, match="not on cuda"):
        probes._verdict("x", right, right.double(), "cuda:0", 4, 0)
