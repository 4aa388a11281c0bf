"""All states of the protocol's models are good, and each mutation of it breaks the property that stands for it.

A property that holds in a model whose mutations it does not catch says nothing: that is what the mutations are for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from .cases import MUTATIONS, PROTOCOL, Case
from .check import row
from .explorer import Explored

pytestmark = pytest.mark.timeout(300)  # on a busy machine; each takes a few seconds of a core at most


@cache
def _explore(case: Case) -> Explored:
    return case.explore()


def _name(case: Case) -> str:
    return case.what


@pytest.mark.parametrize("case", PROTOCOL, ids=_name)
def test_all_properties_hold(case: Case, keep: Any) -> None:
    found = _explore(case)
    keep("protocol", row(case, found))
    assert found.broken is None, found.broken.text()
    assert found.states > 1000, "the model is too small to say anything"
    assert found.ends, "nothing ever comes to an end"


@pytest.mark.parametrize("case", MUTATIONS, ids=_name)
def test_mutation_is_caught(case: Case, keep: Any) -> None:
    found = _explore(case)
    keep("mutations", row(case, found))
    assert found.broken is not None, f"not caught in {found.states} states"
    assert found.broken.property == case.broken, found.broken.text()


@pytest.mark.parametrize("case", MUTATIONS, ids=_name)
def test_trace_can_be_walked(case: Case) -> None:
    """The steps that are told lead, in the model, from its beginning to where the property is broken."""
    model, broken = case.model(), _explore(case).broken
    assert broken is not None
    states = set(model.initial())
    for text in broken.trace:
        states = {after for state in states for step, after in model.steps(state) if step == text}
        assert states, text
    assert broken.state in states
    if broken.property in model.properties:
        assert not model.properties[broken.property](broken.state)
