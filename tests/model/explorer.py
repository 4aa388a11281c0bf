"""Exploring all states of a small model, breadth first, with the shortest way to whatever breaks a property.

A model is a set of initial states, a function from a state to the steps that are possible in it, and properties. States are
hashable values; a model with interchangeable parts returns one representative of those that differ by names alone
(sorting is enough), and so does its own symmetry reduction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

State = Any  # hashable; each model has its own
Step = tuple[str, State]  # what happens, in words, and the state then

STUCK = "no deadlock"  # a state without a step that is no end
ENDS = "an end is in reach"  # a state from which no end can be reached any more


class Model(Protocol):
    """`properties`: by name, whether it holds in a state. `ends(state)`: whether everything may stay as it is."""

    name: str
    properties: dict[str, Callable[[State], bool]]

    def initial(self) -> Iterable[State]: ...

    def steps(self, state: State) -> Iterator[Step]: ...

    def ends(self, state: State) -> bool: ...


class Broken(NamedTuple):
    """A property that does not hold, and the steps that lead to where it does not."""

    property: str
    trace: tuple[str, ...]
    state: State

    def text(self) -> str:
        """For people."""
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([f"broken: {self.property}, after {len(lines)} steps:", *lines, f"     in {self.state!r}"])


class Explored(NamedTuple):
    """`states`, `steps`: how many there are; `ends`: how many of the states are ends; `depth`: steps to the farthest; `seconds`
    of this process's core."""

    states: int
    steps: int
    ends: int
    depth: int
    seconds: float
    broken: Broken | None


class TooLargeError(Exception):
    """The model has more states than its bound: that is an error of the model, never a pass."""


def explore(model: Model, limit: int = 2_000_000) -> Explored:
    """Visit every state that can be reached; stop at the first (nearest) that breaks a property. TooLargeError."""
    began = time.process_time()
    numbers: dict[Hashable, int] = {}
    states: list[State] = []
    came: list[tuple[int, str]] = []  # from which state, by which step
    depths: list[int] = []
    before: list[list[int]] = []  # all states that lead to it
    finals: list[int] = []
    checks = list(model.properties.items())

    def result(broken: Broken | None, edges: int) -> Explored:
        return Explored(len(states), edges, len(finals), max(depths, default=0), time.process_time() - began, broken)

    def add(state: State, origin: int, step: str) -> int:
        number = numbers.setdefault(state, len(states))
        if number == len(states):
            if number >= limit:
                raise TooLargeError(f"{model.name}: more than {limit} states")
            states.append(state)
            came.append((origin, step))
            depths.append(depths[origin] + 1 if origin >= 0 else 0)
            before.append([])
        return number

    for state in model.initial():
        add(state, -1, "")
    edges = number = 0
    while number < len(states):
        state = states[number]
        for name, holds in checks:
            if not holds(state):
                return result(_broken(name, number, came, state), edges)
        end, moved = model.ends(state), False
        if end:
            finals.append(number)
        for step, following in model.steps(state):
            before[add(following, number, step)].append(number)
            edges += 1
            moved = True
        if not moved and not end:
            return result(_broken(STUCK, number, came, state), edges)
        number += 1
    lost = _cut_off(len(states), finals, before)
    return result(None if lost is None else _broken(ENDS, lost, came, states[lost]), edges)


def _cut_off(count: int, finals: list[int], before: list[list[int]]) -> int | None:
    """The nearest state from which no end can be reached: whatever is done, and however fair, it goes round for ever."""
    reach = bytearray(count)
    pending = list(finals)
    for number in finals:
        reach[number] = 1
    while pending:
        for other in before[pending.pop()]:
            if not reach[other]:
                reach[other] = 1
                pending.append(other)
    lost = reach.find(0)
    return None if lost < 0 else lost


def _broken(name: str, number: int, came: list[tuple[int, str]], state: State) -> Broken:
    trace: list[str] = []
    while (origin := came[number])[0] >= 0:
        number = origin[0]
        trace.append(origin[1])
    return Broken(name, tuple(reversed(trace)), state)


def replace(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """`values` with another one at `index`."""
    return (*values[:index], value, *values[index + 1 :])
