"""Goodput under simulated failures as rows of the bench; the simulation itself is `goodput_simulated.py`."""

from __future__ import annotations

from goodput_simulated import measure
from job import Context, main
from row import Row


def goodput(context: Context) -> list[Row]:
    """One row for each simulated machine; its `size` says which."""
    rows = []
    for found in measure():
        machine = found["case"].removeprefix("goodput, ")
        limit = "the best fixed interval"
        rows.append(Row("goodput", machine, "time for durable work", "s/s", found["value"], found["limit"], limit))
    return rows


if __name__ == "__main__":
    main({"goodput": goodput})
