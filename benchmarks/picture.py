"""One picture: how far each program is from the machine's limit. SVG by hand, in greys that read on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from row import Row
from table import ratio_text

PANELS = (
    ("stall", "stall ÷ memcpy"),
    ("durable", "durable ÷ best raw write"),
    ("cold restore", "cold restore ÷ best raw read"),
)
TEXT, LINE, OURS, THEIRS = "#7a7f87", "#8a8f9766", "#1f9e75", "#9a7fb8"
LABELS, PANEL, GAP, ROW, TOP = 262, 220, 50, 22, 64


def picture(rows: Sequence[Row], size: str, ours: str = "holdfast") -> str:
    """Three panels over the programs that have at least one of their figures at `size`. Logarithmic; 1 is the
    machine's limit."""
    found = {(r.program, r.metric): r.ratio for r in rows if r.size == size and r.ratio}
    programs = list(dict.fromkeys(p for p, metric in found if metric in dict(PANELS) and not p.endswith("dirty")))
    height = TOP + ROW * len(programs) + 40
    width = LABELS + len(PANELS) * (PANEL + GAP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>Checkpoints of {escape(size)}: distance from the machine's limit</title>",
        _text(
            8,
            20,
            f"{size}: times the machine's limit, measured in the same run (logarithmic, smaller is better)",
            size=14,
        ),
    ]
    for i, program in enumerate(programs):
        weight = "600" if program.startswith(ours) else "400"
        out.append(_text(8, _y(i) + 4, program, weight=weight))
    for k, (metric, title) in enumerate(PANELS):
        out += _panel(LABELS + k * (PANEL + GAP), title, [found.get((p, metric)) for p in programs], programs, ours)
    return "\n".join([*out, "</svg>", ""])


def _panel(left: float, title: str, ratios: list[float | None], programs: list[str], ours: str) -> list[str]:
    known = [r for r in ratios if r] or [1.0]
    low, high = math.floor(math.log10(min(*known, 0.5))), math.ceil(math.log10(max(*known, 2.0)))

    def x(ratio: float) -> float:
        return left + (math.log10(ratio) - low) / (high - low) * PANEL

    bottom = TOP + ROW * len(programs)
    out = [_text(left, 46, title, weight="600")]
    for power in range(low, high + 1):
        strong = "1.6" if power == 0 else "0.8"
        at = x(10.0**power)
        out.append(
            f'<path d="M{at:.1f} {TOP - 8}V{bottom}" stroke="{TEXT if power == 0 else LINE}" stroke-width="{strong}"/>'
        )
        out.append(_text(at, bottom + 16, f"{10.0**power:g}x", anchor="middle"))
    for i, (program, ratio) in enumerate(zip(programs, ratios, strict=True)):
        if not ratio:
            continue
        colour, at, y = OURS if program.startswith(ours) else THEIRS, x(ratio), _y(i)
        out.append(f'<path d="M{x(1.0):.1f} {y}H{at:.1f}" stroke="{colour}" stroke-width="5" stroke-opacity="0.45"/>')
        out.append(f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="{colour}"/>')
        # Beside the point, away from the line to the limit.
        side, anchor = (9, "start") if ratio >= 1 else (-9, "end")
        if ratio < 1 and at - left < 34:
            side, anchor = x(1.0) - at + 6, "start"
        out.append(_text(at + side, y + 4, f"{ratio_text(ratio)}x", anchor=anchor))
    return out


def _y(i: int) -> float:
    return TOP + ROW * i + ROW / 2


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{TEXT}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
