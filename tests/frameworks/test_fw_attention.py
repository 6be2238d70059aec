"""A request for attention becomes what the device has and the model can do."""

from __future__ import annotations

import importlib.util

import pytest

from accel.errors import CapabilityUnavailable
from accel.values import Feature, Impl, Level
from accel_frameworks import attention
from accel_frameworks.flash import _guarded
from accel_frameworks.transformers import _autoset, _checked

NO_FLASH = {
    (Feature.ATTENTION, "flash_attention_2"): "no such kernel for test_1",
    (Feature.ATTENTION, "flash_attention_3"): "no such kernel for test_1",
}
ALL = ("flash_attention_2", "sdpa", "eager")


class Llama:
    _supports_sdpa = True
    _supports_flash_attn = True


class OldLlama:
    _supports_sdpa = True
    _supports_flash_attn_2 = True


class EagerOnly:
    _supports_sdpa = False
    _supports_flash_attn = False


@pytest.mark.parametrize(
    ("requested", "got"),
    [
        (None, None),
        ("sdpa", "sdpa"),
        ("eager", "eager"),
        ("flash_attention_2", "sdpa"),
        ("flash_attention_3", "sdpa"),
        ("paged|flash_attention_2", "paged|sdpa"),
        ("paged|eager", "paged|eager"),
        ("flex_attention", "flex_attention"),
        ("kernels-community/flash-attn2", "kernels-community/flash-attn2"),
    ],
)
@pytest.mark.parametrize("model", [Llama, Llama(), OldLlama], ids=["class", "instance", "old"])
def test_a_device_without_flash_attention(capable, model, requested, got):
    capabilities = capable(lacking=NO_FLASH)
    assert attention.settle(model, requested, capabilities) == got
    if requested == got:
        assert capabilities.notes == ()
    else:
        (note,) = capabilities.notes
        assert note.level is Level.DOWNGRADE
        assert "Llama(attn_implementation=" in note.subject
        assert "no such kernel for test_1" in note.message


def test_a_device_with_it_gets_it_and_nothing_is_said(capable):
    capabilities = capable(kind="cuda", attention=ALL)
    assert attention.settle(Llama, "flash_attention_2", capabilities) == "flash_attention_2"
    assert capabilities.notes == ()


def test_strict_refuses(capable):
    with pytest.raises(CapabilityUnavailable, match="no such kernel"):
        attention.settle(Llama, "flash_attention_2", capable(lacking=NO_FLASH, strict=True))


def test_a_model_without_sdpa_gets_eager_and_it_is_said(capable):
    capabilities = capable(lacking=NO_FLASH)
    assert attention.settle(EagerOnly, "flash_attention_2", capabilities) == "eager"
    assert "this model has no sdpa" in capabilities.notes[-1].message


@pytest.mark.parametrize(("model", "got"), [(Llama, "eager"), (EagerOnly, None)])
def test_a_device_without_sdpa(capable, model, got):
    capabilities = capable(
        attention=("eager",), lacking={(Feature.ATTENTION, "sdpa"): "is wrong here"}
    )
    assert attention.settle(model, None, capabilities) == got
    assert [note.level for note in capabilities.notes] == ([Level.DOWNGRADE] if got else [])


@pytest.mark.parametrize("requested", [None, "sdpa", "flash_attention_2"])
def test_what_the_user_named_in_auto_comes_first(capable, requested):
    capabilities = capable(attention=ALL, wanted={Feature.ATTENTION: "eager"})
    assert attention.settle(Llama, requested, capabilities) == "eager"


def test_what_the_user_named_and_the_model_lacks_is_said(capable):
    capabilities = capable(attention=ALL, wanted={Feature.ATTENTION: "flash_attention_2"})
    assert attention.settle(EagerOnly, None, capabilities) == "eager"
    assert "this model has no flash_attention_2" in capabilities.notes[-1].message


def test_a_device_that_declares_no_attention_is_left_alone(capable):
    capabilities = capable(attention=())
    assert attention.settle(Llama, "flash_attention_2", capabilities) == "flash_attention_2"


@pytest.mark.parametrize("there", [True, False])
def test_a_missing_package_is_left_to_the_library_that_can_fetch_the_kernel(
    capable, monkeypatch, there
):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (object() if there else None) if name == "kernels" else real(name),
    )
    capabilities = capable(kind="cuda")
    missing = Impl(
        feature=Feature.ATTENTION,
        name="flash_attention_2",
        priority=200,
        requires=("no-such-distribution-of-flash>=2",),
    )
    with_missing = type(capabilities)(
        capabilities.device,
        [missing, *(decision.impl for decision in capabilities.decisions)],
        _machine(),
    )
    got = attention.settle(Llama, "flash_attention_2", with_missing)
    assert got == ("flash_attention_2" if there else "sdpa")


def _machine():
    from accel.machine import ThisMachine

    return ThisMachine()


def test_the_check_of_new_versions_gets_the_settled_name(capable):
    seen = []
    check = _checked(
        lambda self, name, *rest, **named: seen.append((name, rest, named)) or name,
        capable(lacking=NO_FLASH),
    )
    assert check(Llama(), "flash_attention_2", True, allow_all_kernels=False) == "sdpa"
    assert check(Llama(), attn_implementation=None) is None
    assert seen == [("sdpa", (True,), {"allow_all_kernels": False}), (None, (), {})]


@pytest.mark.parametrize(
    ("internal", "old_flag", "left"),
    [
        (None, False, None),
        ("sdpa", False, "sdpa"),
        ("flash_attention_2", False, "sdpa"),
        (None, True, "sdpa"),
        ({"text": "flash_attention_2", "vision": None}, False, {"text": "sdpa", "vision": None}),
    ],
)
def test_the_class_method_of_old_versions_gets_the_settled_name(capable, internal, old_flag, left):
    class Config:
        _attn_implementation_internal = internal

    class Model(OldLlama):
        @classmethod
        def autoset(cls, config, torch_dtype=None):
            return cls, config._attn_implementation_internal, torch_dtype

    replacement = _autoset(vars(Model)["autoset"], capable(lacking=NO_FLASH))
    answer = replacement.__get__(None, Model)(
        Config(), use_flash_attention_2=old_flag, torch_dtype="x"
    )
    assert answer == (Model, left, "x")


def test_a_missing_sink_reaches_the_kernel_as_none():
    def broken(query, s_aux=None):
        return s_aux.to("half")

    class Sink:
        def to(self, dtype):
            return f"sink in {dtype}"

    with pytest.raises(AttributeError):
        broken("query")
    assert _guarded(broken)("query") is None
    assert _guarded(broken)("query", s_aux=Sink()) == "sink in half"
