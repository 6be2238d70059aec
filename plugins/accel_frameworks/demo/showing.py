"""How the demo's result is shown: a curve, a table in the terminal, and a page."""

from __future__ import annotations

import base64
import dataclasses
import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Everything the demo found out; `as_dict` is what `--json` prints.

    `learnt`: the answer after training says the name that the data says, and the one before did
    not. None where the run was cut short by `--steps`, so that nothing can be concluded.
    """

    question: str
    before: str
    after: str
    learnt: bool | None
    device: str
    dtype: str | None
    attention: str | None
    losses: Sequence[float]
    seconds: Mapping[str, float]
    files: Mapping[str, str]
    report: Mapping[str, Any]
    report_text: str
    report_html: str

    def as_dict(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        for view in ("report_text", "report_html"):
            del document[view]
        return document


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The values as one line of block characters, means of equal stretches where there are more
    values than places."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[start:stop]) / (stop - start) for start, stop in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def draw_curve(losses: Sequence[float], path: Path) -> Path:
    """The loss of every step, and its running mean, as a PNG of 1280 by 640 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color="#9db4c0", linewidth=1, label="loss")
    axes.plot(steps, smooth(losses), color="#0b3954", linewidth=2, label="running mean")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(0, 1.05 * max(losses))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)
    return path


def smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """The exponential running mean that starts at the first value."""
    mean: list[float] = []
    for value in values:
        mean.append(value if not mean else weight * mean[-1] + (1 - weight) * value)
    return mean


def verdict(result: Result) -> str:
    """One line: did the model learn what the data says."""
    if result.learnt is None:
        return "A short run: nothing is concluded from the second answer."
    if result.learnt:
        return "The second answer is what the data says."
    return "The second answer is NOT what the data says."


def print_result(result: Result) -> None:
    """The answers side by side, the curve as text and the report, on standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title=f"“{result.question}”", expand=False, padding=(0, 1))
    table.add_column("before", ratio=1)
    table.add_column("after", ratio=1)
    table.add_row(Text(result.before), Text(result.after))
    console.print(Text(result.report_text.rstrip()), soft_wrap=True)
    console.print()
    console.print(table)
    first, last = result.losses[0], result.losses[-1]
    console.print(Text(f"loss {first:.3f} {sparkline(result.losses)} {last:.3f}"))
    spent = ", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items())
    console.print(Text(f"{verdict(result)}  ({spent})"))
    for name, path in result.files.items():
        console.print(Text(f"  {name}: {path}"), soft_wrap=True)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>accel demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }}
.two div {{ border: 1px solid #bbb; border-radius: 6px; padding: .8rem 1rem }}
.two h2 {{ font-size: 1rem; margin: 0 0 .4rem }}
img {{ max-width: 100% }} pre {{ overflow-x: auto; background: #f4f4f4; padding: 1rem }}
</style></head><body>
<h1>{title}</h1>
<p><b>{question}</b></p>
<div class="two"><div><h2>before</h2>{before}</div><div><h2>after</h2>{after}</div></div>
<p>{verdict} ({spent})</p>
<h2>The loss</h2><img alt="loss by step" src="data:image/png;base64,{curve}">
<h2>What was chosen, and why</h2>{report}
<h2>The job</h2><pre>{recipe}</pre>
</body></html>
"""


def write_page(result: Result, curve: Path, recipe: Path, path: Path) -> Path:
    """Everything on one page that needs no other file."""
    page = PAGE.format(
        title=f"accel demo on {html.escape(result.device)}",
        question=html.escape(result.question),
        before=html.escape(result.before),
        after=html.escape(result.after),
        verdict=html.escape(verdict(result)),
        spent=", ".join(f"{name} {value:.0f} s" for name, value in result.seconds.items()),
        curve=base64.b64encode(curve.read_bytes()).decode("ascii"),
        report=result.report_html,
        recipe=html.escape(recipe.read_text(encoding="utf-8")),
    )
    path.write_text(page, encoding="utf-8")
    return path
