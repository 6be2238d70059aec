"""The libraries themselves, in processes of their own: what fails without accel works with it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from fw_support import losses, needs

# What a user's script does; `{auto}` is the one line of accel, or nothing.
TRAIN = """
{auto}
import transformers  # first, so that torch is imported in the middle of it
import torch
import peft
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

transformers.set_seed(3)
model = LlamaForCausalLM.from_pretrained({model!r}, attn_implementation={attention!r})
model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
row = dict(input_ids=[4, 5, 6, 7], attention_mask=[1] * 4, labels=[4, 5, 6, 7])
arguments = TrainingArguments(
    output_dir="out", max_steps=2, report_to=[], save_strategy="no", disable_tqdm=True, {flags}
)
seen = []
handle = model.base_model.model.lm_head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
trainer = Trainer(
    model=model, args=arguments, train_dataset=[row] * 4,
    data_collator=lambda rows: {{k: torch.tensor([r[k] for r in rows]) for k in rows[0]}},
)
loss = trainer.train().training_loss
print("ATTENTION", model.config._attn_implementation, "DTYPE", seen[0], "LOSS", float(loss).hex())
"""
CPU = {"ACCEL_DEVICE": "cpu", "ACCEL_PROBE": "0"}
AUTO = {**CPU, "ACCEL_AUTO": "1"}


def script(model: Path, *, attention: str | None = None, flags: str = "", auto: str = "") -> str:
    return TRAIN.format(model=str(model), attention=attention, flags=flags, auto=auto)


def outcome(ended) -> tuple[str, str, float]:
    found = re.search(r"ATTENTION (\S+) DTYPE (\S+) LOSS (\S+)", ended.stdout)
    assert found, ended.stdout + ended.stderr
    return found[1], found[2], float.fromhex(found[3])


@pytest.mark.slow
@needs("transformers", "peft")
def test_a_trainer_gets_the_attention_and_precision_that_are_there(run, tiny_model):
    code = script(tiny_model, attention="flash_attention_2", flags="bf16=True")
    without = run("-c", code)
    assert without.returncode != 0, "nothing to repair any more: drop the patch"
    ended = run("-c", code, **AUTO)
    attention, dtype, loss = outcome(ended)
    assert (attention, dtype) == ("sdpa", "torch.bfloat16")
    assert 0 < loss < 10
    said = "LlamaForCausalLM(attn_implementation='flash_attention_2'): flash_attention_2 was asked"
    assert said in ended.stderr
    assert ended.stderr.count("accel: cpu · ") == 1


@pytest.mark.slow
@needs("transformers", "peft")
def test_fp16_on_a_processor_is_said_and_auto_is_the_same_as_the_variable(run, tiny_model):
    code = script(tiny_model, flags="fp16=True", auto="import accel; accel.auto()")
    ended = run("-c", code, **CPU)
    attention, dtype, loss = outcome(ended)
    assert (attention, dtype) == ("sdpa", "torch.float32")
    assert "TrainingArguments(fp16=True): float16 was asked for, float32 is used" in ended.stderr
    plain = outcome(run("-c", script(tiny_model), **AUTO))
    assert plain == (attention, dtype, loss)


@pytest.mark.slow
@needs("transformers", "peft")
@pytest.mark.parametrize(
    ("attention", "flags", "named"),
    [("flash_attention_2", "", "flash_attention_2"), (None, "fp16=True", "float16")],
)
def test_strict_is_an_error_that_names_it(run, tiny_model, attention, flags, named):
    code = script(tiny_model, attention=attention, flags=flags)
    ended = run("-c", code, **AUTO, ACCEL_STRICT="1")
    assert ended.returncode != 0
    last = ended.stderr[ended.stderr.rindex("CapabilityUnavailable") :]
    assert named in last
    assert "try:" in last


UNDONE = """
import sys
import transformers.utils.import_utils as import_utils
import transformers.utils, transformers.training_args, peft.import_utils
watched = [import_utils, transformers.utils, transformers.training_args, peft.import_utils]
watched += [transformers.training_args.TrainingArguments]

