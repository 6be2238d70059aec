#!/usr/bin/env python3
"""Make a virtual environment for this repository, the right torch first.

    python3 tools/environment.py .venv-test --extra test --extra demo [--torch REQ] [--also REQ]
    python3 tools/environment.py .venv-failures/old --on .venv-test --also transformers==4.51.3

Standard library only, because it runs before anything is installed. Torch goes in before
everything else and stays pinned, because packages that need torchvision would otherwise replace
it. An environment that is up to date is left alone; one for another torch or Python is made anew.
With `--on` it is a layer over another environment: it has what that one has, and in front of it
only what differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
STAMP = "accel-environment.json"
SPACE = 5_000_000_000
COMPILERS = "compilers"
"""The extra with Triton and NVRTC, for a torch that comes without; a vendor's Triton must stay."""
BEAT = 15.0

NODES = {
    "NVIDIA": ("dev/nvidia[0-9]*", "dev/nvgpu*", "dev/nvhost-gpu"),
    "Ascend": ("dev/davinci[0-9]*",),
    "AMD or Hygon": ("dev/kfd",),
    "Cambricon": ("dev/cambricon_dev[0-9]*",),
    "Moore Threads": ("dev/mtgpu.[0-9]*",),
}
PCI_VENDORS = {
    "10de": "NVIDIA",
    "1002": "AMD or Hygon",
    "1d94": "AMD or Hygon",
    "19e5": "Ascend",
    "cabc": "Cambricon",
    "1ed5": "Moore Threads",
    "8086": "Intel",
}
INTEL_CARDS = ("56", "e2", "0b")
"""First digits of the device ids of Arc A, Arc B and Data Center Max; the rest are built in."""


class Failed(Exception):
    """Something for the user to mend; said in full, without a traceback."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to install as torch: alternatives in order, or nothing where the base Python has it."""

    alternatives: tuple[tuple[str, ...], ...]
    reason: str
    inherit: bool = False


def accelerators(root: Path = Path("/")) -> tuple[str, ...]:
    """Makers of the accelerators that `root` shows by device nodes or PCI ids, sorted."""
    found = {
        maker
        for maker, patterns in NODES.items()
        if any(glob.glob(str(root / pattern)) for pattern in patterns)
    }
    for folder in glob.glob(str(root / "sys/bus/pci/devices/*")):
        vendor, device, kind = (_hex(folder, name) for name in ("vendor", "device", "class"))
        maker = PCI_VENDORS.get(vendor)
        if maker is None or not kind.startswith(("03", "12")):
            continue
        # A built-in display chip trains nothing; Huawei's servers have one with Huawei's own id.
        if vendor == "8086" and not device.startswith(INTEL_CARDS):
            continue
        if vendor == "19e5" and kind.startswith("03"):
            continue
        found.add(maker)
    return tuple(sorted(found))


def _hex(folder: str, name: str) -> str:
    try:
        return Path(folder, name).read_text(encoding="ascii").strip().removeprefix("0x")
    except OSError:
        return ""


def choose(
    given: str, found: Sequence[str], base: Mapping[str, str], system: str = platform.system()
) -> Choice:
    """Which torch to install. `base` are the distributions of the Python that runs this."""
    if given.strip():
        return Choice((tuple(given.split()),), f"TORCH={given.strip()}")
    makers = " and ".join(found)
    if found and "torch" in base:
        reason = f"{makers} found; keeping the torch {base['torch']} of {sys.executable}"
        return Choice((), reason, inherit=True)
    if system != "Linux" or "NVIDIA" in found:
        return Choice((("torch",),), f"{makers or system}: the usual torch")
    cpu = ((f"torch=={TORCH}+cpu",), (f"torch=={TORCH}",))
    if not found:
        return Choice(cpu, "no accelerator found: a CPU build of torch")
    return Choice(
        cpu,
        f"{makers} found, but the usual torch is not built for it: a CPU build of torch.\n"
        "  For the accelerator give the vendor's: make ... TORCH='torch==X torch-npu==X', or\n"
        "  PYTHON=/path/to/a/python that has it.",
    )


