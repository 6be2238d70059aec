"""Whether the installed torch can use a GPU, read off its files: torch is not imported.

A toolkit (the CUDA that torch was built with) can fail a GPU in three ways: it makes no machine
code for the architecture, the build left that code out, or the driver is too old for it.
"""

from __future__ import annotations

from accel.detecting import Problem, minor, parse_version, torch_build
from accel.machine import Machine
from accel.versions import release, within
from accel_nvidia.knowledge import traits_of, wheels

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

_PROCESSORS = {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}


def judge(
    machine: Machine, arch: str, *, driver: str | None, cuda: str | None
) -> tuple[str | None, Problem | None]:
    """The CUDA toolkit of the installed torch, and why that torch cannot use the architecture.

    `driver` is the driver's version, `cuda` the newest CUDA it runs; None where not known. Of a
    torch whose own `version.py` cannot be read nothing is claimed.
    """
    build = torch_build(machine)
    if not build:
        return None, Problem("torch is not installed", install(machine, arch, cuda))
    version = str(build["version"])
    if "cuda" not in build:
        return None, None
    toolkit = build["cuda"]
    if toolkit is None:
        kind = "built for HIP, not for CUDA" if build.get("hip") else "a CPU-only build"
        return None, Problem(f"torch {version} is {kind}", install(machine, arch, cuda))
    toolkit = str(toolkit)
    reason = _not_for_arch(machine, arch, version, toolkit) or _not_for_driver(
        toolkit, driver=driver, cuda=cuda
    )
    if reason is None:
        return toolkit, None
    return toolkit, Problem(f"torch {version} {reason}", install(machine, arch, cuda))


def install(machine: Machine, arch: str, cuda: str | None) -> str:
    """The command that installs a torch for the architecture, near the version that is there.

    From PyPI where a release there fits processor, architecture and driver; otherwise the wheel
    index is named in words.
    """
    if arch in wheels().extra["jetson"]["archs"]:
        return "install torch from NVIDIA's wheel index for Jetson, the one of your JetPack"
    processor = _processor(machine)
    fitting = [
        release["torch"]
        for release in wheels().extra["release"]
        if machine.platform().system == "Linux"
        and _fits(release.get(processor), arch, release["torch"], processor, cuda)
    ]
    version = _nearest(fitting, machine.version("torch"))
    if version is not None:
        return f'pip install --force-reinstall "torch=={version}"'
    builds = [build for build in wheels().extra["build"] if processor in build]
    for build in reversed(builds):
        if _fits(build["toolkit"], arch, None, processor, cuda):
            return f"install torch from PyTorch's {build['index']} wheel index"
    for build in builds:
        if _fits(build["toolkit"], arch, None, processor, None):
            needed = wheels().extra["driver"][str(_major(build["toolkit"]))]
            return f"install NVIDIA driver {needed} or newer"
    return f"build torch from source for {arch}"


def _fits(
    toolkit: str | None, arch: str, version: str | None, processor: str, cuda: str | None
) -> bool:
    if not toolkit or (cuda is not None and _major(cuda) < _major(toolkit)):
        return False
    return (
        not _cannot_target(arch, toolkit)
        and _carries(arch, toolkit, version, processor) is not False
    )


def _nearest(versions: list[str], present: str | None) -> str | None:
    """Of the versions that fit: the present one, else the next newer, else the newest."""
    have = None if present is None else parse_version(present)
    if not versions or have is None:
        return versions[-1] if versions else None
    for version in versions:
        if minor(version) == minor(str(have)):
            return version if have.is_prerelease else have.public
    newer = [version for version in versions if _numbers(version) > have.release]
    return newer[0] if newer else versions[-1]


def _not_for_arch(machine: Machine, arch: str, version: str, toolkit: str) -> str | None:
    cannot = _cannot_target(arch, toolkit)
    if cannot:
        return f"was built with CUDA {toolkit}, which {cannot}"
    processor = _processor(machine)
    if _is_pytorchs(version) and _carries(arch, toolkit, version, processor) is False:
        return f"was built with CUDA {toolkit} for {processor} without code that runs on {arch}"
    return None


def _cannot_target(arch: str, toolkit: str) -> str | None:
    first, gone = traits_of(arch).get("toolkit_min"), traits_of(arch).get("toolkit_before")
    if first and _numbers(toolkit) < _numbers(first):
        return f"does not know {arch} yet (from CUDA {first})"
    if gone and _numbers(toolkit) >= _numbers(gone):
        return f"no longer makes code for {arch} (up to CUDA {_major(gone) - 1})"
    return None


def _carries(arch: str, toolkit: str, version: str | None, processor: str) -> bool | None:
    """Whether PyTorch's build has code that runs on the architecture; None where not known.

    Code for an architecture runs on those that name it in `runs`.
    """
    runs = traits_of(arch).get("runs")
    for build in wheels().extra["build"]:
        if build["toolkit"] != toolkit or processor not in build or not runs:
            continue
        if version is None or within(version, build["versions"]):
            return any(code in runs for code in build[processor])
    return None


def _is_pytorchs(version: str) -> bool:
    """Whether it is a version of PyTorch's own builds: 2.9.1, 2.9.1.post1, 2.13.0+cu130.

    Of others (a distributor's, one's own) it is not known what code they carry.
    """
    public, _, local = version.partition("+")
    parts = public.split(".")
    if len(parts) == 4 and parts[3].startswith("post"):
        parts[3] = parts[3].removeprefix("post")
    return (
        3 <= len(parts) <= 4
        and all(part.isdecimal() for part in parts)
        and (not local or (local.startswith("cu") and local[2:].isdecimal()))
    )


def _numbers(version: str) -> tuple[int, ...]:
    """For comparing toolkits and the releases that wheels.toml names, all of them plain."""
    return release(version) or ()


def _not_for_driver(toolkit: str, *, driver: str | None, cuda: str | None) -> str | None:
    """Any driver of a major version of CUDA runs all toolkits of that major version."""
    needed = wheels().extra["driver"].get(str(_major(toolkit)))
    wants = f"needs NVIDIA driver {needed} or newer for its CUDA {toolkit}"
    if cuda is not None and _major(cuda) < _major(toolkit):
        return f"{wants}; driver {driver} runs CUDA {cuda} at most"
    if cuda is None and driver and needed and _major(driver) < _major(needed):
        return f"{wants}; driver {driver} is installed"
    return None


def _processor(machine: Machine) -> str:
    processor = machine.platform().arch
    return _PROCESSORS.get(processor, processor)


def _major(version: Any) -> int:
    return int(str(version).partition(".")[0])
