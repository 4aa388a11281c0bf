"""Writes what was measured: results.json for programs, docs/benchmarks.md and its picture for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from picture import picture
from promises import Verdict
from row import Row
from table import others, promised, table


@dataclass(frozen=True)
class Report:
    """All of one run of the bench. `machine`, `versions`: {what: text}."""

    rows: list[Row]
    verdicts: list[Verdict]
    sizes: list[str]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    rounds: int

    def json(self) -> str:
        return json.dumps([row.public() for row in self.rows], indent=1, ensure_ascii=False) + "\n"

    def lines(self) -> list[str]:
        """The tables, as the terminal shows them too."""
        missed = sum(not v.held for v in self.verdicts)
        summary = f"{len(self.verdicts) - missed} of {len(self.verdicts)} promises held."
        facts = [f"- {what}: {text}" for what, text in self.machine.items()]
        facts.append("- versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()))
        return [
            "## Side by side", "", *table(self.rows), "",
            "## Promises", "", summary, "", *promised(self.verdicts), "",
            "## Other figures", "", *others(self.rows), "",
            "## Machine, versions, load, date", "", *facts,
        ]  # fmt: skip

    def page(self, image: str) -> str:
        head = HEAD.format(rounds=self.rounds, image=image, size=self.sizes[0] if self.sizes else "")
        return head + "\n".join(self.lines()) + "\n" + NOTES


def write(report: Report, results: Path, page: Path | None) -> None:
    """`results`: the JSON. `page`: docs/benchmarks.md, its picture goes beside it; None: neither."""
    results.write_text(report.json())
    if page is not None:
        for size in report.sizes[:1]:
            page.with_suffix(".svg").write_text(picture(report.rows, size))
        page.write_text(report.page(page.with_suffix(".svg").name))


HEAD = """# Benchmarks

`make bench` measures this, writes this page and `benchmarks/results.json`, and exits with 1 if a promise did not hold.
Medians of {rounds} rounds (4 GiB: at most 3); in brackets, the ratio to the machine's limit, measured in the same process, in
turn with the case.

![{size}: times the machine's limit]({image})

"""

NOTES = """
## How it is measured

- *State*: four large arrays of float64 and 200 small ones, 1 or 4 GiB together, nothing in it compressible. Each case is a
  process of its own.
- *The machine's limits*. memcpy: of the state into warm memory by one thread, private with huge pages or a memfd mapped shared.
  Raw write: a new file, preallocated, fsync of file and directory included. Raw read: from a cold cache into fresh memory. All
  ways are tried at the beginning: direct and buffered, 1 to 4 threads, requests of 4 to 32 MiB; the fastest stay in the race
  beside each case, and the best median counts.
- *stall*: how long the program waits for the call. *captured → durable*: from the call's return until the version is fsynced,
  committed and fenced, the program idle. *call → durable*: both. One checkpoint is made before, for arena and caches; all of
  the state is rewritten before each, except of `reference`, whose arrays are read-only; the disk is quiet then.
- *Second checkpoint* (pages, blocks): *call → durable* is a ratio to a full checkpoint of the same run ("100 % dirty"),
  *written* a ratio to the bytes that were changed. With `pages` the tracker finds them, with `blocks` digests do.
- *Restore*: from `holdfast.open` until `run.ready` has returned, when the program may go on; every byte verified. *Arrays
  filled*: until the last `protect` has returned. Cold: nothing of it in the cache, arrays never touched. Warm: all of it in the
  cache, arrays touched before.
- *Extra memory*: peak of the process and its helpers beyond what it held before, pages shared by them counted once, sampled by
  another process in a round that is not timed. *CPU*: user and system seconds of all processes, from the call until durable.
- *While flushing*: seconds of one unit of the loop between the call's return and durable, over those of the same loop,
  alone, just before and after.
- *A rank on every core*: memcpy and stall are those of the slowest rank, all ranks at once, the state shared out over them.
- *Redundancy*: the state is shared out over so many ranks on this machine, state and parity in memory; the exchange by MPI is
  included; memcpy is of the state, by all ranks at once. The last m ranks are lost, rebuilt and compared. *Extra memory*: of
  the rank that took most, its peak in a first round that is not timed.
- *Growth*: in one process, by the code that runs use: nodes of 64 ranks, sets of 8, one node in fifty lost.
- *Peers* have the same state, in an environment of their own, and are used as they are by default. None makes files durable:
  *durable* includes our fsync of every file and directory that they wrote. All write everything each time: there is no second
  checkpoint to measure. With 4 GiB they have one round each, and memory is sampled within it.
"""
