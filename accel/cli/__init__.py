"""The `accel` command: one way in, and one place where errors become words and an exit code.

Exit codes: 0 done, 2 the user's input is at fault, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from accel.errors import AccelError, AmbiguousDevice, InputError, UnknownDevice

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in _leading(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A device's name may have letters that a plain terminal lacks: no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_closed()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except AccelError as error:
        return _failed(error, str(error), error.remedy, arguments, debug)
    except Exception as error:  # noqa: BLE001 - the last resort: a line instead of a traceback
        what = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"accel --debug {' '.join(arguments)}"
        return _failed(error, f"{what}\n  try:   {remedy}", remedy, arguments, debug)
    return code


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["devices"]:
        from accel.cli.listing import plain_form

        listing = plain_form(arguments)
        if listing is not None:
            listing()
            return 0
    from accel.cli.app import invoke

    return invoke(arguments)


def _failed(error: Exception, text: str, remedy: str, arguments: list[str], debug: bool) -> int:
    """Tell of an error on stderr, and on stdout as JSON where that was asked for; the exit code."""
    if debug:
        traceback.print_exc()
    else:
        _say(text)
    if "--json" in arguments:
        from accel.cli.app import takes_json
        from accel.cli.output import print_json_error

        if takes_json(arguments):
            print_json_error(error, remedy)
    usage = isinstance(error, (InputError, UnknownDevice, AmbiguousDevice))
    return USAGE if usage else FAILED


def _leading(arguments: Sequence[str]) -> list[str]:
    """The options before the command's name."""
    first = next((i for i, text in enumerate(arguments) if not text.startswith("-")), None)
    return list(arguments[:first])


def _say(text: str) -> None:
    print(f"accel: {text}", file=sys.stderr)


def _pipe_closed() -> int:
    # The reader went away; so that the interpreter's own last flush fails quietly too.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
