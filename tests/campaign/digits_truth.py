"""The undisturbed digits computation without Holdfast: what part G's jobs with one process are compared with."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xxhash

from .heat_truth import HeatTruth

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))
digits: Any = importlib.import_module("digits")


class Watched:
    """A run as the example sees it, whose objects are known: `digest` is that of the state."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self._objects: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def __enter__(self) -> Watched:
        self.run.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self.run.__exit__(*error)

    def protect(self, name: str, value: Any) -> Any:
        self._objects[name] = self.run.protect(name, value)
        return self._objects[name]

    def rng(self, seed: int) -> np.random.Generator:
        self._objects["rng"] = self.run.rng(seed)
        return self._objects["rng"]  # type: ignore[no-any-return]

    def digest(self) -> str:
        h = xxhash.xxh3_128()
        for name, value in sorted(self._objects.items()):
            arrays = value if isinstance(value, dict) else {name: value}
            for key, one in sorted(arrays.items()):
                h.update(f"{name} {key} ".encode())
                h.update(repr(one.bit_generator.state).encode() if name == "rng" else np.ascontiguousarray(one))
        return str(h.hexdigest())


class DigitsTruth(HeatTruth):
    """The digest after each number of steps, the weights and the output file."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ranks = steps, 1
        self.digests: dict[tuple[int, int], str] = {}
        given, module = sys.argv, digits.holdfast
        with tempfile.TemporaryDirectory() as folder:
            out, log = Path(folder) / "out.npz", Path(folder) / "log.csv"
            digits.holdfast = SimpleNamespace(open=lambda *_, **__: _Undisturbed(self.digests), steps=lambda n: n)
            sys.argv = ["digits", f"--steps={steps}", f"--out={out}", f"--log={log}"]
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    digits.main()
            finally:
                sys.argv, digits.holdfast = given, module
            self.output = log.read_text()
            with np.load(out) as found:
                self.weights = dict(found)

    def compare(self, out: Path, log: Path) -> list[str]:
        problems = []
        if not out.exists() or not self._same(out):
            problems.append("the final weights differ")
        if not log.exists() or log.read_text() != self.output:
            problems.append("the output file differs")
        return problems

    def _same(self, out: Path) -> bool:
        with np.load(out) as found:
            return sorted(found) == sorted(self.weights) and all(np.array_equal(found[k], v) for k, v in self.weights.items())


class _Undisturbed(Watched):
    """What the example needs of a run, without one. Its generator is as `run.rng` has it."""

    def __init__(self, digests: dict[tuple[int, int], str]) -> None:
        def rng(seed: int) -> np.random.Generator:
            return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))

        super().__init__(SimpleNamespace(protect=lambda name, value: value, rng=rng, file=open))
        self._digests = digests
        self._files: list[Any] = []

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._files:
            file.close()

    def file(self, path: str, mode: str) -> Any:
        self._files.append(Path(path).open(mode))  # noqa: SIM115
        return self._files[-1]

    def steps(self, n: int, **options: Any) -> Iterator[int]:
        self._digests[0, 0] = self.digest()
        for step in range(n):
            yield step
            self._digests[step + 1, 0] = self.digest()
        for file in self._files:
            file.flush()
