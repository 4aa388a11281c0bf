"""The explorer finds what it is to find, by the shortest way, and takes nothing for a pass that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from .explorer import ENDS, STUCK, Broken, TooLargeError, explore


class Graph:
    """A model from its edges; it ends in `last`."""

    name = "graph"

    def __init__(self, edges: Mapping[int, list[int]], last: int, good: Callable[[int], bool] = lambda n: True) -> None:
        self.edges, self.last = edges, last
        self.properties = {"good": good}

    def initial(self) -> Iterator[int]:
        yield 0

    def steps(self, state: int) -> Iterator[tuple[str, int]]:
        return ((f"to {n}", n) for n in self.edges.get(state, []))

    def ends(self, state: int) -> bool:
        return state == self.last


def test_every_state_is_counted_once() -> None:
    found = explore(Graph({0: [1, 2], 1: [3], 2: [3]}, 3))
    assert (found.states, found.steps, found.ends, found.depth, found.broken) == (4, 4, 1, 2, None)


def test_shortest_way_to_what_is_bad() -> None:
    found = explore(Graph({0: [1, 4], 1: [2], 2: [3], 4: [3]}, 3, lambda n: n != 3))
    assert found.broken == Broken("good", ("to 4", "to 3"), 3)


def test_state_without_a_step_that_is_no_end() -> None:
    found = explore(Graph({0: [1, 2]}, 2))
    assert found.broken == Broken(STUCK, ("to 1",), 1)


def test_going_round_for_ever() -> None:
    found = explore(Graph({0: [1, 3], 1: [2], 2: [1]}, 3))
    assert found.broken == Broken(ENDS, ("to 1",), 1)


def test_too_many_states_are_no_pass() -> None:
    with pytest.raises(TooLargeError):
        explore(Graph({n: [n + 1] for n in range(100)}, 100), limit=50)
