"""Sets are chosen across failure domains, or refused in words."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigError
from holdfast.redundancy.sets import deal


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 10)),
    st.randoms(),
)  # fmt: skip
def test_any_ranks_on_any_nodes(counts, m, size, random):
    domains = [f"node{i}" for i, n in enumerate(counts) for _ in range(n)]
    random.shuffle(domains)
    try:
        sets = deal(domains, size, m)
    except ConfigError:
        # Refused only where no sets are possible: too few domains, or one so full that it would need more sets than can be
        # filled.
        most = min(size or 8, len(counts))
        needed = max(max(counts), -(-len(domains) // most))
        assert (size or 0) > len(counts) or len(domains) < needed * (m + 1)
        return
    assert sorted(rank for members in sets for rank in members) == list(range(len(domains)))
    for members in sets:
        assert len({domains[r] for r in members}) == len(members)
        assert m + 1 <= len(members) <= min(size or 8, len(counts))
    assert max(map(len, sets)) - min(map(len, sets)) <= 1
    assert deal(domains, size, m) == sets


def test_two_ranks_a_node():
    assert deal(["a", "a", "b", "b", "c", "c", "d", "d"], 4, 2) == [(0, 2, 4, 6), (1, 3, 5, 7)]


@pytest.mark.parametrize(
    ("domains", "size", "m", "words"),
    [
        (["a", "a", "b", "b"], 4, 1, "needs as many failure domains; there are 2"),
        (["vm"] * 4, None, 1, r"All ranks are in one failure domain \(vm\), and no redundancy is possible there.*Leave the"),
        (["vm"], 8, 2, r"one failure domain \(vm\).*run on more nodes, or .*HOLDFAST_FAILURE_DOMAIN or the level's domain="),
        (["a", "a", "a", "b", "c"], None, 1, "'a' has 3 of the 5 ranks, too many for the 3 domains"),
        (["a", "b"], None, 2, r"2 parities need .* at least 3 members .* there are 2 \(a, b\), .* 1 parity at most.*Use m=1"),
        (["a", "b", "b", "c"], 8, 3, r"at least 4 members .* there are 3 \(a, b, c\), .*Use set_size=3 and m=2 or less"),
        (["a", "a", "b", "c"], 3, 2, "2 parities need sets .*'a' has 2 of the 4 .*use more nodes, or fewer parities"),
        (["a", "a", "a", "b"], 2, 1, "1 parity needs sets .*use more nodes, or leave the redundancy level out"),
    ],
)
def test_what_can_not_be_is_told(domains, size, m, words):
    with pytest.raises(ConfigError, match=words):
        deal(domains, size, m)


def test_a_million_ranks():
    began = time.monotonic()
    sets = deal([f"node{r // 64}" for r in range(10**6)], 8, 2)
    assert len(sets) == 125_000 and time.monotonic() - began < 10
