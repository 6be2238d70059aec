"""The command `accel quantize`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from accel.cli import output as printing
from accel.errors import InputError

logger = logging.getLogger("accel")
NEEDED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py"]


def add_to(app: Any) -> None:
    """Add the command to `app`, a typer application."""
    app.command("quantize")(quantize)


def quantize(
    model: Annotated[str, typer.Argument(help="A model's folder, or its name on the hub.")],
    output: Annotated[Path, typer.Option(help="The folder to write; it must not be there yet.")],
    format: Annotated[str, typer.Option(help="awq or gptq.")] = "awq",  # noqa: A002
    bits: Annotated[int, typer.Option(help="4; with gptq also 2, 3 and 8.")] = 4,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Input features that share a scale, -1 for all of them. Without this the largest "
            "of 128, 64 and 32 that fits every layer."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Round a model's weights to a few bits, without calibration, as AWQ or GPTQ.

    The layers of the blocks are quantised; embeddings, output and norms stay as they are. A layer
    whose input features are no multiple of the group size is left as it is, and named.
    """
    from accel_kernels import quantizing

    # Whatever was typed: `check` and `plan` say what cannot be.
    recipe = quantizing.Recipe(format, bits, group_size or 128)  # type: ignore[arg-type]
    recipe.check()
    began = time.monotonic()
    with printing.progress(f"quantising {model}"), _repaired():
        made = quantizing.plan(_folder(model), recipe, fit=group_size is None)
        for name, reason in made.left_out.items():
            logger.warning("%s is left as it is: %s", name, reason)
        result = quantizing.write(made, output, _tell)
    found = {
        **dataclasses.asdict(result),
        **dataclasses.asdict(made.recipe),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        printing.print_json(found)
        return
    print(
        f"{result.output}: {result.layers} layers in {format}, {bits} bits, groups of "
        f"{made.recipe.group_size}, "
        f"{result.bytes_before / 1e6:.0f} MB became {result.bytes_after / 1e6:.0f} MB, "
        f"relative error {result.error:.3f}, {found['seconds']} s"
    )


@contextlib.contextmanager
def _repaired() -> Iterator[None]:
    """Import transformers also where a broken companion of its stands in the way."""
    from accel.machine import ThisMachine
    from accel.patching import Journal
    from accel.pipeline import plan

    journal = Journal()
    journal.apply(plan("cpu", probe=False).patches, version=ThisMachine().version)
    try:
        yield
    finally:
        journal.revert()


def _tell(done: int, count: int, name: str) -> None:
    logger.info("quantised %d of %d layers, the last is %s", done, count, name)


def _folder(model: str) -> Path:
    """The folder of a model, fetched if it is the name of one on the hub."""
    path = Path(model)
    if path.is_dir() or model.count("/") != 1 or path.is_absolute() or model.startswith("."):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=NEEDED))
    except Exception as error:  # noqa: BLE001 - whatever the hub's client raises is the answer
        raise InputError(
            f"there is no folder {model}, and no model of that name could be fetched",
            found=" ".join(str(error).split())[:200],
            remedy="accel quantize FOLDER, one that save_pretrained() wrote",
        ) from None
