"""`accel llamafactory ARGS...`: what `llamafactory-cli` takes, on whatever device is there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from accel.errors import AccelError, InputError, did_you_mean

CONFIGURED = ("train", "export", "chat", "api", "webchat")
"""Its commands that take a YAML or JSON file, or options."""

OTHERS = ("webui", "env", "version", "help", "eval")
FILES = (".yaml", ".yml", ".json")
MODEL = "model_name_or_path"
DEEPSPEED = "deepspeed"
FORCE = "FORCE_TORCHRUN"


def add_to(app: typer.Typer) -> None:
    """Register the command; every argument, options included, goes through unread."""
    app.command(
        "llamafactory",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        add_help_option=False,
        options_metavar="ARGS...",
    )(llamafactory)


def llamafactory(context: typer.Context) -> int:
    """Run LLaMA-Factory: train, chat, export, api, webchat, webui, and what else it takes.

    Patches for the device that is here, ranks included, then is llamafactory-cli: ARGS are its
    own, and `accel llamafactory help` lists them.
    """
    arguments = list(context.args)
    if arguments[:1] in (["--help"], ["-h"]):
        print(context.get_help())  # without importing LLaMA-Factory, which would need the repairs
        return 0
    check(arguments)
    launch_ranks(arguments)
    os.environ["ACCEL_AUTO"] = "1"
    from accel import pipeline

    pipeline.auto()
    return run(arguments)


def check(arguments: Sequence[str]) -> None:
    """Refuse what cannot work, before anything is started or written.

    Raises AccelError where LLaMA-Factory is missing, InputError for a file that is no
    configuration or a model folder that is not there.
    """
    if importlib.util.find_spec("llamafactory") is None:
        raise AccelError(
            "LLaMA-Factory is not installed in this environment",
            found=f"no module llamafactory in {sys.prefix}",
            remedy="pip install 'accel-hal[llamafactory]'",
        )
    if arguments:
        _check_command(arguments[0])
    _hint_versions()
    if arguments[:1] != ["webchat"] and len(arguments) == 1 and arguments[0] in CONFIGURED:
        raise InputError(
            f"{arguments[0]} needs a configuration file, or options",
            found="nothing after it",
            remedy=f"accel llamafactory {arguments[0]} FILE.yaml",
        )
    if len(arguments) < 2 or arguments[0] not in CONFIGURED:
        return
    first = arguments[1]
    given = first.startswith("-")
    if not given and not first.endswith(FILES):
        raise InputError(
            f"{first!r} is neither a configuration file nor an option",
            found="a name that ends in none of " + ", ".join(FILES),
            remedy=f"accel llamafactory {arguments[0]} {first}.yaml",
        )
    options, origin = _options(arguments), "the command line" if given else first
    _check_model(options, origin)
    _check_deepspeed(options, origin)


def _check_command(name: str) -> None:
    """LLaMA-Factory itself ends with 0 on a command that it does not know."""
    known = (*CONFIGURED, *OTHERS)
    spec = importlib.util.find_spec("llamafactory")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder, file) for folder in folders for file in ("launcher.py", "cli.py")]
    # a version may have commands that are not listed here
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    if name in known or any(f'"{name}"' in text for text in texts):
        return
    raise InputError(
        f"LLaMA-Factory has no command {name!r}{did_you_mean(name, known)}",
        found=f"accel llamafactory {name}",
        remedy="accel llamafactory help",
    )


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """What a command with options or a configuration file was given, overrides included."""
    first = arguments[1]
    if first.startswith("-"):
        return _from_options(arguments[1:])
    overrides = dict(text.split("=", 1) for text in arguments[2:] if "=" in text)
    return {**read_configuration(Path(first)), **overrides}


def _check_deepspeed(options: dict[str, Any], origin: str) -> None:
    if options.get(DEEPSPEED) and importlib.util.find_spec(DEEPSPEED) is None:
        raise AccelError(
            f"{origin} asks for DeepSpeed, which is not installed",
            found=f"{DEEPSPEED}: {options[DEEPSPEED]}",
            remedy="pip install 'accel-hal[deepspeed]'",
        )


def launch_ranks(arguments: Sequence[str]) -> None:
    """Have LLaMA-Factory start ranks where the job needs them: DeepSpeed, even for one device."""
    if len(arguments) < 2 or arguments[0] != "train" or "RANK" in os.environ:
        return
    if _options(arguments).get(DEEPSPEED) and not os.environ.get(FORCE):
        os.environ[FORCE] = "1"
        print(f"accel: {FORCE}=1, because DeepSpeed trains in ranks only", file=sys.stderr)
        # one, unless the user or the number of devices says otherwise
        if "NPROC_PER_NODE" not in os.environ and _devices() == 0:
            os.environ["NPROC_PER_NODE"] = "1"


def _devices() -> int:
    from accel import pipeline

    return sum(one.kind != "cpu" and one.usable for one in pipeline.devices())


def read_configuration(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises InputError on anything else."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"there is no file {str(path)!r}",
            found=_neighbours(path),
            remedy=f"ls {path.parent}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read", found=str(error), remedy=f"file {path}"
        ) from None
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        document = json.loads(text) if kind == "JSON" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} is not valid {kind}",
            found=" ".join(str(error).split()),
            remedy=f"mend the file at the place named, then: accel llamafactory train {path}",
        ) from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise InputError(
            f"{str(path)!r} is not a configuration",
            found=f"{found} where a mapping of options is expected",
            remedy=f"write lines such as: {MODEL}: Qwen/Qwen2.5-0.5B-Instruct",
        )
    return {str(key): value for key, value in document.items()}


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no folder {str(path.parent)!r} either"
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in FILES)
    return "in that folder: " + ", ".join(names[:5]) if names else "no such file in that folder"


def _from_options(arguments: Sequence[str]) -> dict[str, Any]:
    """`--name value` and `--name=value`, as far as is needed to know what is asked for."""
    if any(text in ("-h", "--help") for text in arguments):
        return {MODEL: None}
    found: dict[str, Any] = {}
    for text, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = text.partition("=")
        found[name.lstrip("-")] = value or following
    return found


def _check_model(options: dict[str, Any], origin: str) -> None:
    if MODEL not in options:
        raise InputError(
            f"{origin} names no model",
            found=f"no {MODEL}",
            remedy=f"add {MODEL}: a folder, or a name on the hub",
        )
    model = options[MODEL]
    if not isinstance(model, str) or "${" in model or os.path.exists(model):
        return
    # one slash is a name on the hub; anything that can only be a path must be there
    is_path = model.startswith((".", "~", os.sep)) or model.count("/") > 1 or "\\" in model
    if is_path:
        raise InputError(
            f"the model {model!r} is not there",
            found=f"{origin} has it as {MODEL}, and no such folder exists in {os.getcwd()}",
            remedy=f"correct {MODEL} in {origin}, or give a name on the hub",
        )


def _hint_versions() -> None:
    """Say beforehand, in one line, what LLaMA-Factory's own check will refuse."""
    from packaging.requirements import Requirement

    try:
        listed = importlib.metadata.requires("llamafactory") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for text in listed:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if wanted.name not in ("transformers", "peft", "trl", "accelerate", "datasets"):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            print(
                f"accel: LLaMA-Factory wants {wanted.name} {wanted.specifier}, found {found}; "
                f"try: pip install '{wanted.name}{wanted.specifier}'",
                file=sys.stderr,
            )


def run(arguments: Sequence[str]) -> int:
    """LLaMA-Factory's own command line in this process; returns its exit code.

    What it raises by itself is shown as it would be without accel; an AccelError passes.
    """
    sys.argv = ["llamafactory-cli", *arguments]
    try:
        importlib.import_module("llamafactory.cli").main()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except subprocess.CalledProcessError as error:
        print(f"accel: a rank failed with exit code {error.returncode}, see above", file=sys.stderr)
        return error.returncode if 0 < error.returncode < 256 else 1
    except AccelError:
        raise
    except Exception:  # noqa: BLE001 - an unchanged program ends as it always ended
        traceback.print_exc()
        return 1
    return 0
