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


def test_a_hostfile_that_has_the_ranks_as_slots(fake, monkeypatch):
    fake(fake.own, OPENMPI)
    monkeypatch.setattr(launcher, "cores", lambda: 1)
    words = " ".join(command(["sh"], ranks=3, grace=1, hostfile="/f/hosts", environment=fake.env).arguments)
    assert "-n 3 --hostfile /f/hosts --map-by slot:OVERSUBSCRIBE -x" in words
    assert "--bind-to" not in words, "how many cores the nodes have is not known here"
    mine = {**fake.env, "PRTE_MCA_oob_tcp_keepalive_time": "5"}
    asked = command(["sh"], ranks=3, grace=1, hostfile="/f/hosts", environment=mine).environment
    assert [asked[f"PRTE_MCA_oob_tcp_keepalive_{name}"] for name in ("time", "intvl", "probes")] == ["5", "10", "6"]
    assert not any("keepalive" in name for name in command(["sh"], ranks=3, grace=1, environment=fake.env).environment)
    own = command(
        ["sh"], ranks=3, mpi_args=["--map-by", "node"], grace=1, hostfile="/f/hosts", environment=fake.env
    ).arguments
    assert own.count("--map-by") == 1
    fake(fake.own, HYDRA)
    assert command(["sh"], ranks=3, grace=1, hostfile="/f/hosts", environment=fake.env).arguments[1:] == (
        "-n",
        "3",
        "-f",
        "/f/hosts",
        "sh",
    )


def test_ranks_elsewhere_get_our_words_and_the_users_options_but_nothing_of_this_node(fake):
    fake(fake.own, OPENMPI)
    env = {**fake.env, "HOLDFAST_LEASE": "9", "HOLDFAST_KEEP": "3", "HOLDFAST_NODE_MEMORY": "/here"}
    made = command(["sh"], ranks=2, mpi_args=["-x", "HOLDFAST_KEEP=4"], grace=1, environment=env).arguments
    handed = [made[at + 1] for at, word in enumerate(made) if word == "-x"]
    assert handed == [
        "HOLDFAST_SUPERVISED",
        "HOLDFAST_REPORT",
        "_HOLDFAST_EXECUTION",
        "_HOLDFAST_ENDED",
        "HOLDFAST_LEASE",
        "HOLDFAST_KEEP=4",
    ]


def test_whether_ranks_may_be_elsewhere():
    assert not launcher.elsewhere(["--map-by", "node"], {})
    assert launcher.elsewhere([], {"SLURM_JOB_ID": "1"})
    for words in (["--host", "a,b"], ["--hostfile=f"], ["-f", "f"]):
        assert launcher.elsewhere(words, {})


def test_mpirun_has_a_directory_of_its_own_unless_one_was_chosen(fake):
    fake(fake.own, OPENMPI)

    def session(*mpi_args, **variables):
        made = command(["sh"], ranks=2, mpi_args=mpi_args, grace=1, environment={**fake.env, **variables})
        return {name for name, value in launcher.own_session(made, "/own").items() if value == "/own"}

    assert session() == {"PRTE_MCA_prte_local_tmpdir_base"}
    assert session(PRTE_MCA_prte_tmpdir_base="/mine") == set()
    assert session("--prtemca", "prte_tmpdir_base", "/mine") == set()
    fake(fake.own, "mpirun (Open MPI) 4.1.6")
    assert session() == {"OMPI_MCA_orte_local_tmpdir_base"}
    fake(fake.own, HYDRA)
    assert session() == set()
    serial = command(["sh"], ranks=None, grace=1, environment=fake.env)
    assert launcher.own_session(serial, "/own") == serial.environment


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


def test_spares_are_further_processes_of_an_mpirun_that_goes_on_without_some(fake):
    fake(fake.own, OPENMPI)
    made = command(["sh"], ranks=2, spares=1, grace=1, environment=fake.env)
    words = " ".join(made.arguments)
    assert "-n 3 --with-ft ulfm " in words and "-x HOLDFAST_SPARES" in words
    assert made.environment["HOLDFAST_SPARES"] == "1"
    assert made.shown == "sh on 2 ranks and 1 spare by Open MPI 5.0.11"
    without = command(["sh"], ranks=2, grace=1, environment={**fake.env, "HOLDFAST_SPARES": "4"})
    assert "ulfm" not in without.arguments and "HOLDFAST_SPARES" not in without.environment


@pytest.mark.parametrize("version", [HYDRA, "mpirun (Open MPI) 4.1.6"], ids=["mpich", "openmpi 4"])
def test_spares_where_mpirun_ends_all_with_one(fake, version):
    fake(fake.own, version)
    with pytest.raises(UsageError, match="Nothing was started"):
        command(["sh"], ranks=2, spares=1, grace=1, environment=fake.env)


@pytest.mark.parametrize(
    ("version", "options", "more", "expected"),
    [
        (OPENMPI, {}, {}, "^ofi"),
        (OPENMPI, {}, {"OMPI_MCA_btl": "self,sm"}, "self,sm"),
        (OPENMPI, {"mpi_args": ["--mca", "btl", "tcp,self"]}, {}, None),
        (OPENMPI, {"mpi_args": ["--host", "a,b"]}, {}, None),
        (OPENMPI, {"hostfile": "hosts"}, {}, None),
        (OPENMPI, {}, {"SLURM_JOB_ID": "1"}, None),
        ("mpirun (Open MPI) 4.1.6", {}, {}, None),
        (HYDRA, {}, {}, None),
    ],
)
def test_ranks_of_one_host_do_not_wait_for_a_network(fake, tmp_path, version, options, more, expected):
    fake(fake.own, version)
    environment = fake.env | {"HOME": str(tmp_path)} | more
    assert command(["sh"], ranks=2, grace=1, environment=environment, **options).environment.get("OMPI_MCA_btl") == expected
    (tmp_path / ".openmpi").mkdir()
    (tmp_path / ".openmpi" / "mca-params.conf").write_text("# mine\nbtl = sm,self\n")
    found = command(["sh"], ranks=2, grace=1, environment=environment, **options).environment.get("OMPI_MCA_btl")
    assert found == more.get("OMPI_MCA_btl")
