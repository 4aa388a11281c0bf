"""The figures as one table for people, in Markdown, and the promises beside what was measured."""

from __future__ import annotations

from promises import Verdict
from row import GiB, MiB, Row

# Metrics that are columns, and what stands above them. All else is a line of its own.
COLUMNS = {
    "stall": "stall (x memcpy)",
    "captured → durable": "captured → durable (x raw write)",
    "durable": "call → durable (x raw write)",
    "cold restore": "cold restore (x raw read)",
    "warm restore": "warm restore (x memcpy)",
    "extra memory": "extra memory (x state)",
    "extra memory, restore": "restore's (x state)",
    "bytes": "written (x state)",
    "CPU": "CPU (x raw write's)",
}


def value_text(value: float | None, unit: str) -> str:
    """Three digits and a unit that fits: 1.23 s, 45.6 ms, 12.3 MiB."""
    if value is None:
        return "-"
    if unit == "s":
        scales = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    elif unit == "B":
        scales = ((float(GiB), "GiB"), (float(MiB), "MiB"), (1024.0, "KiB"), (1.0, "B"))
    else:
        return f"{value:.3g} {unit}".strip()
    scale, name = next((s for s in scales if abs(value) >= s[0]), scales[-1])
    return f"{_digits(value / scale)} {name}"


def ratio_text(ratio: float) -> str:
    return f"{ratio:.4f}" if abs(ratio) < 0.01 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(row: Row | None) -> str:
    if row is None:
        return ""
    return value_text(row.value, row.unit) + ("" if row.ratio is None else f" ({ratio_text(row.ratio)}x)")


def table(rows: list[Row]) -> list[str]:
    """One line for each program and size; those that were not measured say why."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.metric in COLUMNS or row.value is None:
            cases.setdefault(row.case, {})[row.metric if row.value is not None else ""] = row
    lines = ["| case | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for case, found in cases.items():
        if set(found) == {""}:
            lines.append(f"| {case} | {found[''].metric} |" + " |" * (len(COLUMNS) - 1))
        else:
            lines.append(f"| {case} | " + " | ".join(cell(found.get(metric)) for metric in COLUMNS) + " |")
    return lines


def others(rows: list[Row]) -> list[str]:
    """What fits in no column."""
    lines = ["| case | metric | measured | of |", "|---|---|---|---|"]
    for row in rows:
        if row.metric not in COLUMNS and row.value is not None:
            lines.append(f"| {row.case} | {row.metric} | {cell(row)} | {row.of} |")
    return lines


def promised(verdicts: list[Verdict]) -> list[str]:
    """Each promise, its figure, its bound in the same unit, and whether it held."""
    lines = ["| promised, at most | state | measured | bound | held |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        row = verdict.row
        if row is None:
            lines.append(f"| {verdict.promise.text} | {verdict.size} | not measured | | NO |")
        else:
            bound = value_text(verdict.promise.at_most(row), row.unit)
            held = "yes" if verdict.held else "NO"
            lines.append(f"| {verdict.promise.text} | {verdict.size} | {cell(row)} | {bound} | {held} |")
    return lines
