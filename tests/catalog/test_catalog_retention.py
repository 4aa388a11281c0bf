"""What retention keeps and what it deletes: never what a kept version refers to, never a hole, never too much."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from catalog_support import Hand
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.catalog import check_refs, read_catalog, read_commit, why_kept
from holdfast.catalog.retention import Kept, find_surplus, plan, since_full
from holdfast.errors import DamageError
from holdfast.format import Link, version_name
from holdfast.policy import Keep
from holdfast.run import maintenance

_MEMORY = Path("/dev/shm")


def name(number: int) -> str:
    return version_name(number, 1)


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    hand = Hand(tmp_path / "run")
    hand.attempt(1)
    hand.seal(1)
    return hand


def chain(hand: Hand, refs: dict[int, list[int]]) -> list[str]:
    """Versions 1 to n with these refs; their names, newest first."""
    for number, some in refs.items():
        links = tuple(hand.links[name(k)] for k in some)
        hand.commit(name(number), name(number - 1) if number > 1 else None, refs=links, nbytes=number)
    return [name(n) for n in sorted(refs, reverse=True)]


def surplus(hand: Hand, refs: dict[int, list[int]], last: int) -> list[int]:
    found = find_surplus(hand.store, chain(hand, refs), Keep(last=last))
    assert all(nbytes == int(n[:8]) for n, nbytes in found.items())
    return [int(n[:8]) for n in found]


# -- rules, one by one -------------------------------------------------------------------------


def test_without_refs_the_newest_stay(hand: Hand) -> None:
    assert surplus(hand, {n: [] for n in range(1, 7)}, 2) == [1, 2, 3, 4], "oldest first"


def test_what_a_kept_version_refers_to_stays_and_all_between(hand: Hand) -> None:
    assert surplus(hand, {1: [], 2: [], 3: [2], 4: [2], 5: [2]}, 1) == [1]


def test_what_is_kept_for_being_between_keeps_what_it_refers_to(hand: Hand) -> None:
    """5 needs 3; so 4 stays, and is whole: 1 stays too."""
    assert surplus(hand, {1: [], 2: [], 3: [], 4: [1], 5: [3]}, 1) == []


def test_with_two_to_keep_one_shares_no_block_with_the_newest(hand: Hand) -> None:
    refs = {1: [], 2: [1], 3: [2, 1], 4: [], 5: [4], 6: [5, 4]}
    assert surplus(hand, refs, 2) == []


def test_one_bad_block_may_take_all_if_only_one_is_kept(hand: Hand) -> None:
    assert surplus(hand, {1: [], 2: [1], 3: [2, 1], 4: [], 5: [4], 6: [5, 4]}, 1) == [1, 2, 3]


def test_the_spare_brings_what_it_needs(hand: Hand) -> None:
    refs = {1: [], 2: [], 3: [2], 4: [3, 2], 5: [], 6: [5]}
    assert surplus(hand, refs, 2) == [1]


def test_if_all_share_a_block_nothing_more_is_kept_for_a_spare(hand: Hand) -> None:
    assert surplus(hand, {1: [], 2: [], 3: [2], 4: [2]}, 3) == [], "1 shares no block with 4: it is the spare"


def test_what_is_damaged_beyond_is_left_and_the_rest_goes(hand: Hand) -> None:
    names = chain(hand, {n: [] for n in range(1, 6)})
    hand.spoil(f"versions/{name(2)}/commit")
    assert [*find_surplus(hand.store, names, Keep(last=2))] == [name(1), name(3)]


def test_if_a_kept_one_can_not_be_read_nothing_behind_it_goes(hand: Hand) -> None:
    names = chain(hand, {n: [] for n in range(1, 6)})
    hand.spoil(f"versions/{name(4)}/commit")
    assert find_surplus(hand.store, names, Keep(last=2)) == {}
    assert [*find_surplus(hand.store, names, Keep(last=1))] == [name(1), name(2), name(3)]


def test_what_is_gone_is_no_obstacle(hand: Hand) -> None:
    names = chain(hand, {n: [] for n in range(1, 6)})
    hand.store.delete(f"versions/{name(5)}/commit")
    hand.store.delete(f"versions/{name(2)}/commit")
    assert [*find_surplus(hand.store, names, Keep(last=2))] == [name(1), name(3)]


def test_commits_are_read_once_and_forgotten_with_the_version(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    names = chain(hand, {1: [], 2: [], 3: [2]})
    known: dict[str, object] = {}
    assert [*find_surplus(hand.store, names, Keep(last=1), known)] == [name(1)]
    monkeypatch.setattr(hand.store, "get", lambda *args: pytest.fail("read again"))
    assert [*find_surplus(hand.store, names, Keep(last=1), known)] == [name(1)]
    assert find_surplus(hand.store, names[:2], Keep(last=1), known) == {} and set(known) == set(names[:2])


def test_how_far_behind_a_version_stands_alone(hand: Hand) -> None:
    """Each refers to the one before only: the chain that retention must keep is longer than that."""
    names = chain(hand, {1: [], 2: [1], 3: [2], 4: [3], 5: [], 6: [5]})
    found = [since_full(hand.store, read_commit(hand.store, "checkpoint", n)[0], 9) for n in names]
    assert [behind for behind, _ in found] == [1, 0, 3, 2, 1, 0]
    sizes = [read_commit(hand.store, "checkpoint", n)[0].nbytes for n in names]
    assert [nbytes for _, nbytes in found] == [sum(sizes[i : i + behind + 1]) for i, (behind, _) in enumerate(found)]
    assert find_surplus(hand.store, names[2:], Keep(last=1)) == {}
    newest = read_commit(hand.store, "checkpoint", name(4))[0]
    assert since_full(hand.store, newest, 2)[0] == 2
    hand.spoil(f"versions/{name(2)}/commit")
    assert since_full(hand.store, newest, 9)[0] == 9, "who knows"


# -- all at once -------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[frozenset[int]]]:
    """(the longest chain, what each version refers to): as a writer makes them that writes a full version at the latest when
    a chain would span more versions than `most`."""
    most = draw(st.integers(1, 6))
    refs: list[frozenset[int]] = []
    full = 0
    for number in range(1, draw(st.integers(1, 30)) + 1):
        if not refs or number - full >= most or draw(st.integers(0, 4)) == 0:
            refs.append(frozenset())
            full = number
            continue
        # Blocks of the version before, wherever it has them, or in itself.
        before = sorted(refs[-1] | {number - 1})
        refs.append(frozenset(draw(st.lists(st.sampled_from(before), min_size=1, unique=True))))
    return most, refs


@given(histories(), st.integers(1, 4))
def test_retention_after_each_version(history: tuple[int, list[frozenset[int]]], last: int) -> None:
    most, refs = history
    exist: list[int] = []  # newest first
    for number in range(1, len(refs) + 1):
        exist.insert(0, number)
        names = [str(n) for n in exist]
        kept = plan([frozenset(map(str, refs[n - 1])) for n in exist], names, last)
        count = max([min(last, len(exist)), *(i + 1 for i in kept)])
        assert sorted(kept) == list(range(min(last, len(exist)), count)), "no hole, nothing twice"
        left = exist[:count]
        for n in left:
            assert refs[n - 1] <= set(left), "no kept version refers to a deleted one"
        assert set(exist[:last]) <= set(left)
        shared = {number} | refs[number - 1]
        if last >= 2 and any(shared.isdisjoint({n} | refs[n - 1]) for n in exist):
            assert any(shared.isdisjoint({n} | refs[n - 1]) for n in left), "invariant 5"
        assert len(left) <= last + 2 * most
        exist = left


@settings(max_examples=20, deadline=None)
@given(histories(), st.integers(1, 3))
def test_pruning_a_run_leaves_every_link_whole(history: tuple[int, list[frozenset[int]]], last: int) -> None:
    _, refs = history
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        hand = Hand(Path(path) / "run")
        hand.attempt(1)
        hand.seal(1)
        chain(hand, {i: sorted(some, reverse=True) for i, some in enumerate(refs, 1)})
        maintenance.prune(hand.path, keep=Keep(last=last), takeover=True)
        catalog = read_catalog(hand.store)
        assert [v.number for v in catalog.lineage] == list(range(len(refs), len(refs) - len(catalog.lineage), -1))
        for v in catalog.versions:
            commit, _, _ = read_commit(hand.store, "checkpoint", v.name)
            check_refs(hand.store, commit.refs)
            assert (v.refs, v.chain) == (tuple(sorted(refs[v.number - 1], reverse=True)), 1 + len(refs[v.number - 1]))
        assert len(catalog.lineage) >= min(last, len(refs))
        held = why_kept(catalog.lineage, Keep(last=last))
        assert set(held) == {v.number for v in catalog.lineage[last:]}, "each one beyond those to keep has its reason"


# -- pruning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True])
def test_what_a_counting_version_refers_to_is_never_pruned(hand: Hand, damaged: bool) -> None:
    chain(hand, {1: [], 2: [1], 3: [1], 4: []})
    hand.attempt(2, 5)
    hand.seal(2, name(3), [name(2), name(1)])  # 4 is abandoned
    hand.spoil(f"versions/{name(1)}/commit")
    removed = maintenance.prune(hand.path, keep=Keep(last=1), takeover=True, damaged=damaged)
    assert hand.store.exists(f"versions/{name(1)}/commit")
    # 2 stands between what is kept and what that needs; if 1 is to go for its damage, nothing is known to need 2.
    assert {int(r.name[:8]) for r in removed} <= {2, 4}
    assert (name(2) in {r.name for r in removed}) is damaged


def test_reasons(hand: Hand) -> None:
    chain(hand, {1: [], 2: [1], 3: [], 4: [3], 5: [4, 3]})
    assert why_kept(read_catalog(hand.store).lineage, Keep(last=2)) == {
        3: "held by 5",
        2: "spare of 5",
        1: "held by 2",
    }
    assert plan([frozenset()], ["a"], 1) == {} == plan([], [], 2)
    assert plan([None, frozenset()], ["a", "b"], 1) == {1: Kept(0, False)}


# -- commits -----------------------------------------------------------------------------------


def test_state_and_refs_there_and_back(hand: Hand) -> None:
    chain(hand, {1: [], 2: [], 3: [2, 1]})
    hand.commit(name(4), name(3), refs=tuple(hand.links[name(k)] for k in (1, 3)), state=77)
    commit, _, _ = read_commit(hand.store, "checkpoint", name(4))
    assert commit.state == 77
    assert commit.refs == (hand.links[name(3)], hand.links[name(1)]), "newest first, however they were given"


@pytest.mark.parametrize(
    ("kind", "refs"),
    [
        ("checkpoint", [5]),
        ("checkpoint", [6]),
        ("checkpoint", [2, 2]),
        ("record", [2]),
    ],
)
def test_refs_to_itself_to_later_ones_twice_or_of_a_record_are_damage(hand: Hand, kind: str, refs: list[int]) -> None:
    links = tuple(Link(name(k), "0" * 32) for k in refs)
    hand.commit(name(5), kind=kind, refs=links)
    with pytest.raises(DamageError, match="refs"):
        read_commit(hand.store, kind, name(5))  # type: ignore[arg-type]


def test_check_refs_names_the_version_that_is_not_there(hand: Hand) -> None:
    names = chain(hand, {1: [], 2: [], 3: []})
    links = [hand.links[n] for n in names]
    check_refs(hand.store, links)
    with pytest.raises(DamageError, match="not the record that is meant") as caught:
        check_refs(hand.store, [Link(name(2), "f" * 32)])
    assert caught.value.version == 2
    hand.spoil(f"versions/{name(1)}/commit")
    with pytest.raises(DamageError, match="version 1 are needed"):
        check_refs(hand.store, links)
    hand.store.delete(f"versions/{name(3)}/commit")
    with pytest.raises(DamageError, match=f"versions/{name(3)}/commit is missing"):
        check_refs(hand.store, links)
