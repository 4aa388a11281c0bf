"""One figure of the bench."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True)
class Row:
    """`value` in `unit`, of `program` with a state of `size` (a text such as "1 GiB", or "").

    `limit`: the machine's limit in the same unit, measured beside it; `of`: what that limit is. `value` is None where
    nothing was measured; `metric` says why then.
    """

    program: str
    size: str
    metric: str
    unit: str
    value: float | None
    limit: float | None = None
    of: str = ""

    @property
    def case(self) -> str:
        return f"{self.program}, {self.size}" if self.size else self.program

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.value is not None and self.limit else None

    def public(self) -> dict[str, Any]:
        """As it stands in results.json."""
        return {
            "case": self.case,
            "metric": self.metric,
            "unit": self.unit,
            "value": self.value,
            "limit": self.limit,
            "ratio": self.ratio,
        }

    def wire(self) -> dict[str, Any]:
        return asdict(self)


def not_measured(program: str, size: str, why: str) -> Row:
    return Row(program, size, f"not measured: {why}", "", None)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def size_text(nbytes: int) -> str:
    return f"{nbytes // GiB} GiB" if nbytes % GiB == 0 else f"{nbytes // MiB} MiB"