def bindings():
    found = {(str(w), name): value for w in watched for name, value in vars(w).items()}
    table = import_utils.BACKENDS_MAPPING
    found.update({("table", name, i): part for name in table for i, part in enumerate(table[name])})
    found.update({("finder", i): finder for i, finder in enumerate(sys.meta_path)})
    return found

import accel
before = bindings()
report = accel.auto()
changed = {key for key, value in bindings().items() if before.get(key) is not value}
for name in ("is_torchvision_available", "is_torch_bf16_gpu_available", "__post_init__"):
    assert any(name in key for key in changed), (name, changed)
assert any(key[0] == "table" and key[1] == "torchvision" for key in changed)
assert import_utils.is_torch_bf16_gpu_available() is report.capabilities.supports(
    accel.values.Feature.DTYPE, "bfloat16")
report.revert()
after = bindings()
left = {key for key in {*before, *after} if before.get(key) is not after.get(key)}
print("LEFT", sorted(map(str, left)))
"""


@pytest.mark.slow
@needs("transformers", "peft")
def test_revert_restores_every_binding_by_identity(run):
    # peft is imported before auto(): with a broken torchvision that is what fails, so hide it
    ended = run("-c", HIDE + UNDONE, **CPU)
    assert "LEFT []" in ended.stdout, ended.stdout + ended.stderr


# What a user without accel has to do by hand: make the two broken packages disappear.
HIDE = """
import importlib.abc, importlib.machinery, importlib.util, sys
class Hide(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name == "torchaudio":
            return importlib.machinery.ModuleSpec(name, self)
        if name.partition(".")[0] == "torchvision":
            raise ModuleNotFoundError(name, name=name)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Hide())
real = importlib.util.find_spec
importlib.util.find_spec = lambda n, p=None: None if n.startswith("torchvision") else real(n, p)
"""

CLI = "import sys; sys.argv = ['llamafactory-cli', *sys.argv[1:]]\n"
CLI += "from llamafactory.cli import main; main()"


@pytest.mark.slow
@needs("trl")
def test_trl_defaults_to_bf16(run):
    code = "from trl import SFTConfig; c = SFTConfig(output_dir='o'); print('BF16', c.bf16)"
    without = run("-c", HIDE + code)
    assert "Your setup doesn't support bf16/gpu" in without.stderr
    assert run("-c", code, **AUTO).stdout.splitlines()[-1] == "BF16 True"


@pytest.mark.slow
@needs("llamafactory")
@pytest.mark.parametrize("options", [{}, {"bf16": True}], ids=["float32", "bf16"])
def test_llamafactory_gives_the_same_losses_to_the_bit(run, training_yaml, tmp_path, options):
    """Against a run without accel, in which a person has worked around what is broken."""
    by_hand = {**options, "use_cpu": True} if options else {}
    without = run("-c", HIDE + CLI, "train", str(training_yaml(output_dir="a", **by_hand)))
    assert without.returncode == 0, without.stderr
    config = str(training_yaml(output_dir="b", **options))
    with_accel = run("-c", CLI, "train", config, **AUTO)
    assert with_accel.returncode == 0, with_accel.stderr
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert len(losses(tmp_path / "b")) == 3


@pytest.mark.slow
@needs("llamafactory")
def test_what_llamafactory_cannot_have_is_a_running_run_with_a_line(run, training_yaml, tmp_path):
    config = str(training_yaml(flash_attn="fa3", fp16=True))
    ended = run("-m", "accel", "llamafactory", "train", config, **CPU)
    assert ended.returncode == 0, ended.stderr
    assert "flash_attn: fa3: flash_attention_3 was asked for, sdpa is used" in ended.stderr
    assert "TrainingArguments(fp16=True): float16 was asked for, float32 is used" in ended.stderr
    assert "torchvision: is installed but cannot be imported" in ended.stderr
    assert ended.stderr.count("torchaudio: is installed but cannot be imported") == 1
    assert len(losses(tmp_path / "out")) == 3
    shutil.rmtree(tmp_path / "out")
    strict = run("-m", "accel", "llamafactory", "train", config, **CPU, ACCEL_STRICT="1")
    assert strict.returncode == 1
    assert "accel: dtype 'float16'" in strict.stderr
    assert "Traceback" not in strict.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs("llamafactory")
def test_every_rank_is_served_and_says_so(run, training_yaml, tmp_path):
    config = str(training_yaml(bf16=True, flash_attn="fa2"))
    ended = run(
        "-m",
        "accel",
        "llamafactory",
        "train",
        config,
        **CPU,
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
        PATH="/usr/bin:/bin",  # this environment is not activated
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("accel: ")]
    body = r" · cpu · sdpa · float32 · gloo · \d+ repairs"
    for rank in range(2):
        assert sum(bool(re.fullmatch(f"accel: rank {rank}/2{body}", line)) for line in lines) == 1
    assert len(lines) == 3, "the parent, two ranks; torchrun's agent is silent"
    assert ended.stderr.count("flash_attn: fa2: flash_attention_2 was asked for, sdpa") == 2
    assert len(losses(tmp_path / "out")) == 3


@pytest.mark.slow
@needs("llamafactory")
def test_what_llamafactory_reads_at_import_is_right(run):
    code = """
