"""`accel run`: patch, then run a script or a module as Python would."""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import os
import runpy
import sys
import types
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import FAILED, INTERRUPTED, options
from accel.cli.output import progress, quiet_log
from accel.errors import InputError
from accel.values import Level

if TYPE_CHECKING:
    from accel.report import Report


def run(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A Python script.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="The script's own arguments.")
    ] = None,
    module: Annotated[
        bool, typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
    ] = False,
    device: options.DeviceName = None,
    attention: options.Attention = None,
    dtype: options.Dtype = None,
    collective: options.Collective = None,
    strict: options.Strict = False,
) -> int:
    """Patch for the device that is here, then run SCRIPT as __main__ with ARGS.

    Its children are patched too. The exit code is the script's.
    """
    if module:
        _check_module(script)
    else:
        _check_script(script)
    choices = {"attention": attention, "dtype": dtype, "collective": collective}
    wanted: dict[str, Any] = {name: choice for name, choice in choices.items() if choice}
    announce(_patched(device, strict, wanted))
    _tell_children(device, strict, wanted)
    sys.argv[:] = [script, *(arguments or ())]
    if module:
        return _as_python(_run_module, script)
    return _as_python(_run_script if os.path.isfile(script) else _run_folder, script)


def announce(report: Report) -> None:
    """What was chosen, in a line on stderr, and every line of the report that is not just news."""
    rank = os.environ.get("RANK")
    who = f"accel [rank {rank}]" if rank else "accel"
    device = report.device
    states = Counter(entry.state for entry in report.entries)
    patches = ", ".join(f"{number} {state}" for state, number in states.items()) or "none"
    chosen = f"attention {report.attention}, dtype {report.plan.dtype}"
    print(
        f"{who}: {device.torch_name}, {device.name} ({device.arch}): {chosen}, "
        f"collective {report.collective}; patches: {patches}",
        file=sys.stderr,
    )
    for note in report.notes:
        if note.level is not Level.INFO:
            remedy = f" (try: {note.remedy})" if note.remedy else ""
            print(
                f"{who}: {note.level.value}: {note.subject}: {note.message}{remedy}",
                file=sys.stderr,
            )


def _patched(device: str | None, strict: bool, wanted: dict[str, Any]) -> Report:
    from accel.pipeline import auto

    # The notes are announced from the report, so the log need not say them first.
    with progress("finding out what can be had"), quiet_log():
        return auto(device, strict=strict, **wanted)


def _tell_children(device: str | None, strict: bool, wanted: dict[str, Any]) -> None:
    """Children choose as this process did. Set after auto(): its own probes are no children."""
    os.environ["ACCEL_AUTO"] = "1"
    if device:
        os.environ["ACCEL_DEVICE"] = device
    if strict:
        os.environ["ACCEL_STRICT"] = "1"
    os.environ.update({f"ACCEL_{name.upper()}": choice for name, choice in wanted.items()})


# Before anything is patched -------------------------------------------------------------------


def _check_script(script: str) -> None:
    path = Path(script)
    try:
        inside = os.listdir(path) if script and path.is_dir() else None
        if inside is not None and "__main__.py" not in inside:
            raise InputError(
                f"{script} cannot be run",
                found="a folder without __main__.py",
                remedy="accel run SCRIPT.py, or accel run -m PACKAGE",
            )
        if not script or not path.exists():
            words = not script.endswith(".py") and all(map(str.isidentifier, script.split(".")))
            module = words and _top_level(script)
            remedy = f"accel run -m {script}" if module else "accel run PATH/TO/SCRIPT.py"
            raise InputError(f"there is no script {script!r}", found="no such file", remedy=remedy)
        if inside is None and path.is_file() and _is_binary(path):
            raise InputError(
                f"{script} is no Python script", found="a binary file", remedy=f"file {script}"
            )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{script!r} cannot be read",
            found=getattr(error, "strerror", None) or str(error),
            remedy=f"chmod u+r {script}" if os.path.exists(script) else f"ls -ld {script!r}",
        ) from None


def _is_binary(path: Path) -> bool:
    """Neither text nor what Python runs besides: an archive, compiled code."""
    with open(path, "rb") as file:
        return b"\0" in file.read(4096) and path.suffix != ".pyc" and not zipfile.is_zipfile(path)


def _check_module(name: str) -> None:
    if not _top_level(name):
        top = name.partition(".")[0]
        raise InputError(
            f"there is no module {name}",
            found=f"nothing called {top!r} in this Python or in this folder",
            remedy=f"pip install {top}" if top.isidentifier() else "accel run SCRIPT.py",
        )


def _top_level(name: str) -> bool:
    """Whether the outermost package of a module is there; nothing is imported to find out."""
    top = name.partition(".")[0]
    if not top.isidentifier():
        return False
    if top in sys.builtin_module_names:
        return True
    return importlib.machinery.PathFinder.find_spec(top, [os.getcwd(), *sys.path[1:]]) is not None


# As Python does it ----------------------------------------------------------------------------


def _set_first_path(first: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = first


def _run_script(script: str) -> None:
    """As `python script`: an absolute `__file__`, and a `__main__` that outlives the last line.

    `runpy.run_path` takes its `__main__` away again, which worker processes and exit handlers miss.
    """
    path = os.path.abspath(script)
    if script.endswith(".pyc") or zipfile.is_zipfile(path):
        _run_folder(script)
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    with io.open_code(path) as file:
        source = file.read()
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    main = types.ModuleType("__main__")
    vars(main).update(
        __file__=path, __loader__=loader, __builtins__=builtins, __cached__=None, __annotations__={}
    )
    sys.modules["__main__"] = main
    exec(loader.source_to_code(source, path), vars(main))  # noqa: S102 - it is what was asked for


def _run_folder(script: str) -> None:
    """As `python folder` or `python archive.zip`; runpy puts it on the path."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    runpy.run_path(os.path.abspath(script), run_name="__main__")


def _run_module(name: str) -> None:
    """As `python -m name`."""
    _set_first_path(os.getcwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _as_python(body: Callable[[str], None], script: str) -> int:
    """Run `body`; an exception is shown as Python shows it, without the frames that are ours."""
    try:
        body(script)
    except Exception as error:  # noqa: BLE001 - the script's own, and shown
        _show(error)
        return FAILED
    except KeyboardInterrupt as error:
        _show(error)
        return INTERRUPTED
    return 0


def _show(error: BaseException) -> None:
    frozen = {f"<frozen {name}>" for name in ("runpy", "importlib._bootstrap")}
    ours = {__file__, runpy.__file__, *frozen, "<frozen importlib._bootstrap_external>"}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
