"""The guide's examples do what the guide says, and the pages beside it name things that exist."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import holdfast
from holdfast.cli.app import holdfast as cli
from holdfast.config import Options

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(m.group(1), m.group(2), GUIDE[: m.start()].count("\n") + 2) for m in BLOCK.finditer(GUIDE)]
COMMANDS = [line.split("  #")[0].strip() for kind, text, _ in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory in which the examples have been executed, and what each printed, by its line in the guide."""
    path = tmp_path_factory.mktemp("guide")
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("holdfast.store.syscalls.fsync", lambda fd: None)  # which would take most of the time
        for kind, text, line in BLOCKS:
            if kind == "python":
                out = io.StringIO()
                code = compile("\n" * (line - 1) + text, "docs/guide.md", "exec")
                with contextlib.redirect_stdout(out):
                    exec(code, {"__name__": "guide"})
                printed[line] = out.getvalue()
    return path, printed


EXPECTED = [
    (line, BLOCKS[i + 1][1]) for i, (kind, _, line) in enumerate(BLOCKS[:-1])
    if kind == "python" and BLOCKS[i + 1][0] == "text"
]  # fmt: skip


def test_every_example_shows_what_it_prints(place):
    assert len(EXPECTED) == sum(kind == "python" for kind, _, _ in BLOCKS) > 10


@pytest.mark.parametrize(("line", "text"), EXPECTED, ids=[f"line{line}" for line, _ in EXPECTED])
def test_example(place, line, text):
    assert place[1][line] == text


@pytest.mark.parametrize("command", COMMANDS)
def test_command(place, command, monkeypatch):
    """Commands that look at or change a run are executed on the examples' runs; `run` is only parsed."""
    name, *arguments = shlex.split(command)[1:]
    assert command.startswith("holdfast ")
    if name == "run":
        context = cli.commands["run"].make_context("run", arguments)
        assert context.params["program"][0] == "python"
        return
    monkeypatch.chdir(place[0])
    result = CliRunner().invoke(cli, [name, *arguments])
    assert result.exit_code == 0, result.output


def test_unknown_arguments_would_be_found():
    with pytest.raises(click.UsageError):
        cli.commands["run"].make_context("run", ["--no-such", "--", "python"])


def test_the_table_of_options_is_the_code_s():
    section = GUIDE.split("## Options")[1].split("## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\| `([^`]*)` \|", section, re.MULTILINE))
    assert rows == {f.name: _default(getattr(Options(), f.name)) for f in dataclasses.fields(Options)}


def _default(value):
    return value if isinstance(value, str) else repr(value)


def test_the_file_of_options_is_one(tmp_path):
    from holdfast.config import load

    (text,) = [text for kind, text, _ in BLOCKS if kind == "toml"]
    (tmp_path / "holdfast.toml").write_text(text)
    options = load({}, tmp_path / "holdfast.toml")
    assert (options.on_error, options.keep) == ("warn", holdfast.Keep(last=5))


def test_the_tables_name_every_error_and_status():
    from holdfast import errors

    named = set(re.findall(r"`(\w+Error)`", GUIDE))
    public = {n for n in holdfast.__all__ if n.endswith("Error")}
    assert public <= named | {"HoldfastError"}
    for code in (v for n, v in vars(errors).items() if n.startswith("EXIT_")):
        assert re.search(rf"^\|[^|]*\b{code}\b", GUIDE, re.MULTILINE), code


@pytest.mark.parametrize("page", ["docs/guide.md", "docs/failure-model.md"])
def test_what_the_pages_refer_to_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [(ROOT / "docs" / target) for target in re.findall(r"\]\(([\w./-]+)\)", text)]
    tests = [ROOT / target for target in re.findall(r"`(tests/[\w./-]+)`", text)]
    assert links
    assert [str(p) for p in links + tests if not p.exists()] == []
