"""Model of versions at the places of nodes, copied behind to the run's own store; loss of nodes; salvage as an attempt.

Three nodes with a rank each, one redundancy set that survives the loss of one. A first version is everywhere already. The job
(attempt 1) writes further ones: data and `held` on each node, agreement, the commit on each node (engine/placed.publish_at),
parity (run/levels/placing); then older ones go (run/levels/retaining). Beside it the keeper copies a version to the run's store
(run/levels/copier.ToStore, engine/publish). When a node is lost the job is over: what needs all ranks does not happen any more,
but single processes may be zombies, before the commit that they were about to put. Salvages (run/levels/salvage, storing) take
attempts; each may stop anywhere, and another one may begin. Nodes are interchangeable: they are kept sorted.

A state is (nodes, store, records, job, keeper, salvages, told, losses):
nodes     by node, None if lost, else what it has of each version: NOTHING, HELD, COMMITTED, PROTECTED
store     by version (data, root, commit): data NOTHING, PARTLY, ALL; None: the directory is not there
records   newest fence, newest attempt that has sealed, the version that it goes on from (the job: the last that there can be)
job       (version, phase)
keeper    (version, phase)
salvages  (phase, attempt, version)
told      newest version reported committed, protected, durable
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .explorer import State, Step, replace

NOTHING, HELD, COMMITTED, PROTECTED = range(4)
PARTLY, ALL = 1, 2
NODES, LOSS = 3, 1  # nodes of the set, and how many of them may be lost


@dataclass(frozen=True)
class Rules:
    """The protocol; each field that differs from its default is a mutation of it."""

    agreement: bool = True  # no node puts the commit before all ranks have their data
    parity_before_retain: bool = True  # older versions go when the new one has its parity
    data_first: bool = True  # in the run's store the commit is put when all data are there
    keeper_looks: bool = True  # the keeper looks for a later fence before and after its commit
    salvage_fences: bool = True  # a salvage takes an attempt
    # How a version comes to the run's store. "aside": copied where nobody else writes, then given its name as a whole if that
    # is free. "in place": below its name, after what an earlier try has left there is cleared away; the commit is put last,
    # and the directory is made again if somebody has deleted it. "in place, at once": that there is no commit, and the
    # clearing, are one step, which no storage can do.
    keeper: str = "aside"
    salvage: str = "aside"
    # What is left aside is moved away by the next attempt before it is emptied; else it is emptied where it is, file by file.
    moves_away: bool = True


class Size(NamedTuple):
    versions: int = 2  # after the first
    losses: int = 2
    salvages: int = 2


class PlaceModel:
    """See the module. Every state may be the last: a kill is a process without further steps."""

    def __init__(self, size: Size, rules: Rules | None = None) -> None:
        self.size, self.rules = size, rules or Rules()
        self.name = f"places, {size.versions} versions, {size.losses} losses, {size.salvages} salvages"
        self.properties: dict[str, Callable[[State], bool]] = {
            "a commit on a node proves all ranks' data": self._proves,
            "a commit in the store proves all data": self._whole,
            "what is durable is in the store": self._durable,
            "a committed version survives the job": self._survives,
            "a protected version survives a node": self._protected,
        }

    def initial(self) -> Iterator[State]:
        node = (PROTECTED, *(NOTHING,) * self.size.versions)
        records = 1, 1, self.size.versions
        store = ((ALL, True, True), *(None,) * self.size.versions)
        salvages = (("idle", 0, 0),) * self.size.salvages
        yield (node,) * NODES, store, records, (0, "next"), (0, "waits"), salvages, (0, 0, 0), self.size.losses

    def ends(self, state: State) -> bool:
        return True

    # -- what can be had -------------------------------------------------------------------------

    @staticmethod
    def at_nodes(nodes: Any, version: int) -> bool:
        """Whether nodes hold the version, or can rebuild it, and one proves that it was committed (recovery/planning)."""
        alive = [node[version] for node in nodes if node is not None]
        if not any(one >= COMMITTED for one in alive):
            return False
        held = sum(one >= HELD for one in alive)
        protected = sum(one == PROTECTED for one in alive)
        return bool(held == NODES or min(held, protected) >= NODES - LOSS)

    @staticmethod
    def stored(store: Any, version: int) -> bool:
        return bool(store[version] and store[version][2])

    def newest(self, state: State) -> int:
        """The newest version that counts and can be had; -1 if none."""
        nodes, store, (_, _, base), *_ = state
        return max((v for v in range(base + 1) if self.at_nodes(nodes, v) or store[v] == (ALL, True, True)), default=-1)

    # -- properties ------------------------------------------------------------------------------

    def _proves(self, state: State) -> bool:
        nodes, _, _, (_, phase), *_ = state
        for version in range(1, self.size.versions + 1):
            alive = [node[version] for node in nodes if node is not None]
            removed = state[3][0] > version or (state[3][0] == version and phase == "next")  # retention may have been there
            if any(one >= COMMITTED for one in alive) and not removed and NOTHING in alive:
                return False
        return True

    @staticmethod
    def _whole(state: State) -> bool:
        return all(found is None or not found[2] or found[:2] == (ALL, True) for found in state[1])

    @staticmethod
    def _durable(state: State) -> bool:
        return any(found == (ALL, True, True) for found in state[1][state[6][2] : state[2][2] + 1])

    def _survives(self, state: State) -> bool:
        return bool(state[7] < self.size.losses) or self.newest(state) >= int(state[6][0])

    def _protected(self, state: State) -> bool:
        return bool(state[7] < self.size.losses - LOSS) or self.newest(state) >= int(state[6][1])

    # -- steps -----------------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[Step]:
        nodes, *_, losses = state
        yield from self._job(state)
        yield from self._keep(state)
        yield from self._salvage(state)
        if losses:
            for n, node in enumerate(nodes):
                if node is not None and node not in nodes[:n]:
                    yield "a node is lost", (_sorted(replace(nodes, n, None)), *state[1:-1], losses - 1)

    def _job(self, state: State) -> Iterator[Step]:
        nodes, store, records, (version, phase), keeper, salvages, told, losses = state
        fence, whole = records[0], None not in nodes

        def to(
            text: str, following: str, now: Any = nodes, new_told: Any = told, copying: Any = keeper, v: int = version
        ) -> Step:
            return text, (_sorted(now), store, records, (v, following), copying, salvages, new_told, losses)

        if phase == "next" and whole and version < self.size.versions:
            yield to(f"the job begins version {version + 1}", "holds", v=version + 1)
        if phase == "holds":
            for n, node in _each(nodes):
                if node[version] == NOTHING and whole:
                    yield to(f"a node holds version {version}", phase, _set(nodes, n, version, HELD))
            if whole and fence == 1 and (all(node[version] >= HELD for node in nodes) or not self.rules.agreement):
                yield to(f"all hold version {version}, and there is no later fence", "commits")
        if phase == "commits":
            for n, node in _each(nodes):
                if node[version] == HELD:
                    yield to(f"a node commits version {version}", phase, _set(nodes, n, version, COMMITTED))
            if whole and fence == 1 and all(node[version] >= COMMITTED for node in nodes):
                text, new_told = f"version {version} is told committed", (version, *told[1:])
                yield to(text, "protects", new_told=new_told)
                if keeper[1] == "waits":  # not every version is due
                    due = (version, "looks for it")
                    yield to(f"{text}, and is to be copied", "protects", new_told=new_told, copying=due)
        if phase == "protects":
            for n, node in _each(nodes):
                if node[version] == COMMITTED and whole:
                    yield to(f"a node keeps the parity of version {version}", phase, _set(nodes, n, version, PROTECTED))
            if whole and all(node[version] == PROTECTED for node in nodes):
                yield to(f"version {version} is told protected", "retains", new_told=(told[0], version, told[2]))
            if not self.rules.parity_before_retain:
                yield to(f"version {version} is not waited for", "retains")
        if phase == "retains":
            pinned = keeper[0] if keeper[1] not in ("waits", "out") else version
            for n, node in _each(nodes):
                for old in range(version):
                    if node[old] != NOTHING and old != pinned and fence == 1:
                        yield to(f"a node removes version {old}", phase, _set(nodes, n, old, NOTHING))
            if whole:
                yield to("the job goes on", "next")

    def _keep(self, state: State) -> Iterator[Step]:
        nodes, store, records, job, (version, phase), salvages, told, losses = state
        fence, whole = records[0], None not in nodes

        def to(text: str, following: str, found: Any = store[version], new_told: Any = told) -> Step:
            after = replace(store, version, found)
            return f"the keeper {text}", (nodes, after, records, job, (version, following), salvages, new_told, losses)

        late = fence > 1 and self.rules.keeper_looks
        there = self.stored(store, version)
        torn = PARTLY, True, True
        aside = self.rules.keeper == "aside"
        if phase == "looks for it" and there:
            yield to(f"finds version {version} in the store", "waits")
        elif phase == "looks for it" and self.rules.keeper == "in place":
            yield to(f"does not find version {version} in the store", "clears")
        elif phase == "looks for it" and not aside:
            yield to(f"clears version {version}", "copies", None)
        elif phase == "looks for it":
            yield to(f"begins to copy version {version} aside", "copies")
        elif phase == "clears":
            yield to(f"clears version {version}", "copies", None)
        elif phase == "copies" and whole:
            if all(node[version] >= HELD for node in nodes):
                yield to("has copied all data", "roots", store[version] if aside else (ALL, False, False))
            else:
                yield to("finds data gone", "out")
            if not self.rules.data_first:
                yield to("does not wait for all data", "commits")
        elif phase == "copies on" and whole and all(node[version] >= HELD for node in nodes):
            yield to("has copied the rest, in the place of what was tidied", "looks, torn")
        elif phase == "looks, torn":
            yield to("finds a later fence", "out") if late else to("finds no later fence", "commits, torn")
        elif phase == "commits, gone" or (phase == "commits, torn" and there):
            yield to("finds its copy gone, or another one there", "out")
        elif phase == "commits, torn":
            yield to(f"puts what is left of version {version} in the store", "looks again", torn)
        elif phase == "roots":
            data, _, commit = store[version] or (NOTHING, False, False)
            yield to("puts the root", "looks", store[version] if aside else (data, True, commit))
        elif phase == "looks":
            yield to("finds a later fence", "out") if late else to("finds no later fence", "commits")
        elif phase == "commits" and there:
            yield to("finds a commit there", "looks again" if aside else "out")
        elif phase == "commits" and aside:
            found = (ALL if self.rules.data_first else PARTLY, True, True)
            yield to(f"puts version {version} in the store", "looks again", found)
        elif phase == "commits":
            data, root, _ = store[version] or (NOTHING, False, False)
            yield to(f"commits version {version} in the store", "looks again", (data, root, True))
        elif phase == "looks again" and late:
            yield to("finds a later fence after its commit", "out")
        elif phase == "looks again":
            yield to(f"reports version {version} durable", "waits", new_told=(*told[:2], max(version, told[2])))

    def _salvage(self, state: State) -> Iterator[Step]:
        nodes, store, (fence, sealer, base), job, keeper, salvages, told, losses = state
        idle = False
        for s, (phase, attempt, version) in enumerate(salvages):
            if phase == "idle" and idle:
                continue
            idle = idle or phase == "idle"

            def to(text: str, following: Any, found: Any = store[version], new: Any = state[2], new_told: Any = told,
                   s: int = s, version: int = version) -> Step:  # fmt: skip
                after, taken = replace(store, version, found), replace(salvages, s, following)
                return f"salvage {s} {text}", (nodes, after, new, job, keeper, taken, new_told, losses)

            late = fence > attempt and self.rules.salvage_fences
            if phase == "looks" and self.rules.salvage_fences:
                yield from self._tidy(state, s, attempt)
            if phase == "idle":
                number = fence + 1 if self.rules.salvage_fences else fence
                yield to(f"takes attempt {number}", ("looks", number, 0), new=(number, sealer, base))
            elif phase == "looks":
                best = max((v for v in range(base + 1) if self.at_nodes(nodes, v) or self.stored(store, v)), default=-1)
                if best >= 0 and self.stored(store, best):
                    # Nothing to do: people will let the nodes go.
                    durable = (*told[:2], max(told[2], best))
                    yield to(f"finds version {best} in the store", ("out", attempt, best), new_told=durable)
                elif best >= 0:
                    following = "copies aside" if self.rules.salvage == "aside" else "clears"
                    yield to(f"chooses version {best}", (following, attempt, best))
            elif late and phase in ("clears", "looks again", "looks after", "seals"):
                yield to("finds a later fence", ("out", attempt, version))
            elif phase == "copies aside" and self.at_nodes(nodes, version):
                yield to("has copied all of it aside", ("looks again", attempt, version))
            elif phase == "clears":
                yield to("clears the directory", ("copies", attempt, version), None)
            elif phase == "copies" and self.at_nodes(nodes, version):
                _, root, commit = store[version] or (NOTHING, False, False)
                yield to("copies a part", ("copies on", attempt, version), (PARTLY, root, commit))
            elif phase == "copies on" and self.at_nodes(nodes, version):
                _, _, commit = store[version] or (NOTHING, False, False)
                yield to("copies the rest, and the root", ("looks again", attempt, version), (ALL, True, commit))
            elif phase == "looks again":
                yield to("finds no later fence", ("commits", attempt, version))
            elif phase == "commits, gone":
                yield to("finds its copy gone", ("out", attempt, version))
            elif phase.startswith("commits") and self.stored(store, version):
                done = "looks after" if phase == "commits" and self.rules.salvage == "aside" else "out"
                yield to("finds a commit there", (done, attempt, version))
            elif phase == "commits, torn":
                torn = PARTLY, True, True
                yield to(f"puts what is left of version {version} in the store", ("looks after", attempt, version), torn)
            elif phase == "commits" and self.rules.salvage == "aside":
                yield to(f"puts version {version} in the store", ("looks after", attempt, version), (ALL, True, True))
            elif phase == "commits":
                data, root, _ = store[version] or (NOTHING, False, False)
                yield to(f"commits version {version}", ("looks after", attempt, version), (data, root, True))
            elif phase == "looks after":
                yield to("finds no later fence after its commit", ("seals", attempt, version))
            elif phase == "seals":
                yield to("finds no later fence", ("puts the base", attempt, version))
            elif phase == "puts the base":
                sealed = (attempt, version) if attempt >= sealer else (sealer, base)
                yield to(f"seals version {version}", ("reports", attempt, version), new=(fence, *sealed))
            elif phase == "reports" and late:
                yield to("finds a later fence", ("out", attempt, version))
            elif phase == "reports":
                yield to(f"reports version {version}", ("out", attempt, version), new_told=(*told[:2], max(told[2], version)))

    def _tidy(self, state: State, s: int, attempt: int) -> Iterator[Step]:
        """What earlier attempts have aside goes, whoever is still to give it a name (catalog/incoming.remove_incoming). It was
        whole when they last looked for a fence; what they write after that look is the name alone."""
        nodes, store, records, job, keeper, salvages, told, losses = state
        gone = ["commits, gone"]
        following = {"commits": list(gone), "looks": gone, "roots": gone, "copies": ["copies on"]}
        if not self.rules.moves_away:
            following["commits"].append("commits, torn")
        if self.rules.keeper == "aside":
            for after in following.get(keeper[1], ()):
                text = f"salvage {s} tidies what the keeper has aside: it {after}"
                yield text, (nodes, store, records, job, (keeper[0], after), salvages, told, losses)
        if self.rules.salvage == "aside":
            for other, (phase, number, version) in enumerate(salvages):
                for after in following["commits"] if phase in ("commits", "looks again") and number < attempt else ():
                    text = f"salvage {s} tidies what salvage {other} has aside: it {after}"
                    now = replace(salvages, other, (after, number, version))
                    yield text, (nodes, store, records, job, keeper, now, told, losses)


def _each(nodes: Any) -> Iterator[tuple[int, Any]]:
    """Nodes that are there, one of those that are alike."""
    return ((n, node) for n, node in enumerate(nodes) if node is not None and node not in nodes[:n])


def _set(nodes: Any, n: int, version: int, value: int) -> Any:
    return replace(nodes, n, replace(nodes[n], version, value))


def _sorted(nodes: Any) -> Any:
    return tuple(sorted(nodes, key=lambda node: node or ()))
