"""How programs are started: which mpirun, which arguments, which environment."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from holdfast.errors import UsageError
from holdfast.supervisor import launcher
from holdfast.supervisor.launcher import command, find_mpi, identify

OPENMPI = "mpirun (Open MPI) 5.0.11\n\nReport bugs to ..."
HYDRA = "HYDRA build details:\n    Version:                                 4.3.0\n"


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A directory that stands for the interpreter's own, and nothing else on PATH but `sh`."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(sys, "executable", str(executable(own / "python", "#!/bin/sh\n")))

    def mpirun(where, version, name="mpirun"):
        where.mkdir(exist_ok=True)
        return executable(where / name, f"#!/bin/sh\ncat <<'END'\n{version}\nEND\n")

    mpirun.own = own
    mpirun.env = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin"}
    mpirun.path = tmp_path / "path"
    return mpirun


def test_identify():
    assert identify("m", OPENMPI).name == "Open MPI 5.0.11"
    assert identify("m", "mpirun (Open MPI) 4.1.6").major == 4
    assert identify("m", HYDRA) == launcher.Mpi("m", "mpich", 4, "MPICH 4.3.0")
    assert identify("m", "some other tool, version 3") is None


def test_the_interpreters_own_mpirun_comes_first(fake):
    fake(fake.path, HYDRA)
    fake(fake.own, OPENMPI)
    made = command(["sh"], ranks=2, grace=1, environment=fake.env)
    assert made.arguments[0] == str(fake.own / "mpirun")
    assert made.mpi.kind == "openmpi"


def test_what_is_no_mpi_is_passed_over(fake):
    fake(fake.own, "quite another mpirun")
    other = fake(fake.path, HYDRA, "mpiexec")
    assert find_mpi(f"{fake.own}:{fake.path}").path == str(other)


def test_no_mpi_names_what_to_install(fake):
    with pytest.raises(UsageError, match=r"pip install holdfast\[mpi-wheels\]"):
        find_mpi(str(fake.own))


def test_openmpi_gets_what_few_cores_and_root_need(fake, monkeypatch):
    fake(fake.own, OPENMPI)
    monkeypatch.setattr(launcher, "cores", lambda: 2)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    env = fake.env
    many = command(["sh", "-c", "x"], ranks=3, prefix=True, grace=1, environment=env)
    words = " ".join(many.arguments)
    assert "-n 3 " in words
    assert "--map-by :OVERSUBSCRIBE --bind-to none" in words
    assert "--output tag" in words
    assert many.arguments[-3:] == ("sh", "-c", "x")
    assert many.environment["OMPI_ALLOW_RUN_AS_ROOT"] == many.environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert "OVERSUBSCRIBE" not in " ".join(command(["sh"], ranks=2, grace=1, environment=env).arguments)
    placed = command(["sh"], ranks=3, mpi_args=["--map-by", "node"], grace=1, environment=env).arguments
    assert placed.count("--map-by") == 1
    batch = command(["sh"], ranks=3, grace=1, environment={**env, "SLURM_JOB_ID": "1"}).arguments
    assert "--bind-to" not in batch
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in command(["sh"], ranks=2, grace=1, environment=env).environment


def test_mpich_needs_nothing_but_the_prefix(fake, monkeypatch):
    fake(fake.own, HYDRA)
    monkeypatch.setattr(launcher, "cores", lambda: 1)
    made = command(["sh"], ranks=4, prefix=True, mpi_args=["-l"], grace=1, environment=fake.env)
    assert made.arguments[1:] == ("-n", "4", "-prepend-rank", "-l", "sh")


def test_python_is_the_supervisors_own(fake):
    made = command(["python", "x.py"], ranks=None, grace=2.5, environment=fake.env)
    assert made.arguments == ("python", "x.py")
    assert made.environment["PATH"].split(":")[0] == str(fake.own)
    assert made.environment["HOLDFAST_SUPERVISED"] == "2.5"


def test_a_script_that_is_not_executable_is_given_to_the_interpreter(fake, tmp_path):
    script = tmp_path / "heat.py"
    script.write_text("#!/bin/sh\n")
    assert command([str(script), "-x"], ranks=None, grace=1, environment=fake.env).arguments == (
        sys.executable,
        str(script),
        "-x",
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert command([str(script)], ranks=None, grace=1, environment=fake.env).arguments == (str(script),)


def test_a_program_that_does_not_exist(fake):
    with pytest.raises(UsageError, match="no-such-program"):
        command(["no-such-program"], ranks=None, grace=1, environment=fake.env)


def test_cores_are_at_least_one():
    assert 1 <= launcher.cores() <= os.cpu_count()
