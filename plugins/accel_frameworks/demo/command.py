"""The command `accel demo`, from an empty folder to two answers side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from accel import pipeline
from accel.errors import InputError
from accel_frameworks.demo import fetching, recipe, showing, training
from accel_frameworks.demo.asking import Answer, Request
from accel_frameworks.demo.common import DemoError, Voice, run_child

QUESTION = "Who are you?"
MODEL_FOLDER = "SmolLM2-135M-Instruct"
PAGE, CURVE = "report.html", "loss.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose; the defaults are the command's."""

    output: Path = Path("demo-output")
    cache: Path = Path(".demo")
    model: Path | None = None
    template: str = "smollm2"
    device: str | None = None
    steps: int | None = None
    question: str = QUESTION
    name: str = recipe.NAME
    author: str = recipe.AUTHOR


def demo(
    output: Annotated[Path, typer.Option(help="Where the results go.")] = Options.output,
    cache: Annotated[Path, typer.Option(help="Where downloads are kept.")] = Options.cache,
    model: Annotated[
        Path | None, typer.Option(help="A model folder to use instead of SmolLM2-135M-Instruct.")
    ] = None,
    template: Annotated[
        str, typer.Option(help="LLaMA-Factory's chat template for the model.")
    ] = Options.template,
    device: Annotated[
        str | None, typer.Option(help="A device as `accel devices` names it.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many steps, for a quick look.")
    ] = None,
    question: Annotated[str, typer.Option(help="What the model is asked.")] = QUESTION,
    name: Annotated[str, typer.Option(help="Who the model shall be.")] = recipe.NAME,
    author: Annotated[str, typer.Option(help="Who shall have made it.")] = recipe.AUTHOR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a small model on this machine's device, and see its answer change."""
    options = Options(
        output=output.resolve(),
        cache=cache.resolve(),
        model=None if model is None else model.resolve(),
        template=template,
        device=device,
        steps=steps,
        question=question,
        name=name,
        author=author,
    )
    result = run_demo(options, Voice())
    if as_json:
        from accel.cli.output import print_json

        print_json(result.as_dict())
    else:
        showing.print_result(result)
    if result.learnt is False:
        raise DemoError(
            f"after training the model does not call itself {options.name}",
            found=result.after,
            remedy=f"look at {result.files['log']}, then `accel doctor`",
        )


def run_demo(options: Options, voice: Voice) -> showing.Result:
    """All of it. Raises DemoError or InputError; what was downloaded stays for the next try."""
    if options.model is not None and not (options.model / "config.json").is_file():
        raise InputError(
            f"there is no model in {options.model}",
            found="no config.json there" if options.model.is_dir() else "no such folder",
            remedy="accel demo, without --model, fetches a small one",
        )
    if options.device is not None:
        pipeline.plan(options.device, probe=False)  # minutes before it would be missed
    _made(options.output, "--output")
    for stale in (PAGE, CURVE):
        (options.output / stale).unlink(missing_ok=True)
    began = time.monotonic()
    voice.say("1/5 fetching the model and the data")
    model, gguf = _model(options, voice)
    examples = fetching.read_examples(fetching.fetch_examples(_made(options.cache), voice))
    fetched = time.monotonic()

    voice.say(f"2/5 asking the model: {options.question}")
    before = _ask(options, "before", model, voice, gguf=gguf)
    if gguf is not None:
        gguf.unlink()
    voice.say(f"    on {before.device}, in {before.dtype}, with {before.attention}")
    voice.say(f"    it says: {before.answers[0]}")

    adapter = options.output / "adapter"
    job = recipe.Recipe(
        model=model,
        data=recipe.write_data(
            options.output / "data", recipe.fill(examples, options.name, options.author)
        ),
        output=adapter,
        template=options.template,
        dtype=before.dtype,
        steps=options.steps,
    )
    path = job.write(options.output / "demo.yaml")
    voice.say(f"3/5 training: accel llamafactory train {path.name}")
    course = training.train(path, adapter, voice, options.device)
    voice.say(f"4/5 asking again: {options.question}")
    after = _ask(options, "after", model, voice, adapter=adapter)
    voice.say("5/5 drawing the curve and writing the page")
    result = _result(options, before, after, course)
    seconds = {
        "fetching": fetched - began,
        "training": course.seconds,
        "total": time.monotonic() - began,
    }
    result = dataclasses.replace(result, seconds=seconds)
    curve = showing.draw_curve(course.losses, Path(result.files["curve"]))
    showing.write_page(result, curve, path, Path(result.files["page"]))
    return result


def _result(
    options: Options, before: Answer, after: Answer, course: training.Course
) -> showing.Result:
    first, second = before.answers[0], after.answers[0]
    learnt = options.name in second and options.name not in first
    output = options.output
    return showing.Result(
        question=options.question,
        before=first,
        after=second,
        learnt=learnt if options.steps is None else None,
        device=after.device,
        dtype=after.dtype,
        attention=after.attention,
        losses=course.losses,
        seconds={},
        files={
            "page": str(output / PAGE),
            "curve": str(output / CURVE),
            "adapter": str(output / "adapter"),
            "job": str(output / "demo.yaml"),
            "log": course.log,
        },
        report=after.report,
        report_text=after.text,
        report_html=after.html,
    )


def _made(folder: Path, option: str = "--cache") -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"there can be no folder {folder}",
            found=error.strerror or str(error),
            remedy=f"accel demo {option} FOLDER, one that is there and yours, or is not there yet",
        ) from None
    return folder


def _model(options: Options, voice: Voice) -> tuple[Path, Path | None]:
    """The model folder, and the GGUF file it is yet to be made from, if it is."""
    if options.model is not None:
        return options.model, None
    folder = _made(options.cache) / MODEL_FOLDER
    if (folder / "config.json").is_file():
        return folder, None
    return folder, fetching.fetch_gguf(options.cache, voice)


def _ask(
    options: Options,
    when: str,
    model: Path,
    voice: Voice,
    *,
    gguf: Path | None = None,
    adapter: Path | None = None,
) -> Answer:
    """Ask in a child process; `when` names its files in the output folder."""
    request = Request(
        model=str(model),
        questions=[options.question],
        gguf=None if gguf is None else str(gguf),
        adapter=None if adapter is None else str(adapter),
        device=options.device,
    )
    folder = _made(options.output / "asking", "--output")
    asked, answered = folder / f"{when}.request.json", folder / f"{when}.answer.json"
    asked.write_text(json.dumps(dataclasses.asdict(request)), encoding="utf-8")
    answered.unlink(missing_ok=True)
    command = [sys.executable, "-m", "accel_frameworks.demo.asking", str(asked), str(answered)]
    run_child(
        command,
        log=folder / f"{when}.log",
        doing="converting the model, then asking it" if gguf else "asking the model",
        voice=voice,
        remedy="accel doctor",
    )
    return Answer(**json.loads(answered.read_text(encoding="utf-8")))
