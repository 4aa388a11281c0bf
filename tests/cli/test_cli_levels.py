"""`plan`, `salvage`, and what `ls`, `verify` and `prune` say of a run with levels: from outside, on one node and on several.

Nodes are directories of this host here: the supervisor is given a launcher that puts each process into its node's environment,
by the hostfile that it is given, and an agent that answers for a node as long as its directory is there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.catalog import read_catalog
from holdfast.catalog.overview import ON_NODES
from holdfast.catalog.places import open_place
from holdfast.cli.salvage import ONLY_HERE
from holdfast.engine.verify import Damage
from holdfast.format import Link
from holdfast.run.levels.outlook import Lost, newer
from holdfast.run.maintenance import verify
from holdfast.store import open_store
from holdfast.supervisor import launcher

SOURCES = str(Path(holdfast.__file__).resolve().parent.parent)
TESTS = Path(__file__).resolve().parent.parent
STEPS, KILLED = 12, 7

PROGRAM = """
import os, signal, sys
from mpi4py import MPI
import numpy as np
import holdfast

killed, far, *names = sys.argv[1:]
comm = MPI.COMM_WORLD
per = comm.size // len(names) or 1
name = names[comm.rank // per]
os.environ["HOLDFAST_NODE_MEMORY"] = os.path.abspath(f"nodes/{name}")
os.environ["HOLDFAST_FAILURE_DOMAIN"] = name
levels = [holdfast.memory(), holdfast.xor(), holdfast.global_(every=holdfast.versions(int(far)))]
with holdfast.open("run", comm=comm, levels=levels, timeout=40) as run:
    u = run.protect("u", np.zeros(40_000 + 1000 * comm.rank))
    for step in run.steps(12, every=holdfast.steps(1)):
        u += step + comm.rank
        if step == int(killed):
            run._x.writer.arrive()
            comm.Barrier()
            assert run._x.levels.placing.keeper.finish(30)
            comm.Barrier()
            os.kill(os.getpid(), signal.SIGKILL)
    total = comm.gather(float(u[-1]))
if comm.rank == 0:
    print("from", run.restored and run.restored.version, "result", *total)
"""

# Process i of mpirun is on the node that line i of the hostfile names.
MPIRUN = """#!{python}
import os, sys
words = sys.argv[1:]
at = words.index("--hostfile")
lines = [line.split() for line in open(words[at + 1])]
del words[at : at + 2]
words[words.index("--map-by") + 1] = ":OVERSUBSCRIBE"
seats = [name for name, slots in lines for _ in range(int(slots.partition("=")[2]))]
at = words.index({python!r})
words[at:at] = ["--bind-to", "none", {python!r}, {rank!r}, ",".join(seats)]
os.execv({mpirun!r}, [{mpirun!r}, *words])
"""

RANK = """
import os, runpy, sys
sys.path.insert(0, {tests!r})
rank = os.environ["OMPI_COMM_WORLD_RANK"]
name = sys.argv[1].split(",")[int(rank)]
os.environ["HOLDFAST_FAILURE_DOMAIN"] = name
os.environ["HOLDFAST_NODE_MEMORY"] = os.path.abspath(f"nodes/{{name}}")
who, _, fault = os.environ.get("FAULT", "").partition(":")
if fault and who == rank:
    from faults import Faults
    Faults.parse(fault).__enter__()
sys.argv[:] = sys.argv[3:]
if sys.argv[0] == "-m":
    sys.argv[:] = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""

AGENT = '#!/bin/sh\ntest -d nodes/"$1"\n'


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


Left = Callable[[str, Callable[[], object]], Path]


@pytest.fixture
def left(ground: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    """`left(name, make)`: a working directory with what `make` left in it when `name` was first asked for; copied, to the same
    path each time, because runs and places know where they are."""

    def back(name: str, make: Callable[[], object]) -> Path:
        seed, work = ground / name, ground / "work"
        shutil.rmtree(work, ignore_errors=True)
        if not seed.exists():
            work.mkdir()
            monkeypatch.chdir(work)
            make()
            work.rename(seed)
        shutil.copytree(seed, work)
        monkeypatch.chdir(work)
        return work

    return back


@pytest.fixture
def one(ground: Path, left: Left, monkeypatch: pytest.MonkeyPatch) -> str:
    """A serial run whose version 6 is in this node's memory alone, and version 4 in its store."""
    monkeypatch.setenv("HOLDFAST_NODE_MEMORY", str(ground / "work" / "memory"))
    left("one", _one)
    return "heat"


def _one() -> None:
    Path("memory").mkdir()
    text = """
import os, signal
import numpy as np
import holdfast
levels = [holdfast.memory(), holdfast.global_(every=holdfast.versions(4))]
run = holdfast.open("heat", levels=levels, keep=holdfast.Keep(last=1))
u = run.protect("u", np.zeros(1000))
for step in run.steps(20, every=holdfast.steps(1)):
    u += 1
    if step in (1, 4, 6):
        run._x.writer.arrive()
        assert run._x.levels.placing.keeper.finish(30)
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def gone() -> None:
    shutil.rmtree(f"memory/holdfast-{os.geteuid()}")


def tree(*roots: str) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for root in roots for p in Path(root).rglob("*") if p.is_file()}


# -- one node ----------------------------------------------------------------------------------


def test_ls_tells_the_levels(one, document, invoke):
    found = document("ls", one)
    assert found["lineage"][0] == 6 and found["places"] == [["memory", str(Path("memory").resolve())]]
    levels = {v["number"]: v["levels"] for v in found["versions"]}
    assert levels[6] == ["memory"]
    assert levels[4][-1] == "global"
    done = invoke("ls", one)
    assert f"{one}: resumable, at version 6 (step 6)" in done.stdout
    assert "levels" in done.stdout and done.stderr.startswith("holdfast: levels: memory in ")
    assert "hostfile" not in done.stderr, "it has never been anywhere else"
    gone()
    found = document("ls", one)
    assert found["lineage"][0] == 4 and found["places"] == []
    assert "has no place of this run" in invoke("ls", one).stderr


def test_ls_of_a_run_without_levels(run, document, invoke):
    found = document("ls", run)
    assert {tuple(v["levels"]) for v in found["versions"]} == {("global",)} and found["places"] is None
    done = invoke("ls", run)
    assert "levels" not in done.stdout + done.stderr


def test_plan_and_salvage(one, document, invoke):
    before = tree(one, "memory")
    done = invoke("plan", one)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["version 6, 1 rank:", "  rank 0: own node's memory"]
    assert "version 6" in done.stderr and "memory in" in done.stderr
    found = document("plan", one)
    assert (found["version"], found["in_use"], found["silent"]) == (6, None, [])
    assert found["plan"]["sources"] == {"own": 1, "move": 0, "rebuild": 0, "global": 0}
    assert found["asked"][0]["versions"][0] == "00000006-a000001"
    found = document("plan", one, "-n", 2)
    assert found["version"] == 4 and "version 6 is of 1 rank, and 2 can go on only" in " ".join(found["lines"])
    assert tree(one, "memory") == before
    done = invoke("salvage", one)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "heat: the next start goes on from version 6 (step 6), which is in the run's own store now\n"
    assert "copies" in done.stderr
    after = tree(one, "memory")
    found = document("salvage", one)
    assert (found["version"], found["copied"], found["attempt"]) == (None, [], None)
    assert "the run's own store has version 6 already" in found["message"] and ONLY_HERE not in found["lines"]
    assert tree(one, "memory") == after
    gone()
    assert document("ls", one)["lineage"][0] == 6
    assert verify(one) == []


def test_a_node_that_holds_nothing_is_not_all_there_is(one, document, invoke):
    gone()
    found = document("plan", one)
    assert found["version"] == 4 and found["lines"][-1] == ONLY_HERE and found["asked"][0]["places"] == []
    assert invoke("plan", one).stdout.splitlines()[-1] == ONLY_HERE
    done = invoke("salvage", one)
    assert ONLY_HERE in done.stderr and "nothing to salvage: the run's own store has version 4 already" in done.stdout


def test_what_is_older_than_what_a_start_takes_is_not_told(one, document):
    """The run has gone on and is complete; version 6 is still in memory, and can't be had by another number of ranks."""
    shutil.copytree("memory", "aside")
    with holdfast.open(one) as run:
        u = run.protect("u", np.zeros(1000))
        for _ in run.steps(20, every=holdfast.steps(1)):
            u += 1
    shutil.copytree("aside", "memory", dirs_exist_ok=True)
    found = document("plan", one, "-n", 2)
    assert "00000006-a000001" in found["asked"][0]["versions"]
    assert found["version"] > 6 and not [line for line in found["lines"] if "version 6" in line]
    assert ONLY_HERE not in found["lines"], "a complete run has nothing on nodes"
    # Nor what has lost its commit.
    next(Path("memory").rglob("00000006-a000001/commit")).unlink()
    for words in (("plan", one), ("salvage", one)):
        assert not [line for line in document(*words)["lines"] if "version 6" in line]


def test_lines_on_what_is_lost():
    lost = [Lost("00000009-a000002", "nine"), Lost("00000006-a000001", "six")]
    assert newer(lost, Link("00000006-a000002", "")) == ["nine"]
    assert newer(lost, Link("00000005-a000001", "")) == ["nine", "six"] == newer(lost, None)


@pytest.mark.parametrize("words", [("salvage",), ("rollback", "4", "--yes"), ("prune", "--yes")])
def test_what_is_in_use_can_be_taken_over(one, invoke, document, words):
    with holdfast.open(one):
        done = invoke(words[0], one, *words[1:])
        assert (done.exit_code, "is in use: attempt 2 lives here" in done.stderr) == (1, True)
        assert "take the run from it with --takeover (" in done.stderr and "takeover=True" not in done.stderr
        assert "attempt 2 lives here" in document("plan", one)["in_use"]


def test_what_is_on_nodes_only_is_no_damage(one, invoke, document):
    """The next start goes on from what memory has, and is killed before anything of its own is in the run's store."""
    text = "import os, signal, holdfast, numpy as np\n" + (
        "run = holdfast.open('heat', levels=[holdfast.memory()])\n"
        "u = run.protect('u', np.zeros(1000))\n"
        "for step in run.steps(20, every=holdfast.steps(100)):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert document("ls", one)["lineage"][0] == 6
    gone()
    found = {v["number"]: v for v in document("ls", one)["versions"]}
    assert (found[6]["status"], found[6]["problem"], found[6]["levels"]) == ("nodes", ON_NODES, [])
    done = invoke("verify", one)
    assert done.exit_code == 0 and "every version in the run's own store is whole" in done.stdout
    assert "version 6 is on nodes only, or lost with them" in done.stderr
    found = document("verify", one)
    assert (found["whole"], found["damages"], found["nodes"]) == (True, [], [6])
    assert invoke("verify", one, 6).exit_code == 0


def test_prune_does_not_abandon_what_nodes_hold(one, invoke, document):
    done = invoke("prune", one, "--keep", 1)
    assert done.exit_code == 0, done.stderr
    assert document("plan", one)["version"] == 6
    assert document("salvage", one)["version"] == 6
    assert document("ls", one)["lineage"][0] == 6


def test_prune_cleans_places_that_nobody_comes_back_to(one, invoke, document):
    for name in ("gone", "here"):
        with holdfast.open(name, levels=[holdfast.memory()]) as run:
            u = run.protect("u", np.zeros(100))
            for _ in run.steps(3, every=holdfast.steps(1)):
                u += 1
    # A place of a run that is gone, and one that a complete run has left.
    places = Path(f"memory/holdfast-{os.geteuid()}")
    (kept,) = places.iterdir()
    for name in ("gone", "here"):
        open_place("memory", "memory", document("ls", name)["run"], create=True, where=str(Path(name).resolve()))
    shutil.rmtree("gone")
    found = document("prune", "here", "--dry-run")
    assert sorted(one["why"].split(" ")[-1] for one in found["places"]) == ["complete", "gone"]
    assert len(list(places.iterdir())) == 3
    done = invoke("prune", "here")
    assert done.stdout.count(": removed, ") == 2
    assert list(places.iterdir()) == [kept]
    assert document("prune", "here")["places"] == []


# -- several nodes -----------------------------------------------------------------------------


class Nodes:
    """Nodes n0, n1, …, and the commands as a user of the first has them."""

    def __init__(self, directory: Path, count: int) -> None:
        mpirun = launcher.find_mpi(os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])).path
        self.directory, self.mpirun = directory, mpirun
        self.names = [f"n{i}" for i in range(count)]
        for name in self.names:
            (directory / "nodes" / name).mkdir(parents=True, exist_ok=True)
        (directory / "hosts").write_text("".join(f"{name} slots=1\n" for name in self.names))
        (directory / "program.py").write_text(PROGRAM)
        values = {"python": sys.executable, "mpirun": mpirun, "rank": str(directory / "rank.py"), "tests": str(TESTS)}
        (directory / "rank.py").write_text(RANK.format(**values))
        for name, text in (("mpirun", MPIRUN.format(**values)), ("agent", AGENT)):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        shim = f"launcher.Mpi({str(directory / 'mpirun')!r}, 'openmpi', 5, 'Open MPI')"
        (directory / "driver.py").write_text(
            "import sys\nfrom holdfast.cli.app import holdfast\nfrom holdfast.supervisor import launcher\n"
            f"launcher.find_mpi = lambda path: {shim}\nholdfast(sys.argv[1:], prog_name='holdfast')\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        own = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PYTHONPATH": SOURCES}
        agent = {"PRTE_MCA_plm_ssh_agent": str(self.directory / "agent"), "OMPI_MCA_mpi_yield_when_idle": "1"}
        return {**os.environ, **own, **agent}

    def program(self, ranks: int, killed: int, far: int = 100, names: list[str] | None = None) -> str:
        words = [self.mpirun, "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable, "program.py"]
        words += [str(killed), str(far), *(names or self.names)]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=90)
        assert (done.returncode == 0) == (killed < 0), done.stdout + done.stderr
        return done.stdout

    def command(self, *words: object, fault: str = "", code: int = 0) -> tuple[dict[str, Any], str]:
        """(the JSON document, what was written on stderr)."""
        words = (sys.executable, "driver.py", *words, "--hostfile", "hosts", "--json")
        environment = {**self.environment, "FAULT": fault}
        done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if code == 0 else {}, done.stderr

    def lose(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.directory / "nodes" / name)

    def file(self, name: str, pattern: str) -> Path:
        (found,) = (self.directory / "nodes" / name).rglob(pattern)
        return found


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    return lambda count: Nodes(tmp_path, count)


@pytest.fixture
def killed(left: Left) -> Callable[..., Nodes]:
    """`killed(far)`: three nodes with a rank on each, all killed at step KILLED; versions go to the run's store by `far`."""

    def back(far: int = 100) -> Nodes:
        return Nodes(left(f"killed-{far}", lambda: Nodes(Path.cwd(), 3).program(3, KILLED, far)), 3)

    return back


def result(ranks: int) -> list[float]:
    return [float(sum(step + rank for step in range(STEPS))) for rank in range(ranks)]


def whole() -> list[Damage]:
    return verify("run")


def test_a_lost_node_is_salvaged_around(killed):
    cluster = killed()
    cluster.lose("n1")
    found, _ = cluster.command("plan", "run", "-n", 3)
    assert found["version"] == KILLED and found["silent"] == ["n1"]
    assert found["plan"]["sources"]["rebuild"] >= 1
    assert [one["node"] for one in found["asked"]] == ["n0", "n2"]
    found, told = cluster.command("salvage", "run")
    assert (found["version"], found["step"]) == (KILLED, KILLED)
    assert "rank 1: rebuilt from what the set of ranks 0-2 holds in memory" in told
    assert "node n0: version" in told
    assert whole() == []
    found, _ = cluster.command("salvage", "run")
    assert found["version"] is None and "already" in found["message"]
    shutil.rmtree("nodes")
    for name in cluster.names:
        (cluster.directory / "nodes" / name).mkdir(parents=True)
    assert cluster.program(3, -1).split() == ["from", str(KILLED), "result", *map(str, result(3))]


def test_too_many_lost_nodes(killed):
    """What the run's own store has is told as what remains, with the ranks that are lost."""
    cluster = killed(4)
    stored = newest_stored()
    cluster.lose("n1", "n2")
    before = tree("run")
    found, told = cluster.command("salvage", "run")
    assert found["version"] is None and found["attempt"] is None
    assert f"has version {stored} already" in found["message"] and "newer ones can't be had" in found["message"]
    assert f"version {KILLED} passed over: ranks 1-2 can't be had" in told
    assert tree("run") == before


def newest_stored(run: str = "run") -> int:
    return read_catalog(open_store(run, create=False, read_only=True)).lineage[0].number


def test_nodes_that_were_not_asked_are_not_called_lost(killed, document, invoke, monkeypatch):
    cluster = killed(4)
    for name in ("n0", None):
        monkeypatch.setenv("HOLDFAST_NODE_MEMORY", f"nodes/{name}")
        monkeypatch.setenv("HOLDFAST_FAILURE_DOMAIN", str(name))
        found = document("plan", "run")
        assert found["version"] == newest_stored() < KILLED and found["lines"][-1] == ONLY_HERE
        lines = "\n".join(found["lines"])
        assert "lost with" not in lines and "are lost" not in lines, lines
        assert ("2 of 3 are on no node that was asked" in lines) == (name == "n0"), lines
        done = invoke("salvage", "run")
        assert ONLY_HERE in done.stderr and "nothing to salvage" in done.stdout
    found, _ = cluster.command("plan", "run")
    assert found["version"] == KILLED and ONLY_HERE not in found["lines"]


def test_damage_and_a_missing_commit_are_gone_around(killed):
    cluster = killed()
    data = cluster.file("n2", f"{KILLED:08d}-*/data/r000002")
    data.chmod(0o600)
    with data.open("r+b") as f:
        f.seek(5000)
        f.write(b"damage")
    cluster.file("n0", f"{KILLED:08d}-*/commit").unlink()
    found, _ = cluster.command("plan", "run")
    assert (found["version"], found["plan"]["sources"]["own"]) == (KILLED, 3 * len(found["plan"]["takes"]))
    found, told = cluster.command("salvage", "run")
    assert found["version"] == KILLED
    assert "damaged at byte" in told and "rank 2: rebuilt" in told
    assert whole() == []


def test_several_ranks_on_a_node_and_a_node_without_anything(nodes):
    cluster = nodes(3)
    cluster.program(4, KILLED, names=["n0", "n1"])
    found, told = cluster.command("salvage", "run")
    assert found["version"] == KILLED and whole() == []
    assert "node n2: nothing can be had from it" in told
    assert {one["node"]: len(one["places"]) for one in found["asked"]} == {"n0": 1, "n1": 1, "n2": 0}
    assert not list((cluster.directory / "nodes" / "n2").rglob("*"))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("1:kill at=1 name=pwrite path=nodes", id="while it rebuilds"),
        pytest.param("1:kill at=1 name=pwrite path=run/incoming", id="while it copies"),
        pytest.param("0:kill at=1 name=link path=run/incoming", id="before an index"),
        pytest.param("0:error at=2 name=pwrite path=run/incoming errno=ENOSPC", id="no room"),
    ][: 4 if "LEVELS_SAMPLE" in os.environ else 2],
)
def test_a_second_salvage_succeeds(killed, fault):
    cluster = killed()
    cluster.lose("n0")
    _, told = cluster.command("salvage", "run", fault=fault, code=1)
    assert ("without a word" in told) == ("kill" in fault), told
    found, told = cluster.command("salvage", "run")
    assert found["version"] == KILLED, told
    assert whole() == []


