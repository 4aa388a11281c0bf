"""`python -m tests.model [--json] [--traces]`: explore all models, print states, seconds and mutations caught."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .cases import MUTATIONS, PROTOCOL, Case
from .explorer import Explored

Rows = dict[str, list[dict[str, Any]]]  # by kind of case


def run(cases: list[Case]) -> list[dict[str, Any]]:
    """A row for each case: what was explored and whether it came out as expected."""
    return [row(case, case.explore()) for case in cases]


def row(case: Case, found: Explored) -> dict[str, Any]:
    """What is kept of an exploration."""
    broken = found.broken
    return {
        "what": case.what, "states": found.states, "steps": found.steps, "depth": found.depth, "seconds": found.seconds,
        "broken": broken.property if broken else None, "trace": list(broken.trace) if broken else [],
        "right": case.right(found),
    }  # fmt: skip


def summary(rows: Rows) -> str:
    """One line: states explored, mutations caught."""
    every = [one for some in rows.values() for one in some]
    caught, holds = (sum(one["right"] for one in rows[kind]) for kind in ("mutations", "protocol"))
    states, seconds = sum(one["states"] for one in every), sum(one["seconds"] for one in every)
    text = f"{states} states explored in {seconds:.1f} s of a core; all properties hold in {holds} of "
    return text + f"{len(rows['protocol'])} models of the protocol; {caught} of {len(rows['mutations'])} mutations caught"


def table(rows: Rows, traces: bool) -> str:
    """For people."""
    lines = []
    for kind, some in rows.items():
        lines += ["", f"{kind}:", f"{'states':>9} {'steps':>9} {'depth':>6} {'s':>6}  what"]
        for one in some:
            told = f" -> {one['broken']} ({len(one['trace'])} steps)" if one["broken"] else ""
            told += "" if one["right"] else "   NOT AS EXPECTED"
            lines.append(f"{one['states']:9} {one['steps']:9} {one['depth']:6} {one['seconds']:6.2f}  {one['what']}{told}")
            if one["trace"] and (traces or not one["right"]):
                lines += [f"{'':36}{number:3}. {step}" for number, step in enumerate(one["trace"], 1)]
    return "\n".join(lines[1:])


def main(arguments: list[str] | None = None) -> int:
    """0 if all came out as expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--traces", action="store_true", help="print the steps to each broken property")
    chosen = parser.parse_args(arguments)
    rows = {"protocol": run(PROTOCOL), "mutations": run(MUTATIONS)}
    if chosen.json:
        print(json.dumps({"summary": summary(rows), **rows}, indent=1))
    else:
        print(table(rows, chosen.traces))
        print("\n" + summary(rows))
    return 0 if all(one["right"] for some in rows.values() for one in some) else 1

