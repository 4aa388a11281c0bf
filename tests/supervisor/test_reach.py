"""How a node is asked whether it answers, and where the supervisor meets its program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from holdfast.catalog import current
from holdfast.supervisor import reach
from holdfast.supervisor.folder import PREFIX, meeting_place
from holdfast.supervisor.reach import agent, silent

SSH = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=14"]


@pytest.fixture
def script(tmp_path):
    """`script(text, name)`: an agent with that text, on the PATH of the environment `script.env`."""
    path = tmp_path / "bin"
    path.mkdir()

    def make(text, name="agent"):
        (path / name).write_text(f"#!/bin/sh\n{text}\n")
        (path / name).chmod(0o755)
        return str(path / name)

    make.env = {"PATH": f"{path}:/usr/bin:/bin"}
    make.only = {"PATH": str(path)}
    return make


def test_the_agent_is_the_launchers_own(script):
    for name in ("ssh", "rsh", "special"):
        script("true", name)
    env = script.only
    assert agent("openmpi", [], env) == ["ssh", *SSH]
    assert agent("openmpi", [], {**env, "PRTE_MCA_plm_ssh_agent": "special -x"}) == ["special", "-x"]
    assert agent("openmpi", [], {**env, "OMPI_MCA_plm_rsh_agent": "nothing : special"}) == ["special"]
    assert agent("openmpi", ["--mca", "plm_rsh_agent", "rsh"], env) == ["rsh"]
    assert agent("openmpi", ["--prtemca", "plm_ssh_agent", "ssh -q"], env) == ["ssh", "-q", *SSH]
    assert agent("mpich", [], {**env, "HYDRA_LAUNCHER_EXEC": "special"}) == ["special"]
    assert agent("mpich", ["-launcher-exec", "rsh"], env) == ["rsh"]
    assert agent("mpich", [], {**env, "PRTE_MCA_plm_ssh_agent": "special"}) == ["ssh", *SSH]


def test_under_slurm_it_is_srun_if_nothing_else_is_said(script):
    script("true", "ssh")
    allocated = {**script.only, "SLURM_JOB_ID": "1"}
    assert agent("openmpi", [], allocated)[0] == "ssh"
    script("true", "srun")
    assert agent("openmpi", [], allocated)[0] == "srun"
    assert agent("openmpi", [], {**allocated, "PRTE_MCA_plm_ssh_agent": "mine"}) == ["mine"]


def test_who_does_not_answer(script):
    words = [script('case $1 in bad*) exit 1;; slow*) sleep 60;; *) exec "$2";; esac')]
    began = time.monotonic()
    assert silent(["good", "bad", "slow1", "other", "slow2", "localhost"], words, script.env, 2.0) == {
        "bad",
        "slow1",
        "slow2",
    }
    assert time.monotonic() - began < 20


def test_more_nodes_than_are_asked_at_once(script, monkeypatch):
    monkeypatch.setattr(reach, "_AT_ONCE", 2)
    words = [script('test "$1" != n3')]
    assert silent([f"n{i}" for i in range(6)], words, script.env) == {"n3"}


def test_whoever_is_in_a_hurry_does_not_wait(script):
    words = [script('test "$1" = slow && sleep 60; exit 1')]
    began = time.monotonic()
    assert silent(["slow"], words, script.env, hurry=lambda: True) == set()
    assert time.monotonic() - began < 10


def test_without_an_agent_nobody_answers(script):
    assert silent(["n0", os.uname().nodename], ["/no/such/agent"], script.env) == {"n0"}


def test_this_host_under_another_name(script, monkeypatch):
    monkeypatch.setattr(reach, "_is_own_name", lambda node: False)
    assert silent(["127.0.0.1", "user@127.0.0.2"], [script("exit 1")], script.env) == set()
    assert silent(["192.0.2.7"], [script("exit 1")], script.env) == {"192.0.2.7"}, "an address for documentation"


def test_on_one_host_they_meet_in_a_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with meeting_place(False) as (place, complaint):
        assert os.path.isdir(place)
        assert complaint is None
        assert os.listdir(tmp_path) == []
    assert not os.path.exists(place)


def test_with_other_nodes_they_meet_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with meeting_place(True) as (place, complaint):
        assert os.path.dirname(place) == str(tmp_path)
        assert complaint is None
        with meeting_place(True) as (other, _):
            assert os.path.isdir(place), "its supervisor lives"
        assert not os.path.exists(other)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_supervisor_left_is_deleted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    owners = {
        "dead": replace(current(), pid=gone.pid),
        "living": current(),
        "elsewhere": replace(current(), boot="other", pid=gone.pid),
    }
    for name, owner in owners.items():
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "supervisor").write_text(json.dumps(owner.plain()))
    (tmp_path / f"{PREFIX}unknown").mkdir()
    with meeting_place(True):
        pass
    assert sorted(os.listdir(tmp_path)) == [f"{PREFIX}{name}" for name in ("elsewhere", "living", "unknown")]


def test_where_the_working_directory_can_not_be_written(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    real = os.getcwd()
    shutil.rmtree(gone)  # root may write anywhere: a directory that is no more refuses everybody
    monkeypatch.setattr(os, "getcwd", lambda: real)
    with meeting_place(True) as (place, complaint):
        assert os.path.isdir(place)
        assert "can't be written" in complaint
    assert not os.path.exists(place)
    monkeypatch.undo()
