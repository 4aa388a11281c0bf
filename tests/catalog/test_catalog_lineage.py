"""Which versions and records count: docs/format.md, section 8, rule by rule, on runs made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalog_support import Hand

from holdfast.catalog import Snapshot, read_catalog
from holdfast.errors import DamageError

A1, B1, C1 = "00000001-a000001", "00000002-a000001", "00000003-a000001"
D2, E2 = "00000004-a000002", "00000005-a000002"


@pytest.fixture
def hand(tmp_path: Path) -> Hand:
    return Hand(tmp_path / "run")


def names(hand: Hand) -> list[str]:
    return [entry.name for entry in Snapshot(hand.store).lineage]


def statuses(hand: Hand) -> dict[str, str]:
    return {v.name: v.status for v in read_catalog(hand.store).versions}


def one_attempt(hand: Hand) -> None:
    hand.attempt(1)
    hand.seal(1)
    hand.commit(A1)
    hand.commit(B1, A1)
    hand.commit(C1, B1)


def test_nothing_is_an_empty_lineage(hand: Hand) -> None:
    snapshot = Snapshot(hand.store)
    assert snapshot.lineage == [] and snapshot.records == [] and snapshot.sealed is None and snapshot.next_number() == 1
    assert not snapshot.lost_base


def test_the_newest_sealed_attempts_versions_count_newest_first(hand: Hand) -> None:
    one_attempt(hand)
    assert names(hand) == [C1, B1, A1]
    assert set(statuses(hand).values()) == {"current"}


def test_an_attempt_that_is_not_sealed_changes_nothing(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    assert names(hand) == [C1, B1, A1]
    assert Snapshot(hand.store).newest_attempt == 2


def test_what_a_resume_passed_over_is_abandoned(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, B1, [A1])
    assert names(hand) == [B1, A1]
    assert statuses(hand) == {A1: "current", B1: "current", C1: "abandoned"}
    hand.commit(D2, B1)
    assert names(hand) == [D2, B1, A1], "newest means lineage, not the larger number"


def test_an_abandoned_version_does_not_come_back_when_a_later_attempt_goes_on(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, B1, [A1])
    hand.commit(D2, B1)
    hand.attempt(3, 5)
    hand.seal(3, D2, [B1, A1])
    assert names(hand) == [D2, B1, A1]
    hand.attempt(4, 5)
    hand.seal(4, C1, [B1, A1])  # a rollback may choose an abandoned one
    assert names(hand) == [C1, B1, A1]
    assert statuses(hand)[D2] == "abandoned"


def test_a_version_committed_after_it_was_fenced_off_does_not_count(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, C1, [B1, A1])
    hand.commit("00000004-a000001", C1)  # by the stopped writer of attempt 1
    hand.commit(D2, C1)
    assert names(hand) == [D2, C1, B1, A1]
    found = [(v.number, v.status) for v in read_catalog(hand.store).versions][:2]
    assert found == [(4, "current"), (4, "abandoned")], "of two with one number the one that counts comes first"


def test_a_name_with_another_digest_is_not_what_was_sealed(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, C1, [B1, A1])
    hand.store.delete(f"versions/{C1}/commit")
    hand.commit(C1, B1, step=77)
    snapshot = Snapshot(hand.store)
    with pytest.raises(DamageError, match="not the record that was sealed"):
        snapshot.counting(snapshot.lineage[0])
    assert statuses(hand)[C1] == "abandoned"


@pytest.mark.parametrize("damage", ["spoilt", "missing"])
def test_a_base_that_cannot_be_read_is_found_by_parents(hand: Hand, damage: str) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, B1, [A1])
    hand.commit(D2, B1)
    hand.commit(E2, D2)
    if damage == "spoilt":
        hand.spoil("attempts/000002.base")
    else:
        hand.store.delete("attempts/000002.base")
    assert names(hand) == [E2, D2, B1, A1]
    assert statuses(hand)[C1] == "abandoned"
    assert not Snapshot(hand.store).lost_base


def test_parents_are_followed_by_digest(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, C1, [B1, A1])
    hand.commit(D2, C1)
    hand.spoil("attempts/000002.base")
    hand.store.delete(f"versions/{B1}/commit")
    hand.commit(B1, A1, step=77)  # not the one that C1 names
    assert names(hand) == [D2, C1, B1]
    snapshot = Snapshot(hand.store)
    with pytest.raises(DamageError):
        snapshot.counting(snapshot.lineage[2])


def test_a_base_that_nothing_tells_is_lost(hand: Hand) -> None:
    one_attempt(hand)
    hand.attempt(2, 4)
    hand.seal(2, B1, [A1])
    hand.spoil("attempts/000002.base")
    assert Snapshot(hand.store).lost_base
    hand.fragment(D2)
    assert names(hand) == [D2], "a fragment tells nothing, and is no version"
    assert Snapshot(hand.store).sealed.number == 2


def test_fragments_and_damaged_versions_are_told_apart(hand: Hand) -> None:
    one_attempt(hand)
    hand.fragment("00000004-a000001")
    hand.spoil(f"versions/{B1}/commit")
    assert statuses(hand) == {A1: "current", B1: "damaged", C1: "current", "00000004-a000001": "fragment"}
    assert any(B1 in p for p in read_catalog(hand.store).problems)


def test_a_commit_that_a_child_names_is_lost_not_unwritten(hand: Hand) -> None:
    one_attempt(hand)
    hand.store.delete(f"versions/{B1}/commit")
    hand.fragment(B1)
    assert statuses(hand) == {A1: "current", B1: "damaged", C1: "current"}
    hand.store.delete(f"versions/{A1}/commit")
    hand.fragment(A1)
    assert statuses(hand)[A1] == "fragment", "older than all whole ones: a deletion was interrupted"


def test_records_count_by_the_newest_sealed_attempt(hand: Hand) -> None:
    one_attempt(hand)
    r1 = hand.commit("00000004-a000001", C1, "record", label="x")
    r2 = hand.commit("00000005-a000001", B1, "record", label="x")
    assert [n.name for n in Snapshot(hand.store).records] == [r2, r1]
    hand.attempt(2, 6)
    hand.seal(2, B1, [A1], [r2])
    r3 = hand.commit("00000006-a000002", B1, "record", label="x")
    assert [n.name for n in Snapshot(hand.store).records] == [r3, r2]
    assert statuses(hand)[r1] == "abandoned"
    hand.commit("00000007-a000002", B1)
    hand.spoil("attempts/000002.base")
    assert [n.name for n in Snapshot(hand.store).records] == [r3, r2], "those whose parent is not abandoned"


@pytest.mark.parametrize("suffix", ["json", "base", "lease"])
def test_numbers_go_on_whatever_is_damaged(hand: Hand, suffix: str) -> None:
    one_attempt(hand)
    hand.attempt(2, 9)
    hand.seal(2, C1, [B1, A1])
    hand.spoil(f"attempts/000002.{suffix}")
    snapshot = Snapshot(hand.store)
    assert snapshot.newest_attempt == 2
    assert snapshot.next_number() == (4 if suffix == "json" else 9)
    hand.commit("00000012-a000002", C1, "record")
    assert Snapshot(hand.store).next_number() == 13


def test_complete_is_what_the_newest_version_of_the_lineage_says(hand: Hand) -> None:
    one_attempt(hand)
    hand.commit("00000004-a000001", C1, complete=True)
    assert read_catalog(hand.store).complete
    hand.attempt(2, 5)
    hand.seal(2, B1, [A1])
    assert not read_catalog(hand.store).complete
