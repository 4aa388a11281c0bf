"""The command itself: help, version, completion, and that importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from holdfast.cli.app import holdfast


def invoke(*words):
    return CliRunner().invoke(holdfast, list(words), prog_name="holdfast")


def test_help_names_the_commands_in_order_of_use():
    text = invoke("--help").stdout
    names = ("run", "status", "ls", "show", "verify", "rollback", "prune", "completion", "dev")
    places = [text.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)


def test_version():
    done = invoke("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("holdfast ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(shell):
    done = invoke("completion", shell)
    assert done.exit_code == 0, done.stderr
    assert "_HOLDFAST_COMPLETE" in done.stdout


def test_an_unknown_shell_is_wrong_usage():
    assert invoke("completion", "csh").exit_code == 2


def test_the_table_of_exit_codes_is_complete():
    from holdfast import errors
    from holdfast.cli.run import EXIT_CODES

    constants = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert constants <= set(EXIT_CODES)
    text = invoke("run", "--help").stdout
    lines = text[text.index("Exit codes:") :].splitlines()
    for code, meaning in EXIT_CODES.items():
        assert any(line.split(None, 1) == [str(code), meaning] for line in lines if line.strip())


def test_the_documentation_has_the_same_table():
    import holdfast.cli
    from holdfast.cli.run import EXIT_CODES

    for code in EXIT_CODES:
        assert f"\n    {code:<3} " in holdfast.cli.__doc__


def test_nothing_is_imported_before_it_is_needed():
    code = (
        "import sys, holdfast.cli\n"
        "heavy = {'click', 'rich', 'subprocess', 'asyncio', 'mpi4py'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try:\n    holdfast.cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'rich', 'asyncio', 'mpi4py', 'holdfast.supervisor'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
