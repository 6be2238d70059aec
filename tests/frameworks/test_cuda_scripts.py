"""Scripts that their users wrote for CUDA alone train where there is none, not edited.

`make test-scripts` runs all of them: on the CPU and on simulated cards, with one rank and two.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from fw_support import needs

SCRIPTS = Path(__file__).parents[1] / "scripts"
MACHINES = ("ascend-910b2-x8", "cambricon-mlu590")
ALL = (
    "plain_loop",
    "with_accelerate",
    "with_trl",
    "char_gpt",
    "half_precision",
    "digits",
    "image_net",
    "old_gan",
)
RANKS = ("plain_loop", "with_accelerate", "with_trl", "char_gpt", "image_net", "sharded")
NEEDED = {"with_accelerate": ("accelerate", "transformers"), "with_trl": ("trl", "datasets")}


def words(run, *command, **variables):
    """What a run printed, and its errors if it failed."""
    ended = run("-W", "ignore", *command, ACCEL_PROBE="0", **variables)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout.splitlines()


def losses(lines):
    return [number for line in lines for number in re.findall(r"\d+\.\d{4,6}", line)]


def needed(script):
    mark = needs(*NEEDED.get(script, ()))
    if mark.args[0]:
        pytest.skip(mark.kwargs["reason"])


def simulated(machine):
    pytest.importorskip("accel_simulator")
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("the simulated devices are compiled here, and there is no C++ compiler")
    return ("-m", "accel", "simulate", f"{machine}:2", "--", _python(), "-W", "ignore")


def _python():
    import sys

    return sys.executable


def test_the_plain_loop_on_the_cpu(run):
    lines = words(run, "-m", "accel", "run", "--device", "cpu", str(SCRIPTS / "plain_loop.py"))
    assert lines[-1] == "done"
    assert len(losses(lines)) == 3


def test_without_accel_it_refuses(run):
    ended = run("-W", "ignore", str(SCRIPTS / "plain_loop.py"))
    assert "this script needs a GPU" in ended.stderr


def test_a_script_that_knows_a_way_without_cuda_has_the_same_losses(run):
    script = str(SCRIPTS / "digits.py")
    plain = words(run, script)
    with_accel = words(run, "-m", "accel", "run", "--device", "cpu", script)
    assert plain == with_accel
    assert "on cpu" in plain


@pytest.mark.scripts
@pytest.mark.parametrize("script", ALL)
def test_on_the_cpu(run, script):
    needed(script)
    lines = words(run, "-m", "accel", "run", "--device", "cpu", str(SCRIPTS / f"{script}.py"))
    assert lines[-1] == "done"


@pytest.mark.scripts
@pytest.mark.parametrize("script", RANKS)
@pytest.mark.parametrize("way", ["accel run", "ACCEL_AUTO"])
def test_two_ranks_on_the_cpu(run, script, way, free_port):
    needed(script)
    ranks = (
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port),
    )
    if way == "accel run":
        command = ("-m", "accel", "run", "--device", "cpu", *ranks, str(SCRIPTS / f"{script}.py"))
        lines = words(run, *command)
    else:
        variables = {"ACCEL_AUTO": "1", "ACCEL_DEVICE": "cpu"}
        lines = words(run, *ranks, str(SCRIPTS / f"{script}.py"), **variables)
    assert "done" in lines


@pytest.mark.scripts
@pytest.mark.parametrize("way", ["plain", "off", "on"])
def test_nothing_changes_for_a_script_of_the_cpu(run, way, tmp_path):
    """The loop on Accelerate, edited to say `cpu`: the same losses with accel and without."""
    needed("with_accelerate")
    source = (SCRIPTS / "with_accelerate.py").read_text(encoding="utf-8")
    edited = source.replace('"cuda"', '"cpu"').replace("if not torch.cuda.is_available()", "if 0")
    edited = edited.replace("torch.cuda.max_memory_allocated()", "0")
    edited = re.sub(r"    torch\.cuda\.\w+\(.*?\)\n", "", edited)
    edited = re.sub(r"    accelerator\.print\(f?\"\{torch\.cuda.*?\n", "", edited)
    script = tmp_path / "of_the_cpu.py"
    script.write_text(edited, encoding="utf-8")
    variables = {} if way == "plain" else {"ACCEL_AUTO": "1", "ACCEL_DEVICE": "cpu"}
    if way == "off":
        variables["ACCEL_CUDA_NAMES"] = "off"
    kept = Path(os.environ.get("PYTEST_TMP", tmp_path.parent)) / "losses-of-the-cpu"
    found = losses(words(run, "-m", "accel", "run", str(script), **variables))
    assert found
    if kept.exists():
        assert kept.read_text(encoding="utf-8") == " ".join(found)
    kept.write_text(" ".join(found), encoding="utf-8")


@pytest.mark.scripts
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("script", ALL)
def test_on_a_simulated_card(run, script, machine):
    needed(script)
    before = simulated(machine)
    lines = words(run, *before, "-m", "accel", "run", str(SCRIPTS / f"{script}.py"))
    assert lines[-1] == "done"


@pytest.mark.scripts
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("script", RANKS)
def test_two_ranks_on_simulated_cards(run, script, machine, free_port):
    needed(script)
    before = simulated(machine)
    ranks = (
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(free_port),
    )
    lines = words(run, *before, "-m", "accel", "run", *ranks, str(SCRIPTS / f"{script}.py"))
    assert "done" in lines


@pytest.mark.scripts
@pytest.mark.parametrize("world", [1, 2])
def test_processes_that_the_script_spawns(run, world, free_port):
    command = ("-m", "accel", "run", "--device", "cpu", str(SCRIPTS / "spawned_ddp.py"), str(world))
    lines = words(run, *command, MASTER_PORT=str(free_port))
    assert lines[-1] == "done"


@pytest.mark.scripts
@pytest.mark.parametrize("machine", MACHINES)
def test_ranks_that_normalise_together_lose_what_those_on_the_cpu_do(run, machine, free_port):
    """ImageNet's main.py asks for CUDA before and after nccl, and wraps its model by the answer."""
    ranks = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port")
    script = (str(free_port), str(SCRIPTS / "image_net.py"), "--sync-bn")
    here = losses(words(run, "-m", "accel", "run", "--device", "cpu", *ranks, *script))
    there = losses(words(run, *simulated(machine), "-m", "accel", "run", *ranks, *script))
    assert [float(x) for x in here] == pytest.approx([float(x) for x in there], abs=1e-4)


@pytest.mark.scripts
def test_processes_that_the_image_classifier_spawns(run, free_port):
    script = (str(SCRIPTS / "image_net.py"), "--multiprocessing-distributed")
    lines = words(
        run, "-m", "accel", "run", *("--device", "cpu"), *script, MASTER_PORT=str(free_port)
    )
    assert lines[-1] == "done"


@pytest.mark.scripts
def test_a_compiled_model_has_the_eager_ones_losses(run):
    command = ("-m", "accel", "run", "--device", "cpu", str(SCRIPTS / "char_gpt.py"))
    eager = losses(words(run, *command))
    compiled = losses(words(run, *command, COMPILE="1"))
    assert [round(float(x), 2) for x in eager] == [round(float(x), 2) for x in compiled]