import llamafactory.hparams.parser as parser, llamafactory.extras.misc as misc, torch, accel
from llamafactory.extras.constants import AttentionFunction
from accel_frameworks.llamafactory import ATTENTION_OF
assert set(ATTENTION_OF) == {flag.value for flag in AttentionFunction} - {"auto"}
print(dict(
    parser=parser.is_torch_bf16_gpu_available(), misc=misc.is_torch_bf16_gpu_available(),
    flags=[misc._is_bf16_available, misc._is_fp16_available],
    dtype=str(misc.infer_optim_dtype(torch.bfloat16)),
    failed=[e.patch.target for e in accel.current().entries if e.state == "failed"],
).__repr__().replace("'", '"').replace("True", "true").replace("False", "false"))
"""
    ended = run("-c", code, **AUTO)
    assert ended.stdout, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {
        "parser": True,
        "misc": True,
        "flags": [False, False],
        "dtype": "torch.float32",
        "failed": [],
    }
    chosen = run("-c", code, **AUTO, ACCEL_DTYPE="bfloat16")
    answer = json.loads(chosen.stdout.splitlines()[-1])
    assert (answer["flags"], answer["dtype"]) == ([True, False], "torch.bfloat16")


def installed(folder: Path, name: str, version: str, body: str) -> str:
    """Install a package that is nothing but `body`, with metadata; the folder for PYTHONPATH."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body, encoding="utf-8")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "top_level.txt").write_text(f"{name}\n", encoding="utf-8")
    return str(folder)


@pytest.mark.slow
@needs("transformers", "peft", "PIL")
def test_a_torchvision_for_another_torch_is_taken_as_absent(run, tmp_path):
    body = "raise RuntimeError('operator torchvision::nms does not exist')\n"
    path = installed(tmp_path / "site", "torchvision", "0.28.0", body)
    code = "import peft; from transformers import LlamaForCausalLM; print('FINE')"
    without = run("-c", code, PYTHONPATH=path)
    assert without.returncode != 0
    assert "Could not import module" in without.stderr or "torchvision::nms" in without.stderr
    ended = run("-c", code, PYTHONPATH=path, **AUTO)
    assert ended.stdout.strip() == "FINE", ended.stderr
    assert "torchvision: is installed but cannot be imported (RuntimeError: op" in ended.stderr


@pytest.mark.slow
@needs("transformers", "peft")
@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="optimum is installed")
def test_gptqmodel_without_optimum_does_not_stop_plain_lora(run, tiny_model, tmp_path):
    path = installed(tmp_path / "site", "gptqmodel", "7.3.6", "")
    code = HIDE + script(tiny_model)
    without = run("-c", code, PYTHONPATH=path)
    assert "gptqmodel requires optimum version" in without.stderr
    ended = run("-c", code, PYTHONPATH=path, **AUTO)
    assert outcome(ended)[0] == "sdpa"
    assert "gptqmodel: taken as absent by peft: gptqmodel requires optimum" in ended.stderr
