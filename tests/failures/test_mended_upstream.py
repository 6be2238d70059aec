"""Where upstream has mended it, the patch is not applied."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from test_failures import SECONDS, python_of, surroundings

ASK = """
import json, runner, failure
from accel.patching import Journal
found = {}
for having in (
    failure.Having(kind="cuda", attention=("flash_attention_2", "sdpa")),
    failure.Having(kind="mlu", collective=("cncl",)),
):
    capabilities, machine = runner.described(having)
    journal = Journal()
    journal.apply(runner.collected(capabilities, machine), version=machine.version)
    for entry in journal.entries:
        key = f"{entry.patch.target} {entry.patch.distribution} {entry.patch.versions}"
        found[key] = [entry.state, entry.detail]
    journal.revert()
print(json.dumps(found))
"""
ALIAS = "transformers.activations transformers >=4.57,<5"
AWQ = (
    "transformers.quantizers.quantizer_awq:AwqQuantizer.validate_environment transformers >=4.51,<5"
)
APEX = "transformers.utils.import_utils:is_apex_available transformers >=4.51,<4.55"
SINK = "transformers.modeling_utils transformers ==5.6.0"
CNCL = "accelerate.state:PartialState._prepare_backend accelerate >=1.0,<1.15"
GRPO = "trl.trainer.grpo_trainer:GRPOTrainer._sync_fsdp2_params_to_vllm trl >=0.18,<1"
PAIRS = "trl.import_utils trl <0.29"
AUTOSET = (
    "transformers.modeling_utils:PreTrainedModel._autoset_attn_implementation transformers <4.53"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "mended", "needed"),
    [
        ("test", {ALIAS, AWQ, APEX, AUTOSET}, {SINK, CNCL, GRPO, PAIRS}),
        ("transformers-new", {ALIAS, AWQ, APEX, AUTOSET, SINK, CNCL, GRPO, PAIRS}, set()),
        ("transformers-4.57", {SINK, APEX, AUTOSET}, {ALIAS, AWQ}),
        ("apex", {SINK, ALIAS}, {APEX, AWQ, AUTOSET}),
    ],
)
def test_a_patch_is_for_the_versions_that_need_it(
    environment: str, mended: set[str], needed: set[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [python_of(environment), "-c", ASK],
        cwd=tmp_path,
        env=surroundings(environment, tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for target in mended:
        state, detail = found[target]
        assert state == "skipped", target
        assert "here is" in detail
    for target in needed:
        assert found[target][0] == "waiting", found[target]
