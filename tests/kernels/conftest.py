"""Models and checkpoints that several test modules load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from accel.report import Report


@pytest.fixture(scope="module")
def served(checkpoints: dict[str, Path]) -> Iterator[Report]:
    """`accel.auto()` in force, on the processor and without probes; then undone.

    After `checkpoints`, which has it in force for a while itself.
    """
    import accel

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCEL_PROBE", "0")
        patch.delenv("ACCEL_QUANT", raising=False)
        report = accel.auto("cpu")
        yield report
        report.revert()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`llama` and `qwen2` in float32, and of each an `-awq` and a `-gptq` checkpoint."""
    import accel
    import tiny_models

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCEL_PROBE", "0")
        report = accel.auto("cpu")  # some environments cannot import transformers without it
        root = tmp_path_factory.mktemp("checkpoints")
        made = {}
        for kind in ("llama", "qwen2"):
            made[kind] = tiny_models.plain(root / kind, kind)
            for format in ("awq", "gptq"):  # noqa: A001
                name = f"{kind}-{format}"
                made[name] = tiny_models.quantized(made[kind], root / name, format)
        report.revert()
    return made
