"""A run that the first Holdfast wrote: format 1 stays readable for ever, byte by byte."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from program import PAGES, arrays, changed_pages, generators, tree

import holdfast
from holdfast.catalog import read_catalog
from holdfast.run import maintenance
from holdfast.store import open_store

V1 = Path(__file__).parent / "v1"


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A copy: a test that writes must not touch the original. Its owner is whoever checked it out."""
    shutil.copytree(V1, tmp_path / "v1")
    return tmp_path / "v1"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[holdfast.Run]:
    with holdfast.open(path, mode="r") as run:
        yield run


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.tobytes("A") == b.tobytes("A")


def same_tree(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert isinstance(b, dict) and list(a) == list(b)
        for key in a:
            same_tree(a[key], b[key])
    elif isinstance(a, np.ndarray):
        same(a, b)  # type: ignore[arg-type]
    else:
        assert a == b


def test_every_byte_is_whole() -> None:
    assert maintenance.verify(V1) == []


def test_versions_and_lineage() -> None:
    catalog = read_catalog(open_store(str(V1), create=False, read_only=True))
    assert [(v.number, v.attempt, v.kind, v.status, v.step, v.parent) for v in catalog.versions] == [
        (5, 3, "checkpoint", "current", 3, 4),
        (4, 2, "checkpoint", "current", 3, 2),
        (3, 1, "record", "current", 3, 2),
        (2, 1, "checkpoint", "current", 2, 1),
    ]
    assert [a.number for a in catalog.attempts] == [1, 2, 3]
    assert catalog.attempts[1].base is not None and catalog.attempts[1].base.params == {"n": 3, "case": "golden"}
    assert [v.refs for v in catalog.lineage] == [(4,), (), ()] and catalog.lineage[0].state == catalog.lineage[1].state
    assert catalog.problems == [] and not catalog.complete and len(catalog.run) == 32


@pytest.mark.parametrize(("version", "k"), [(2, 2), (4, 3)])
def test_values_are_what_they_were(version: int, k: int) -> None:
    with reading(V1) as run:
        for name, expected in arrays(k).items():
            same(run.load(name, version), expected)
        same_tree(run.load("tree", version), tree(k))
        rng, python = generators(k)
        assert run.load("rng", version).bit_generator.state == rng.bit_generator.state
        assert run.load("python_rng", version).getstate() == python.getstate()
        assert run.load("state", version) == {"k": k}
        same(run.load("spectrum", 3), np.linspace(0, 1, 5))


def test_a_version_in_layers() -> None:
    """Version 5: a few pages of one array in its own file, all else in that of version 4."""
    with reading(V1) as run:
        for name, expected in (arrays(3) | {"pages": changed_pages()}).items():
            same(run.load(name, 5), expected)
        same_tree(run.load("tree", 5), tree(3))
    part = {o["name"]: o for o in maintenance.show(V1, 5)["contents"][0]["objects"]}
    changed = sum(nbytes for _, nbytes in PAGES)
    assert sorted((p["version"], p["bytes"]) for p in part["pages"]["places"]) == [(4, 65_600 - changed), (5, changed)]
    assert [p["version"] for p in part["f8"]["places"]] == [4]


def test_a_program_goes_on_from_it(v1: Path) -> None:
    run = holdfast.open(v1, params={"n": 3, "case": "golden"}, signals=False, takeover=True)
    with contextlib.closing(run):
        held = {name: run.protect(name, np.zeros_like(a)) for name, a in arrays(0).items()}
        shard = run.protect("shard", np.zeros((2, 3)), shard=holdfast.Shard((4, 3), (2, 0)))
        config = run.protect("tree", {})
        rng, python = generators(0)
        run.protect("rng", rng)
        run.protect("python_rng", python)
        s = run.state(k=0)
        for step in run.steps(5, every=holdfast.steps(1)):
            if step == 3:
                for name, expected in (arrays(3) | {"pages": changed_pages()}).items():
                    same(held[name], expected)
                assert (shard == 3).all() and s.k == 3
                same_tree(config, tree(3))
                assert rng.random() == generators(3)[0].random() and python.random() == generators(3)[1].random()
        assert run.attempt == 4 and run.versions[0].number == 6
    assert maintenance.verify(v1) == []


def test_the_bytes_that_name_the_format() -> None:
    """What a reader in another language would look for first."""
    assert (V1 / "versions/00000004-a000002/index/g000000").read_bytes().startswith(b"HFGROUP1")
    assert b'"format":1' in (V1 / "holdfast.json").read_bytes()
    first, second, rest = (V1 / "versions/00000004-a000002/commit").read_bytes().split(b"\n")
    assert first == second and rest == b"" and first[32:33] == b" "