# -- holdfast run gives up ---------------------------------------------------------------------


def test_a_job_that_is_given_up_is_salvaged(nodes):
    cluster = nodes(3)
    words = ["run", "-n", "3", "--hostfile", "hosts", "--max-restarts", "0", "--", sys.executable, "program.py"]
    words = [sys.executable, "driver.py", *words, str(KILLED), "100", *cluster.names]
    done = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 89, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"holdfast: run: the next start goes on from version {KILLED} (step {KILLED})"), done.stderr
    assert newest_stored() == KILLED and whole() == []


@pytest.mark.parametrize("broken", [False, True])
def test_a_serial_program_that_is_given_up(one, broken, tmp_path, capfd):
    from holdfast.supervisor import Plan, supervise

    text = (
        "import os, signal, numpy as np, holdfast\n"
        "run = holdfast.open('heat')\nu = run.protect('u', np.zeros(1000))\n"
        "for step in run.steps(20, every=holdfast.steps(100)):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    Path("program.py").write_text(text)
    if broken:
        (next(Path("memory").rglob("data/r000000"))).chmod(0o600)
        with next(Path("memory").rglob("data/r000000")).open("r+b") as f:
            f.write(b"damage")
    assert supervise(Plan(("program.py",), max_restarts=0)) == 89
    told = capfd.readouterr().err
    if broken:
        assert newest_stored("heat") == 4
        assert "the run's own store has version 4 already" in told, told
    else:
        assert newest_stored("heat") == 6
        assert "heat: the next start goes on from version 6 (step 6)" in told, told


def test_a_salvage_that_fails_is_told(one, monkeypatch, capsys):
    from holdfast.supervisor import surviving

    said: list[str] = []
    with holdfast.open(one):
        surviving.salvage_after([str(Path(one).resolve())], None, said.append)
    assert "heat was not salvaged: The run" in said[0] and "is in use" in said[0]
    assert said[1] == "what nodes hold of it may still be had: `holdfast salvage heat`"
    monkeypatch.setattr(surviving, "_MODULE", "holdfast.nothing_of_this_name")
    said.clear()
    surviving.salvage_after([str(Path(one).resolve())], None, said.append)
    assert "ended (exit code 1) without a word" in said[0]
    said.clear()
    surviving.salvage_after([str(Path(one).resolve())], None, said.append, hurry=lambda: True)
    assert "was not salvaged" in said[0]
