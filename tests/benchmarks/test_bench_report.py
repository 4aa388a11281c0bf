"""Tables, promises and the picture say what was measured, also that something was not."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from picture import picture
from promises import ONCE, PROMISES, Promise, judge
from report import Report, write
from row import GiB, MiB, Row, not_measured, size_text
from table import promised, ratio_text, table, value_text

ROWS = [
    Row("holdfast copy", "1 GiB", "stall", "s", 0.06, 0.12, "memcpy"),
    Row("holdfast copy", "1 GiB", "extra memory", "B", GiB + 10 * MiB, float(GiB), "the state"),
    Row("np.save", "1 GiB", "durable", "s", 0.9, 0.45),
    not_measured("zarr", "1 GiB", "pip install failed"),
]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234, "s", "1.23 s"),
        (0.0456, "s", "45.6 ms"),
        (3e-7, "s", "0.3 µs"),
        (0.0, "s", "0 µs"),
        (1.5 * GiB, "B", "1.5 GiB"),
        (100.0, "B", "100 B"),
        (12345678.0, "B", "11.8 MiB"),
        (None, "s", "-"),
    ],
)
def test_value_text(value: float | None, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_ratio_text_keeps_small_ratios_apart_from_nothing() -> None:
    assert [ratio_text(r) for r in (0.0012, 0.5, 12.3)] == ["0.0012", "0.50", "12"]


def test_size_text() -> None:
    assert [size_text(n) for n in (256 * MiB, 4 * GiB)] == ["256 MiB", "4 GiB"]


def test_a_case_is_one_line_and_a_missing_one_says_why() -> None:
    lines = table(ROWS)
    assert len(lines) == 2 + 3
    assert "60 ms (0.50x)" in lines[2] and "1.01 GiB (1.01x)" in lines[2]
    assert "not measured: pip install failed" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("factor", "plus", "held"),
    [(0.5, 0.0, True), (0.49, 0.0, False), (0.0, 0.06, True), (0.0, 0.05, False), (0.4, 0.02, True)],
)
def test_a_promise_bounds_by_factor_and_allowance(factor: float, plus: float, held: bool) -> None:
    (verdict,) = judge(ROWS, ["1 GiB"], [Promise("", "holdfast copy", "stall", factor, plus)])
    assert verdict.held is held


def test_what_was_not_measured_is_no_promise_kept() -> None:
    for_all, once = Promise("a", "holdfast cow", "stall", 1.0), Promise("b", "nothing", "stall", 1.0, sizes=ONCE)
    verdicts = judge(ROWS, ["1 GiB", "4 GiB"], [for_all, once])
    assert [(v.size, v.held) for v in verdicts] == [("1 GiB", False), ("4 GiB", False), ("", False)]
    assert all(line.endswith("| not measured | | NO |") for line in promised(verdicts)[2:])


def test_a_promise_in_ratios_needs_a_limit() -> None:
    (verdict,) = judge([Row("p", "", "m", "s", 0.0)], [], [Promise("", "p", "m", 1.0, sizes=ONCE)])
    assert not verdict.held


def test_no_two_promises_are_about_the_same_figure() -> None:
    assert len({(p.program, p.metric) for p in PROMISES}) == len(PROMISES)


def test_the_picture_is_xml_with_a_point_for_each_figure() -> None:
    root = ElementTree.fromstring(picture([*ROWS, Row("a < b & c", "1 GiB", "stall", "s", 5.0, 0.1)], "1 GiB"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}circle")) == 3
    texts = {t.text for t in root.findall(f"{space}text")}
    assert {"a < b & c", "0.50x", "2.00x", "50x"} <= texts
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for circle in root.findall(f"{space}circle"):
        assert 0 < float(circle.get("cx", -1)) < width and 0 < float(circle.get("cy", -1)) < height


def test_a_report_is_a_page_a_picture_and_json(tmp_path) -> None:
    report = Report(ROWS, judge(ROWS, ["1 GiB"]), ["1 GiB"], {"machine": "a box"}, {"NumPy": "2"}, 5)
    write(report, tmp_path / "results.json", tmp_path / "benchmarks.md")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert all(set(row) == {"case", "metric", "unit", "value", "limit", "ratio"} for row in rows)
    assert rows[0] == {
        "case": "holdfast copy, 1 GiB",
        "metric": "stall",
        "unit": "s",
        "value": 0.06,
        "limit": 0.12,
        "ratio": 0.5,
    }
    assert rows[3]["value"] is None and "pip install failed" in rows[3]["metric"]
    page = (tmp_path / "benchmarks.md").read_text()
    assert "(benchmarks.svg)" in page and "machine: a box" in page and "NumPy 2" in page
    assert (tmp_path / "benchmarks.svg").exists()
