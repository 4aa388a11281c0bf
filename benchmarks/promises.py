"""What is promised, in one table: the bench's exit status is 1 if a line of it does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from row import MiB, Row

ALL = "every size"  # every size of few large arrays that this bench measures
ONCE = "once"  # whatever size it was measured with, once is enough


@dataclass(frozen=True)
class Promise:
    """`program`'s `metric` is at most `factor` times the limit beside it, plus `plus` (in the figure's unit)."""

    text: str
    program: str
    metric: str
    factor: float
    plus: float = 0.0
    sizes: str = ALL

    def holds(self, row: Row) -> bool:
        if row.value is None or (self.factor and row.limit is None):
            return False
        return row.value <= self.factor * (row.limit or 0.0) + self.plus

    def at_most(self, row: Row) -> float:
        return self.factor * (row.limit or 0.0) + self.plus


XOR_4, RS_4, RS_8 = (
    f"redundancy, {code}" for code in ("xor n=4, m=1, 4 ranks", "rs n=4, m=2, 4 ranks", "rs n=8, m=2, 8 ranks")
)
IN_PLACE, BEYOND = "repair, a rank killed, in place", "noticed beyond `stall_timeout`"

PROMISES = [
    Promise("stall, `copy`, private arena, idle cores: 0.7 x memcpy", "holdfast copy", "stall", 0.7),
    Promise("stall, `copy`, shared arena, idle cores: 0.95 x memcpy", "holdfast copy, shared arena", "stall", 0.95),
    Promise("stall, `copy`, a rank on every core: 1.15 x memcpy", "holdfast copy, a rank on every core", "stall", 1.15),
    Promise("stall, `reference`: 1 ms", "holdfast reference", "stall", 0, 1e-3),
    Promise("stall, `cow`: 0.12 x memcpy", "holdfast cow", "stall", 0.12),
    Promise(
        "`cow`, all rewritten meanwhile: slow-down at most the larger of 3 x memcpy and 1.15 x best raw write",
        "holdfast cow", "slow-down, all rewritten", 1.0,
    ),
    Promise("captured → durable, full, `copy`: 1.15 x best raw write", "holdfast copy", "captured → durable", 1.15),
    Promise("captured → durable, full, `cow`: 1.15 x best raw write", "holdfast cow", "captured → durable", 1.15),
    Promise("nothing changed, tracker: 0.02 x full", "holdfast pages, 0 % dirty", "durable", 0.02),
    Promise("nothing changed, digests: 0.35 x full", "holdfast blocks, 0 % dirty", "durable", 0.35),
    Promise(
        "bytes, 1 % contiguous, tracker: 1.1 x the dirty bytes + 1 MiB",
        "holdfast pages, 1 % contiguous dirty", "bytes", 1.1, MiB,
    ),
    Promise(
        "bytes, 1 % scattered pages, tracker: 1.5 x the dirty bytes + 1 MiB",
        "holdfast pages, 1 % scattered dirty", "bytes", 1.5, MiB,
    ),
    Promise(
        "tracker on, all rewritten each interval, `auto`: 3 % slower", "holdfast auto", "time, all rewritten", 1.03, sizes=ONCE
    ),
    Promise("cold restore into fresh arrays, verified: 1.15 x best raw read", "holdfast auto", "cold restore", 1.15),
    Promise("warm restore, verified: 2 x memcpy", "holdfast auto", "warm restore", 2.0),
    Promise("extra memory, `copy`: state + 64 MiB", "holdfast copy", "extra memory", 1.0, 64 * MiB),
    Promise(
        "extra memory, `copy`, bounded: the bound + 64 MiB", "holdfast copy, bounded staging", "extra memory", 1.0, 64 * MiB,
        ONCE,
    ),
    Promise("extra memory, `cow`: 256 MiB", "holdfast cow", "extra memory", 0, 256 * MiB),
    Promise("extra memory, restore: 64 MiB", "holdfast auto", "extra memory, restore", 0, 64 * MiB),
    Promise("matmul 1000² while flushing: 10 % slower", "holdfast auto", "time of matmul", 1.1, sizes=ONCE),
    Promise(
        "the same with one BLAS thread: 10 % slower", "holdfast auto", "time of matmul, one thread", 1.1, sizes=ONCE
    ),
    Promise("stream over 32 MiB while flushing: 10 % slower", "holdfast auto", "time of a stream", 1.1, sizes=ONCE),
    Promise(
        "pure Python while flushing, helper process: 10 % slower", "holdfast process", "time of pure Python", 1.1, sizes=ONCE
    ),
    Promise("200 small arrays and scalars: stall 3 ms", "holdfast, 200 small arrays", "stall", 0, 3e-3, ONCE),
    Promise(
        "200 small arrays and scalars: durable 30 ms beyond the fsyncs",
        "holdfast, 200 small arrays", "durable beyond fsyncs", 0, 30e-3, ONCE,
    ),
    Promise("goodput, `auto`: within 2 % of the best fixed interval", "goodput", "time for durable work", 1.02, sizes=ONCE),
    Promise("import beyond NumPy: 50 ms", "import holdfast", "beyond NumPy", 0, 50e-3, ONCE),
    Promise("step without a checkpoint, serial: 2 µs", "step, serial", "no checkpoint due", 0, 2e-6, ONCE),
    Promise("step without a checkpoint, 2 ranks: 20 µs", "step, 2 ranks", "no checkpoint due", 0, 20e-6, ONCE),
    Promise("open, 100 versions of 10 000 objects: 50 ms", "open, 100 versions", "holdfast.open", 0, 50e-3, ONCE),
    Promise("restart from memory, verified: 1.5 x memcpy", "memory level", "restart", 1.5, sizes=ONCE),
    Promise("stall with redundancy behind: 1.1 x without", "memory and xor, 4 ranks", "stall", 1.1, sizes=ONCE),
    Promise("encode, xor n=4: 0.35 of the speed of memcpy by all ranks", XOR_4, "encode", 1 / 0.35, sizes=ONCE),
    Promise("encode, rs n=4, m=2: 0.15 of the speed of memcpy by all ranks", RS_4, "encode", 1 / 0.15, sizes=ONCE),
    *(
        Promise(f"{program.removeprefix('redundancy, ')}: {text}", program, metric, factor, plus, ONCE)
        for program in (XOR_4, RS_4, RS_8)
        for text, metric, factor, plus in (
            ("64 MiB a rank beyond the parity", "extra memory of a rank beyond the parity", 0.0, 64 * MiB),
            ("within 1 % of 1 + m / (n - m) x the state", "kept, parity included", 1.01, 0.0),
        )
    ),
    Promise("4 x 64 MiB, a rank killed: computing again in 150 ms", IN_PLACE, "computing", 0, 0.15, ONCE),
    Promise("the same: 9 of 10 in place", IN_PLACE, "not in place", 0, 0.1, ONCE),
    Promise("the same, without spares: 4 s", "repair, a rank killed, relaunch", "computing", 0, 4.0, ONCE),
    Promise("a rank hangs: noticed within `stall_timeout` + 1 s, at worst", "repair, a rank hangs", BEYOND, 0, 1.0, ONCE),
    *(
        Promise(
            f"plan of a recovery, 10⁶ ranks, nodes lost {lost}: 10 s",
            f"growth, 1 000 000 ranks, nodes lost {lost}", "from messages to the plan", 0, 10.0, ONCE,
        )
        for lost in ("side by side", "at random")
    ),
    Promise("root of an index of 10⁶ ranks: 1 MiB", "growth, index of 1 000 000 ranks", "root", 0, MiB, ONCE),
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A promise and the figure it was held against; `row` is None where none was measured: that is no promise kept."""

    promise: Promise
    size: str
    row: Row | None

    @property
    def held(self) -> bool:
        return self.row is not None and self.promise.holds(self.row)


def judge(rows: list[Row], sizes: list[str], promises: list[Promise] | None = None) -> list[Verdict]:
    """Every promise against what was measured, at each of `sizes` where it is made for all."""
    found: dict[tuple[str, str, str], Row] = {(r.program, r.size, r.metric): r for r in rows}
    verdicts: list[Verdict] = []
    for promise in PROMISES if promises is None else promises:
        if promise.sizes == ALL:
            for size in sizes:
                verdicts.append(Verdict(promise, size, found.get((promise.program, size, promise.metric))))
        else:
            same = [
                r for (program, _, metric), r in found.items() if (program, metric) == (promise.program, promise.metric)
            ]
            verdicts += [Verdict(promise, r.size, r) for r in same] or [Verdict(promise, "", None)]
    return verdicts
