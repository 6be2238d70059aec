"""The laws of the house (docs/design.md). Each test says which law it keeps.

Laws with tests of their own elsewhere: 3 (test_patching*, tests/frameworks), 6 (test_selecting,
test_resolving), 7 (test_loading).
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import accel
from accel import testing
from accel.loading import GROUP, OWN_DISTRIBUTION
from accel.values import Level, Patch

HOUSE = Path(accel.__file__).parent
PLUGIN_ROOT = HOUSE.parent / "plugins"
FOREIGN = re.compile(
    r"(?<![a-z])(nvidia|cuda|nccl|ascend|npu|hccl|hygon|dcu|rocm|hip|amd|cambricon|mlu|cncl|musa|mccl"
    r"|moore|intel|xpu|apple|mps|huawei|transformers|peft|llamafactory|llama.factory|deepspeed|trl"
    r"|torchvision|torchaudio)(?![a-z])",
    re.IGNORECASE,
)
MACHINES = testing.machines()
KEPT = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "SYSTEMROOT")


def foreign_words(folder: Path, foreign: re.Pattern[str] = FOREIGN) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            for word in foreign.findall(line):
                yield f"{file.relative_to(folder)}:{number}: {word}"


def imported_by(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def in_a_new_interpreter(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        # Not all of this process's: what importing accel set here would not show there.
        env={**{name: os.environ[name] for name in KEPT if name in os.environ}, **env},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_law_1_the_mechanism_knows_no_vendor_and_no_framework() -> None:
    assert list(foreign_words(HOUSE)) == []


def test_law_1_the_test_above_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import torch\ntorch.cuda.init()\nNPU_NODES = 3\ncompute = 1\n"
    )
    assert list(foreign_words(tmp_path)) == ["bad.py:2: cuda", "bad.py:3: NPU"]


def test_law_1_the_mechanism_names_no_library_that_plugins_know() -> None:
    """Those that an implementation requires or a patch is for, on any recorded machine."""
    plans = [accel.plan(machine=name) for name in MACHINES]
    requirements = {r for p in plans for d in p.decisions for r in d.impl.requires}
    known = {Requirement(text).name for text in requirements}
    known |= {patch.distribution for plan in plans for patch in plan.patches if patch.distribution}
    known -= {"torch", "triton", "kernels"}  # torch, its compiler, and what is a word too
    assert {"bitsandbytes", "torchao", "flash-attn", "accelerate"} <= known
    names = "|".join(re.escape(name).replace(r"\-", "[-_.]") for name in sorted(known))
    foreign = re.compile(rf"(?<![a-z])({names})(?![a-z])", re.IGNORECASE)
    assert list(foreign_words(HOUSE, foreign)) == []


def test_law_1_the_mechanism_never_imports_a_plugin() -> None:
    own = {path.name for path in (*PLUGIN_ROOT.iterdir(), *(HOUSE.parent / "kernels").iterdir())}
    guilty = [
        f"{file.relative_to(HOUSE)} imports {name}"
        for file in HOUSE.rglob("*.py")
        for name in imported_by(file)
        if name.partition(".")[0] in own
    ]
    assert guilty == []


def test_law_1_built_in_plugins_come_in_through_the_public_door_only() -> None:
    entries = importlib.metadata.entry_points(group=GROUP)
    ours = {
        e.value.partition(":")[0].partition(".")[0]
        for e in entries
        if e.dist and e.dist.name == OWN_DISTRIBUTION
    }
    folders = {path.name for path in PLUGIN_ROOT.iterdir() if (path / "__init__.py").exists()}
    assert folders <= ours


def test_law_1_a_plugin_imports_no_other_plugin() -> None:
    folders = [path for path in PLUGIN_ROOT.iterdir() if path.is_dir()]
    names = {path.name for path in folders}
    guilty = [
        f"{file.relative_to(PLUGIN_ROOT)} imports {name}"
        for folder in folders
        for file in folder.rglob("*.py")
        for name in imported_by(file)
        if name.partition(".")[0] in names - {folder.name}
    ]
    assert guilty == []


def test_law_2_import_load_and_detect_need_no_torch_and_leave_no_thread() -> None:
    out = in_a_new_interpreter(
        """
        import sys, threading
        import accel
        assert "torch" not in sys.modules
        names = {p.name for p in accel.plugins() if p.status == "loaded"}
        found = accel.devices()
        assert found and "cpu" in names
        heavy = {"torch", "transformers", "numpy", "peft", "rich", "typer"} & set(sys.modules)
        assert not heavy, heavy
        assert threading.active_count() == 1
        print(len(found))
        """
    )
    assert int(out) >= 1


def test_law_2_detection_answers_the_same_after_fork_and_in_a_thread() -> None:
    in_a_new_interpreter(
        """
        import os, threading
        import accel
        before = accel.devices()
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, repr(accel.devices() == before).encode())
            os._exit(0)
        os.wait()
        assert os.read(read, 10) == b"True"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(accel.devices()))
        thread.start(); thread.join()
        assert seen == [before]
        """
    )


@pytest.mark.parametrize("name", MACHINES)
def test_law_2_planning_for_any_machine_asks_nothing_of_this_one(name: str) -> None:
    """A recorded machine answers alone: the plan is the same wherever it is made."""
    first = accel.plan(machine=name).to_json()
    out = in_a_new_interpreter(
        f"""
        import json, accel
        print(json.dumps(accel.plan(machine={name!r}).to_json(), sort_keys=True))
        """,
        CUDA_VISIBLE_DEVICES="",
        ASCEND_RT_VISIBLE_DEVICES="3",
        LOCAL_RANK="1",
    )
    assert json.loads(out) == json.loads(json.dumps(first))


def test_law_3_importing_accel_changes_nothing() -> None:
    in_a_new_interpreter(
        """
        import os, sys, signal, warnings, builtins, logging
        state = lambda: (dict(os.environ), list(sys.meta_path), list(sys.path_hooks),
                         sys.excepthook, sys.path[:], dict(vars(builtins)),
                         logging.root.handlers[:],
                         warnings.filters[:], signal.getsignal(signal.SIGINT))
        before = state()
        import accel
        for name in accel.__all__:
            getattr(accel, name)
        accel.devices(); accel.plugins()
        before[5].pop("_", None)
        after = state()
        after[5].pop("_", None)
        assert before == after
        """
    )


def test_law_3_and_the_public_names_are_few_and_sorted() -> None:
    assert accel.__all__ == sorted(accel.__all__)
    assert len(accel.__all__) <= 20
    assert set(accel.__all__) <= set(dir(accel))
    with pytest.raises(AttributeError, match="no attribute 'cuda'"):
        accel.cuda  # noqa: B018


def every_patch() -> dict[tuple[str, str], Patch]:
    found: dict[tuple[str, str], Patch] = {}
    for name in MACHINES:
        for patch in accel.plan(machine=name).patches:
            found.setdefault((patch.target, patch.owner), patch)
    return found


def test_law_4_every_patch_says_what_why_for_which_versions_and_until_when() -> None:
    patches = every_patch()
    assert len(patches) >= 5
    for (target, owner), patch in patches.items():
        where = f"{owner}: {target}"
        assert ":" in target or patch.how == "seam", where
        assert len(patch.reason.split()) >= 4, where
        assert patch.until, where
        assert patch.upstream, where
        assert sum(x is not None for x in (patch.replace, patch.seam, patch.environ)) == 1, where
        if patch.how != "environ":
            assert patch.distribution, where
            SpecifierSet(patch.versions)


@pytest.mark.parametrize("name", MACHINES)
def test_law_5_everything_declared_can_be_probed(name: str) -> None:
    decisions = accel.plan(machine=name).decisions
    assert decisions
    for decision in decisions:
        if decision.impl.unavailable is None:
            assert decision.impl.probe is not None, decision.impl


@pytest.mark.parametrize("name", MACHINES)
def test_law_6_a_better_device_is_never_passed_over_in_silence(name: str) -> None:
    plan = accel.plan(machine=name)
    lost = [d for d in plan.devices if not d.usable and d.priority > plan.device.priority]
    said = [note for note in plan.notes if note.level is Level.WARNING]
    for device in lost:
        assert any(device.name in note.message and note.remedy for note in said), device


def test_law_6_every_error_that_is_the_users_to_mend_says_what_to_try() -> None:
    users = {"AccelError", "InputError", "NoDevice", "UnknownDevice", "AmbiguousDevice"}
    folders = (HOUSE, PLUGIN_ROOT, HOUSE.parent / "kernels")
    calls = [
        (file, node)
        for folder in folders
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in users
    ]
    assert len(calls) > 80
    silent = [
        f"{file}:{node.lineno}"
        for file, node in calls
        if not {"remedy", None} & {keyword.arg for keyword in node.keywords}
    ]
    assert silent == []


@pytest.mark.parametrize("name", MACHINES)
def test_law_8_architectures_are_the_vendors_own_words(name: str) -> None:
    for device in accel.devices(machine=name):
        assert isinstance(device.arch, str)
        assert not re.fullmatch(r"[\d.]+", device.arch), f"{device.arch} is a number"


def test_law_8_the_mechanism_never_takes_an_architecture_for_a_number() -> None:
    guilty = [
        f"{file.relative_to(HOUSE)}:{number}"
        for file in HOUSE.rglob("*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"(int|float|Version)\([^)]*\barch\b|\barch\b\s*[<>]=?", line)
    ]
    assert guilty == []


def test_files_are_under_400_lines() -> None:
    """No law, and in CONTRIBUTING.md all the same."""
    folders = ("accel", "plugins", "kernels", "tests", "tools", "benchmarks")
    files = [file for folder in folders for file in (HOUSE.parent / folder).rglob("*.py")]
    assert len(files) > 300
    lengths = {file: file.read_bytes().count(b"\n") for file in files}
    assert [str(file) for file, length in lengths.items() if length >= 400] == []
