"""`make bench`: measures what the documentation promises, prints a table, writes benchmarks/results.json.

Every figure about the disk or memory is a ratio to the machine's limit in the same run; medians over rounds. Exit status
1 if a promise was not held.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import bulk
import numpy as np
import small
from result import Result

import holdfast


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path(".bench"), help="directory on the disk to measure (3.5 GiB free)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    args = parser.parse_args()
    args.place.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=args.place))
    began = time.time()
    results: list[Result] = []
    try:
        for name, work in (
            ("import", small.importing),
            ("steps", lambda: small.steps(place)),
            ("opening", lambda: small.opening(place)),
            ("bulk", lambda: bulk.measure(place, args.rounds)),
        ):
            print(f"… {name}", file=sys.stderr, flush=True)
            results += work()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    machine = {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "holdfast": holdfast.__version__,
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.time() - began),
    }
    args.out.write_text(json.dumps([asdict(r) for r in results], indent=1, ensure_ascii=False) + "\n")
    table(results)
    print("\n" + ", ".join(f"{k} {v}" for k, v in machine.items()))
    return int(any(r.held is False for r in results))


def table(results: list[Result]) -> None:
    """For people, and fit for docs/benchmarks.md."""
    print("| case | metric | value | ratio to the limit | promised | held |\n|---|---|---|---|---|---|")
    for r in results:
        ratio = f"{r.ratio:.2f}" if r.ratio is not None else ""
        promised = "" if r.limit is None else f"≤ {r.limit:g}{'' if r.ratio is not None else ' ' + r.unit}"
        held = {True: "yes", False: "NO", None: ""}[r.held]
        print(f"| {r.case} | {r.metric} | {r.value:.3g} {r.unit} | {ratio} | {promised} | {held} |")


if __name__ == "__main__":
    raise SystemExit(main())