def step(text: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command quietly, saying what is done, and every 15 s that it is still being done."""
    print(f"  {text}", flush=True)
    started = time.monotonic()
    child = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while True:
        try:
            output, _ = child.communicate(timeout=BEAT)
            return subprocess.CompletedProcess(list(command), child.returncode, output, "")
        except subprocess.TimeoutExpired:
            print(f"    still at it after {time.monotonic() - started:.0f} s", flush=True)
        except BaseException:
            child.terminate()
            child.wait()
            raise


def must(text: str, command: Sequence[str], remedy: str) -> None:
    """`step`, or Failed with the command, its last lines and what to try."""
    done = step(text, command)
    if done.returncode:
        raise failure(done, remedy)


def failure(done: subprocess.CompletedProcess[str], remedy: str) -> Failed:
    """What to tell of a command that ended badly."""
    lines = [line for line in done.stdout.splitlines() if line.strip()][-12:]
    shown = "\n    ".join(lines)
    return Failed(f"this failed: {' '.join(done.args)}\n    {shown}\n  try: {remedy}")


class Environment:
    """A virtual environment in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        self.stamp = folder / STAMP
        self.constraints = folder / "constraints.txt"

    def known(self) -> Mapping[str, object]:
        """What the environment was made from; empty where it was not finished."""
        try:
            found = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def create(self, inherit: bool) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        options = ["--system-site-packages"] if inherit else []
        must(
            f"making {self.folder.name} with Python {platform.python_version()}",
            [sys.executable, "-m", "venv", *options, str(self.folder)],
            "a Python with the venv module (on Debian: apt-get install python3-venv)",
        )
        must("updating pip", self.pip("--upgrade", "pip"), NETWORK)

    def pip(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "pip", "install", "--quiet", *arguments]

    def install_torch(self, choice: Choice) -> None:
        """Install the first alternative that the configured indexes have."""
        for number, requirements in enumerate(choice.alternatives):
            last = number == len(choice.alternatives) - 1
            if number:
                print(
                    "    not on the configured package indexes. What comes next may be a\n"
                    "    large CUDA build; to avoid it stop here and point pip to PyTorch's index\n"
                    "    of CPU wheels (PyTorch's installation page names it), for example with\n"
                    "    PIP_EXTRA_INDEX_URL=ADDRESS make ...",
                    flush=True,
                )
            done = step(f"installing {' '.join(requirements)}", self.pip(*requirements))
            if not done.returncode:
                return
            if last or "No matching distribution" not in done.stdout:
                raise failure(done, NETWORK)

    def pin_torch(self) -> None:
        """Hold every torch and triton package where it is while the rest is installed."""
        command = [self.python, "-m", "pip", "list", "--format=freeze"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        own = re.compile(r"torch([-_].*)?==|[^=]*triton", re.IGNORECASE)
        lines = sorted(filter(own.match, done.stdout.splitlines()))
        self.constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"  keeping {', '.join(lines)}", flush=True)

    def lacking(self, extras: Sequence[str]) -> list[str]:
        """The extras less COMPILERS where the torch has brought a Triton of its own."""
        kept = self.constraints.read_text(encoding="utf-8")
        return [extra for extra in extras if extra != COMPILERS or "triton" not in kept]

    def install_project(self, extras: Sequence[str], also: Sequence[str]) -> None:
        extras = self.lacking(extras)
        project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
        must(
            f"installing accel with its extras {', '.join(extras)} {' '.join(also)}".rstrip(),
            self.pip("--constraint", str(self.constraints), *also, "--editable", project),
            NETWORK,
        )


HIDING = """import sys
from importlib.machinery import PathFinder


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {packages!r}
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


class Layer(Environment):
    """An environment that finds what it does not have itself in `base`."""

    def __init__(self, folder: Path, base: Environment) -> None:
        super().__init__(folder)
        self.base = base
        self.constraints = base.constraints

    def create_on_base(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        must(
            f"making {self.folder.name} on {self.base.folder.name}",
            [self.base.python, "-m", "venv", "--without-pip", str(self.folder)],
            "a Python with the venv module (on Debian: apt-get install python3-venv)",
        )
        below, own = (site_packages(environment) for environment in (self.base, self))
        # addsitedir, because the base's own .pth files (the editable accel) count too
        line = f"import site; site.addsitedir({str(below)!r})\n"
        (own / "zz_base.pth").write_text(line, encoding="utf-8")
        self._copy_programs()

    def hide(self, packages: Sequence[str]) -> None:
        """Let imports of the base's `packages` find nothing, as where they are not installed."""
        own = site_packages(self)
        (own / "hidden_packages.py").write_text(HIDING.format(packages=tuple(packages)), "utf-8")
        (own / "aa_hidden.pth").write_text("import hidden_packages\n", encoding="utf-8")

    def _copy_programs(self) -> None:
        """Its torchrun and its like, run by this environment's Python."""
        for program in Path(self.base.python).parent.iterdir():
            target = Path(self.python).parent / program.name
            if target.exists() or not program.is_file():
                continue
            first, _, rest = program.read_bytes().partition(b"\n")
            if first == b"#!" + self.base.python.encode():
                target.write_bytes(b"#!" + self.python.encode() + b"\n" + rest)
                target.chmod(0o755)

    def install(self, requirements: Sequence[str], *options: str) -> None:
        arguments = ["--constraint", str(self.constraints), *options, *requirements]
        must(f"installing {' '.join(requirements)}", self.pip(*arguments), NETWORK)


def site_packages(environment: Environment) -> Path:
    """Where an environment's packages are."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run(
        [environment.python, "-c", code], check=True, capture_output=True, text=True
    )
    return Path(done.stdout.strip())


def make_layer(
    folder: Path, on: Path, also: Sequence[str], bare: Sequence[str], hidden: Sequence[str] = ()
) -> bool:
    """A layer on the environment `on`; False where it was up to date.

    `also` come with what they need, `bare` (those that would need a card, or replace torch)
    without; `hidden` packages of `on` cannot be imported. Raises Failed.
    """
    base = Environment(Path(os.path.abspath(on)))
    layer = Layer(Path(os.path.abspath(folder)), base)
    if not base.known():
        raise Failed(f"{on} is no environment of this tool\n  try: make .venv-test")
    want: dict[str, object] = {"on": dict(base.known()), "also": list(also), "bare": list(bare)}
    if hidden:
        want["hidden"] = list(hidden)
    if layer.known() == want:
        return False
    layer.create_on_base()
    if hidden:
        layer.hide(hidden)
    if also:
        layer.install(also)
    if bare:
        layer.install(bare, "--no-deps")
    layer.stamp.write_text(json.dumps(want), encoding="utf-8")
    return True


NETWORK = "the same again; `pip config list` shows which package index pip asks"


def check_machine(folder: Path, extras: Sequence[str]) -> None:
    """Failed where Python is too old for an extra or the disk too full."""
    if "demo" in extras and sys.version_info < (3, 11):
        raise Failed("LLaMA-Factory 0.9.5 needs Python 3.11 or newer\n  try: PYTHON=python3.11")
    free = shutil.disk_usage(folder.parent).free
    if free < SPACE:
        raise Failed(f"{free / 1e9:.1f} GB free in {folder.parent}, {SPACE / 1e9:.0f} GB needed")


def wanted(arguments: argparse.Namespace, choice: Choice) -> dict[str, object]:
    """What an environment is made from, to compare with what one was made from."""
    project = (ROOT / "pyproject.toml").read_bytes()
    return {
        "python": platform.python_version(),
        "torch": [list(item) for item in choice.alternatives],
        "inherit": choice.inherit,
        "also": arguments.also,
        "extras": arguments.extra,
        "project": hashlib.sha256(project).hexdigest(),
    }


def make(arguments: argparse.Namespace) -> None:
    """The environment of the arguments, made or brought up to date."""
    environment = Environment(Path(os.path.abspath(arguments.folder)))
    base = {
        (item.metadata["Name"] or "").lower(): item.version
        for item in importlib.metadata.distributions()
    }
    choice = choose(arguments.torch, accelerators(), base)
    want, have = wanted(arguments, choice), environment.known()
    if want == have:
        print(f"{arguments.folder} is up to date", flush=True)
        return
    print(f"{arguments.folder}: {choice.reason}", flush=True)
    fixed = ("python", "torch", "inherit", "also")
    if any(want[key] != have.get(key) for key in fixed):
        check_machine(environment.folder, arguments.extra)
        environment.create(choice.inherit)
        environment.install_torch(choice)
        environment.pin_torch()
    environment.stamp.unlink(missing_ok=True)
    environment.install_project(arguments.extra, arguments.also)
    environment.stamp.write_text(json.dumps(want), encoding="utf-8")


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder")
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--also", action="append", default=[], help="a further requirement")
    parser.add_argument("--torch", default="", help="requirements, in place of the default")
    parser.add_argument("--on", type=Path, help="an environment to lay this one over")
    parser.add_argument("--bare", action="append", default=[], help="as --also, alone")
    arguments = parser.parse_args()
    try:
        if arguments.on is None:
            make(arguments)
        else:
            make_layer(Path(arguments.folder), arguments.on, arguments.also, arguments.bare)
    except Failed as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
