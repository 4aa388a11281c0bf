"""One figure of the bench."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """`value` in `unit`; `limit` is what was promised: of `ratio` where there is one, else of `value`."""

    case: str
    metric: str
    unit: str
    value: float
    limit: float | None = None
    ratio: float | None = None

    @property
    def held(self) -> bool | None:
        if self.limit is None:
            return None
        return (self.value if self.ratio is None else self.ratio) <= self.limit
