"""`accel llamafactory`: bad input is refused in words, before anything starts."""

from __future__ import annotations

import importlib.util
import json
import os
import types

import pytest

from accel.errors import AccelError, InputError
from accel_frameworks import llamafactory_command as command
from fw_support import needs

HERE = types.SimpleNamespace(submodule_search_locations=[])
"""As much of a module's spec as is looked at."""


@pytest.fixture
def installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: HERE if name == "llamafactory" else real(name, *rest),
    )


def test_without_llamafactory(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "llamafactory" else real(name, *rest),
    )
    with pytest.raises(AccelError, match=r"pip install 'accel-hal\[llamafactory\]'"):
        command.check(["version"])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.yaml", "- a\n- b\n", "a list where a mapping"),
        ("text.yaml", "just words", "a str where a mapping"),
        ("empty.yml", "", "nothing where a mapping"),
        ("broken.yaml", "a: [1, 2\nb: }", "not valid YAML"),
        ("tabs.yaml", "a:\n\t- b", "not valid YAML"),
        ("broken.json", '{"a": ', "not valid JSON"),
        ("no_model.yaml", "stage: sft\n", "names no model"),
        ("no_path.yaml", "model_name_or_path: /no/such/model\n", "'/no/such/model' is not there"),
        ("relative.yaml", "model_name_or_path: ./models/x\n", "'./models/x' is not there"),
        ("deep.yaml", "model_name_or_path: models/qwen/small\n", "is not there"),
    ],
)
def test_a_bad_configuration(installed, tmp_path, monkeypatch, name, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        command.check(["train", name])
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert "try:" in str(caught.value)


def test_a_file_that_is_not_there_names_its_neighbours(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora.yaml").write_text("a: 1")
    with pytest.raises(InputError, match=r"no file 'lorra.yaml'[\s\S]*lora.yaml"):
        command.check(["train", "lorra.yaml"])
    with pytest.raises(InputError, match="no folder"):
        command.check(["train", "nowhere/lora.yaml"])
    with pytest.raises(InputError, match="neither a configuration file nor an option"):
        command.check(["train", "lora"])
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        command.check(["train", "bytes.yaml"])
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        command.check(["train", "folder.yaml"])


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B", "gpt2", "here", "${oc.env:MODEL}"])
def test_a_good_configuration(installed, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "good.yaml").write_text(f"model_name_or_path: {json.dumps(model)}\n")
    command.check(["train", "good.yaml"])
    command.check(["train", "--model_name_or_path", model, "--stage", "sft"])
    command.check(["train", "--help"])
    for arguments in ([], ["version"], ["webui"], ["webchat"], ["help"]):
        command.check(arguments)


def test_what_llama_factory_would_not_say_by_itself(installed):
    """It ends with 0 on a command that it does not know, and with a traceback without a file."""
    with pytest.raises(InputError, match="no command 'trian'; did you mean 'train'"):
        command.check(["trian", "x.yaml"])
    with pytest.raises(InputError, match="no command '--version'"):
        command.check(["--version"])
    for name in ("train", "chat", "api", "export"):
        with pytest.raises(InputError, match=rf"try:   accel llamafactory {name} FILE.yaml"):
            command.check([name])


def test_a_command_of_a_version_to_come_is_left_to_it(installed, tmp_path, monkeypatch):
    package = tmp_path / "llamafactory"
    package.mkdir()
    (package / "launcher.py").write_text('if command == "distill":\n    distill()\n')
    monkeypatch.setattr(HERE, "submodule_search_locations", [str(package)])
    command.check(["distill", "x"])
    with pytest.raises(InputError, match="no command 'distil'"):
        command.check(["distil", "x"])


def test_an_override_counts(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("stage: sft\n")
    command.check(["train", "x.yaml", "model_name_or_path=gpt2"])
    with pytest.raises(InputError, match="'/gone' is not there"):
        command.check(["export", "x.yaml", "model_name_or_path=/gone"])
    with pytest.raises(InputError, match="'/gone' is not there"):
        command.check(["chat", "--model_name_or_path=/gone"])


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_its_help_needs_no_repairs(run, option):
    ended = run("-m", "accel", "llamafactory", option)
    assert ended.returncode == 0, ended.stderr
    assert "Usage: accel llamafactory ARGS..." in ended.stdout
    assert "llamafactory help" in ended.stdout
    assert ended.stderr == ""  # neither auto() nor LLaMA-Factory had a word


@needs("llamafactory")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "gone.yaml"], 2, "there is no file 'gone.yaml'"),
        (["train", "list.yaml"], 2, "is not a configuration"),
    ],
)
def test_the_command_ends_with_a_code_and_no_traceback(run, tmp_path, arguments, code, said):
    (tmp_path / "list.yaml").write_text("- a\n")
    before = sorted(tmp_path.iterdir())
    ended = run("-m", "accel", "llamafactory", *arguments)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert sorted(tmp_path.iterdir()) == before, "nothing was written"
    debug = run("-m", "accel", "--debug", "llamafactory", *arguments)
    assert debug.returncode == code
    assert "Traceback" in debug.stderr


def test_the_versions_that_llamafactory_will_refuse_are_named(installed, monkeypatch, capsys):
    from accel_frameworks.llamafactory_command import importlib as seen

    monkeypatch.setattr(seen.metadata, "requires", lambda name: ["transformers<=5.6,>=4.55"])
    monkeypatch.setattr(seen.metadata, "version", lambda name: "5.23.0")
    command.check(["version"])
    said = capsys.readouterr().err
    assert "transformers" in said
    assert "found 5.23.0" in said
    monkeypatch.setattr(seen.metadata, "version", lambda name: "5.6.0")
    command.check(["version"])
    assert capsys.readouterr().err == ""


def test_deepspeed_that_is_not_installed_is_refused_before_anything(installed, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("model_name_or_path: a/b\ndeepspeed: ds.json\n")
    if importlib.util.find_spec("deepspeed") is not None:
        pytest.skip("deepspeed is installed")
    with pytest.raises(AccelError, match=r"accel-hal\[deepspeed\]"):
        command.check(["train", str(path)])
    with pytest.raises(AccelError, match="the command line asks for DeepSpeed"):
        command.check(["train", "--model_name_or_path", "a/b", "--deepspeed", "ds.json"])
    command.check(["train", str(path), "deepspeed="])


@pytest.mark.parametrize(
    ("text", "variables", "forced"),
    [
        ("deepspeed: ds.json\n", {}, {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1"}),
        ("deepspeed: ds.json\n", {"NPROC_PER_NODE": "2"}, {"FORCE_TORCHRUN": "1"}),
        ("deepspeed: ds.json\n", {"FORCE_TORCHRUN": "1"}, {}),
        ("deepspeed: ds.json\n", {"RANK": "0"}, {}),
        ("stage: sft\n", {}, {}),
    ],
)
def test_deepspeed_trains_in_ranks(tmp_path, monkeypatch, capsys, text, variables, forced):
    names = ("FORCE_TORCHRUN", "NPROC_PER_NODE", "RANK")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(command, "_devices", lambda: 0)
    path = tmp_path / "job.yaml"
    path.write_text(text)
    command.launch_ranks(["train", str(path)])
    found = {name: os.environ[name] for name in names if name in os.environ}
    for name in set(found) - set(variables):
        monkeypatch.delenv(name)
    assert found == {**variables, **forced}
    assert ("FORCE_TORCHRUN=1" in capsys.readouterr().err) == ("FORCE_TORCHRUN" in forced)
