"""The scenes of part F: which levels, what is killed, whether spares take the lost nodes' places."""

from __future__ import annotations

from dataclasses import dataclass

from .standin_heat import SCRATCH

KILLED_AT = 6  # newest version when something is killed: the run's own store then has version 4
OFTEN, NEVER = "global:every=4 versions", "global:every=1000 versions"
RS = "rs:set_size=4:m=2"


@dataclass(frozen=True)
class Scene:
    """`levels`: those before the global one, none for that alone; `first`: the level that is read from afterwards; `m`: members
    of a redundancy set that may be lost; `loss`: a rank's number, nodes, or a rank and every node's memory (""); `spares`:
    whether as many nodes wait to take their places; `far`: the global level; `then`: what is killed as well while the loss is
    mended (see `_then`)."""

    levels: str
    first: str
    m: int
    loss: int | str | tuple[str, ...]
    spares: bool = True
    far: str = OFTEN
    survives: bool = True
    then: str = ""

    @property
    def name(self) -> str:
        lost = f"rank {self.loss}" if isinstance(self.loss, int) else " ".join(self.loss) or "all memory"
        spare = "" if not isinstance(self.loss, tuple) else ", spares" if self.spares else ", no spares"
        return f"{self.levels or 'global alone'}: {lost} killed{spare}{', ' * bool(self.then)}{self.then}"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that are killed first."""
        return self.loss if isinstance(self.loss, tuple) else ()

    @property
    def lost(self) -> set[str]:
        """All nodes that are killed."""
        return {*self.nodes, *(["node2"] if self.then.startswith("another node") else [])}

    @property
    def asked(self) -> str:
        """The option `levels`."""
        return f"{self.levels},{self.far}" if self.levels else "global"


def scenes() -> list[Scene]:
    """Every level alone and combined, with every loss."""
    local = f"local:root={SCRATCH}"
    ladders = [
        ("", "", 0), ("memory", "memory", 0), (local, "local", 0), ("memory,partner", "memory", 1),
        ("memory,xor", "memory", 1), (f"{local},xor", "local", 1), (f"memory,{RS}", "memory", 2),
        (f"memory,{local},{RS}", "memory", 2),
    ]  # fmt: skip
    found = []
    for levels, first, m in ladders:
        found.append(Scene(levels, first, m, 3))
        for spares in (True, False):
            far = OFTEN if spares or m == 0 else NEVER
            # Other nodes with spares than without, so that rank 0 is lost as well, and the last one.
            if m:
                found.append(Scene(levels, first, m, ("node1",) if spares else ("node0",), spares, far))
            if m == 2:
                found.append(Scene(levels, first, m, ("node0", "node3") if spares else ("node1", "node2"), spares, far))
            # These two are partners, whose sets are those of nodes 0 and 2, and 1 and 3.
            many = {0: ("node1",), 1: ("node1", "node3"), 2: ("node1", "node2", "node3")}[m]
            if not spares:
                many = {0: ("node0",), 1: ("node0", "node2"), 2: ("node0", "node1", "node3")}[m]
            found.append(Scene(levels, first, m, many, spares, survives=False))
        if "partner" in levels:
            # Half of everything, of no set both.
            found.append(Scene(levels, first, m, ("node0", "node1"), False, NEVER))
    two = (f"memory,{RS}", "memory", 2, ("node1",))
    found += [
        Scene(f"memory,{local},{RS}", "local", 2, "", True, NEVER),
        Scene(*two, True, NEVER, then="another node killed in the rebuild"),
        Scene(*two, False, NEVER, then="another node killed in the rebuild"),
        Scene(*two, True, NEVER, then="everything killed in the rebuild"),
        Scene(f"{local},xor", "local", 1, ("node2",), True, NEVER, then="everything killed in the rebuild"),
        Scene("memory,xor", "memory", 1, ("node0",), False, NEVER, then="everything killed while it opens"),
    ]
    return found
