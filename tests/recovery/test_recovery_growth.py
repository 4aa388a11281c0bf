"""Growth: what benchmarks/growth.py measures stays within its bounds, at sizes that a test has time for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import growth


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_hundred_thousand_ranks(side_by_side):
    row = growth.measure(10**5, side_by_side)
    assert row.version == (growth.NEW if side_by_side else growth.OLD)
    assert row.counts["rebuild"] > 0 and (row.counts["global"] > 0) is not side_by_side
    assert row.counts["own"] + row.counts["rebuild"] + row.counts["global"] == 10**5
    assert row.seconds < 10  # the bound is for ten times as many
    assert row.report < 4096 and row.message < 1 << 20


def test_the_root_of_a_million_ranks_stays_small():
    sizes = [growth.root_bytes(10**n) for n in (3, 4, 5, 6)]
    assert sizes == sorted(sizes) and sizes[-1] < growth.ROOT_LIMIT
    assert growth.root_bytes(10**6, part=8 << 20) < growth.ROOT_LIMIT  # a reader takes no larger group than 1 GiB
