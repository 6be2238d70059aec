"""Plugins that break one rule each: by the rule's id, how it is broken and what the suite says.

Each starts from a sound plugin and does one thing wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from world import HOST, MACHINE, SOUND


@dataclasses.dataclass(frozen=True)
class Broken:
    """`says` must stand in the failure's detail. `install` are arguments of `world.install`."""

    rule: str
    about: str
    says: str
    install: Mapping[str, Any]

    @property
    def id(self) -> str:
        return f"{self.rule}: {self.about}"


EARLY = '    return\n    yield Impl(feature=Feature.DTYPE, name="float32"'


def sound(*changes: tuple[str, str]) -> str:
    return _changed(SOUND, *changes)


def host(*changes: tuple[str, str]) -> str:
    return _changed(HOST, *changes)


def _changed(source: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


BODY = "    for index, card in enumerate(machine.pci_of(MAKER)):\n"
IMPLS = '    yield Impl(feature=Feature.DTYPE, name="float32", probe=PROBE)\n'
PATCHES = """

from accel import Patch

@hookimpl
def accel_patches(device, capabilities, machine):
    return [Patch(target="textwrap:dedent", reason="it does what it should not do",
                  distribution="accel-ace", upstream="https://example.org/1", until="1.1",
                  {how})]
"""


def patches(how: str) -> str:
    return SOUND + PATCHES.format(how=how)


def mended(how: str, old: str, new: str) -> str:
    return _changed(patches(how), (old, new))


PLUGINS = (
    Broken("load.hooks", "raises", "ZeroDivisionError", {"source": "1 / 0\n"}),
    Broken("load.hooks", "exits", "exit code 3", {"source": "import os\nos._exit(3)\n"}),
    Broken(
        "load.hooks",
        "misspells a hook",
        "accel_detekt",
        {"source": sound(("def accel_detect(", "def accel_detekt("))},
    ),
    Broken("load.hooks", "has no hook", "implements no hook", {"source": "x = 1\n"}),
    Broken(
        "load.light", "imports torch", "torch was imported", {"source": "import torch\n" + SOUND}
    ),
    Broken(
        "load.light",
        "leaves a thread",
        "thread 'watcher' was left running",
        {
            "source": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), "
            "daemon=True, name='watcher').start()\n" + SOUND
        },
    ),
    Broken(
        "load.time",
        "is slow",
        "at most 50 ms",
        {"source": "import time\ntime.sleep(0.08)\n" + SOUND},
    ),
    Broken(
        "answer.contract",
        "raises",
        "RuntimeError: no luck in accel_detect",
        {"source": sound((BODY, "    raise RuntimeError('no luck')\n" + BODY))},
    ),
    Broken(
        "answer.contract",
        "answers text",
        "not a list of Impl",
        {
            "source": sound((IMPLS, "    return 'float32'\n")).replace(
                "    yield Impl(", "    dict("
            )
        },
    ),
    Broken(
        "claim.own",
        "claims nothing",
        "claims nothing on any of its recorded machines",
        {"source": sound(('MAKER = "ace0"', 'MAKER = "ace1"'))},
    ),
    Broken("claim.own", "has no machine", "no recorded machine", {"machine": None}),
    Broken(
        "claim.only",
        "claims everybody's cards",
        "which plugin",
        {
            "source": sound(
                (
                    BODY,
                    "    for index, card in enumerate(c for c in machine.pci() "
                    "if c.is_accelerator or c.is_display):\n",
                )
            )
        },
    ),
    Broken(
        "claim.only",
        "claims a card without looking",
        "on a machine that is not its own",
        {"source": sound((BODY, "    for index in (0,):\n"), ("pci_address=card.address, ", ""))},
    ),
    Broken(
        "claim.values",
        "takes gibibytes for bytes",
        "it is counted in bytes",
        {"source": sound(("memory=2**34", "memory=16"))},
    ),
    Broken(
        "claim.values",
        "gives a number for an architecture",
        "is a bare number",
        {"source": sound(('arch="ace1"', 'arch="12.1"'))},
    ),
    Broken(
        "claim.values",
        "numbers two cards alike",
        "two devices are ace:0",
        {
            "source": sound(("index=index", "index=0")),
            "machine": {
                **MACHINE,
                "pci": [*MACHINE["pci"], {**MACHINE["pci"][0], "address": "0000:02:00.0"}],
            },
        },
    ),
    Broken(
        "answer.twice",
        "counts how often it was asked",
        "differs the second time, on ace-one",
        {
            "source": sound(
                ("memory=2**34", "memory=2**34 + len(ASKED)"),
                (BODY, "    ASKED.append(1)\n" + BODY),
            )
            + "\nASKED = []\n"
        },
    ),
    Broken(
        "answer.twice",
        "depends on the order of a set",
        "differs in another interpreter",
        {"source": sound(('name="Ace One"', 'name="".join(set("abcdefghijklmnopq"))'))},
    ),
    Broken(
        "answer.thread",
        "works in the main thread only",
        "differs in a thread",
        {
            "source": sound(
                (BODY, "    import threading\n    native = threading.get_native_id()\n" + BODY),
                ("memory=2**34", "memory=2**34 + native"),
            )
        },
    ),
    Broken(
        "answer.fork",
        "holds on to its process",
        "differs after fork",
        {
            "source": "import os\nHOME = os.getpid()\n"
            + sound(("memory=2**34", "memory=2**34 + (os.getpid() != HOME)"))
        },
    ),
    Broken(
        "answer.machine",
        "asks the environment itself",
        "os.environ['ACE_HOME']",
        {"source": "import os\n" + sound((BODY, "    os.environ.get('ACE_HOME')\n" + BODY))},
    ),
    Broken(
        "answer.machine",
        "reads /proc itself",
        "open /proc/cpuinfo",
        {"source": sound((BODY, "    open('/proc/cpuinfo').close()\n" + BODY))},
    ),
    Broken(
        "probe.declared",
        "declares without a probe",
        "is declared and has no probe",
        {"source": sound((", probe=PROBE", ""))},
    ),
    Broken(
        "probe.declared",
        "finds a device that it says nothing of",
        "declares nothing of Ace One, whose arch is 'ace1'",
        {"source": sound(('    yield Impl(feature=Feature.DTYPE, name="float32"', EARLY))},
    ),
    Broken(
        "probe.fails",
        "names a probe that there is not",
        "there is no probe accel.probes:matmull: AttributeError",
        {"source": sound(("accel.probes:matmul", "accel.probes:matmull"))},
    ),
    Broken(
        "probe.fails",
        "has a probe that looks at nothing",
        "cannot fail: accel_ace.probes:fine said 'fine'",
        {
            "source": sound(("accel.probes:matmul", "accel_ace.probes:fine")),
            "more": {"probes.py": "def fine(device, dtype):\n    return 'fine'\n"},
        },
    ),
    Broken(
        "probe.fails",
        "has a probe that computes and does not compare",
        "with operators that give wrong numbers",
        {
            "source": sound(("accel.probes:matmul", "accel_ace.probes:lazy")),
            "more": {
                "probes.py": """
                def lazy(device, dtype):
                    import torch
                    a = torch.ones(8, 8, device=device)
                    return f"a product of shape {tuple((a @ a).shape)}"
                """
            },
        },
    ),
    Broken(
        "probe.passes",
        "declares what its device has not",
        "no dtype float7",
        {"source": host(('arguments={"dtype": "float32"}', 'arguments={"dtype": "float7"}'))},
    ),
    Broken(
        "dtype.computes",
        "has a bridge that multiplies wrongly",
        "the result is wrong: max relative error",
        {
            "source": HOST,
            "bridge": """
            import torch
            right = torch.Tensor.mm
            torch.mm = lambda a, b: right(a, b) * (1.1 if a.dtype is torch.float32 else 1)
            """,
        },
    ),
    Broken(
        "dtype.computes",
        "has a bridge that crashes",
        "died of SIGSEGV",
        {
            "source": HOST,
            "bridge": """
            import os, signal, torch
            torch.bmm = lambda a, b: os.kill(os.getpid(), signal.SIGSEGV)
            """,
        },
    ),
    Broken(
        "runtime.device",
        "has a bridge that says no",
        "is_available() says no",
        {"source": HOST, "bridge": "import torch\ntorch.cpu.is_available = lambda: False\n"},
    ),
    Broken(
        "runtime.memory",
        "has a bridge that counts nothing",
        "memory_allocated() grew by 0",
        {"source": HOST, "bridge": "import torch\ntorch.cpu.memory_allocated = lambda: 4096\n"},
    ),
    Broken(
        "runtime.stream",
        "has a bridge that loses the stream",
        "not the current one",
        {
            "source": HOST,
            "bridge": "import torch\ntorch.cpu.current_stream = lambda: object()\n",
        },
    ),
    Broken(
        "runtime.event",
        "has an event that never passes",
        "query() says no after synchronize()",
        {
            "source": HOST,
            "bridge": "import torch\ntorch.cpu.Event.query = lambda self: False\n",
        },
    ),
    Broken(
        "runtime.random",
        "has a bridge that ignores seeds",
        "the same seed gives other numbers",
        {"source": HOST, "bridge": "import torch\ntorch.manual_seed = lambda seed: None\n"},
    ),
    Broken(
        "collective.sums",
        "has a collective that does not sum",
        "all_reduce gave",
        {
            "source": HOST,
            "bridge": """
            import torch, torch.distributed as dist
            dist.all_reduce = lambda tensor, *rest: None
            """,
        },
    ),
    Broken(
        "patch.words",
        "gives no reason",
        "say what goes wrong without it",
        {
            "source": mended(
                "replace=lambda original: print",
                'reason="it does what it should not do"',
                'reason="needed"',
            )
        },
    ),
    Broken(
        "patch.words",
        "is for ever",
        "does not say when it can be dropped",
        {"source": mended("replace=lambda original: print", ', until="1.1"', "")},
    ),
    Broken(
        "patch.undo",
        "leaves something behind",
        "undone once, and not as before: textwrap.left",
        {
            "source": patches("replace=leave")
            + _changed("""
def leave(original):
    import textwrap
    textwrap.left = object()
    return lambda text: original(text)
""")
        },
    ),
    Broken(
        "patch.undo",
        "has an undo that undoes nothing",
        "not as before: textwrap.dedent",
        {
            "source": mended("seam=take", 'target="textwrap:dedent"', 'target="textwrap"')
            + """
def take(module):
    module.dedent = lambda text: text
    return lambda: None
"""
        },
    ),
    Broken(
        "error.remedy",
        "has a problem and no remedy",
        "has no remedy: the one command that mends it",
        {"source": sound(("priority=100", "priority=100, problem='its driver is not loaded'"))},
    ),
    Broken(
        "error.remedy",
        "refuses with one word",
        "no more than 'no' as the reason",
        {"source": sound(("it has no float16 units", "no"))},
    ),
)
