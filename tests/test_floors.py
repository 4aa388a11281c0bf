"""The house: a module imports only from floors below it, or from its own folder (docs/design.md has the table)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "holdfast"

# Above all floors: what the package shows, and the kits for plugins' tests.
ABOVE = {"__init__", "testing"}


def table() -> dict[str, int]:
    """{folder or module: floor}, from the table in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text()
    floors: dict[str, int] = {}
    for number, names in re.findall(r"^(\d)  ((?:[a-z_]+(?:/|\.py) +)*[a-z_]+(?:/|\.py))", text, re.MULTILINE):
        for name in names.split():
            assert name not in floors
            floors[name.removesuffix("/").removesuffix(".py")] = int(number)
    return floors


FLOORS = table()
FILES = sorted(SOURCE.rglob("*.py"))


def module(path: Path) -> list[str]:
    """The module's name below `holdfast`, as parts; a package's is that of its folder's `__init__`."""
    return list(path.relative_to(SOURCE).with_suffix("").parts)


def imports(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """(line, first part below `holdfast`) of every import of our own, also inside functions."""
    package = ["holdfast", *module(path)[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            # `from .. import state` imports a folder, `from ..state import check` what is in it.
            names = [[*base, alias.name] for alias in node.names] if base == ["holdfast"] else [base]
        else:
            continue
        for name in names:
            if name[0] == "holdfast":
                known = len(name) > 1 and (name[1] in FLOORS or name[1] in ABOVE)
                yield node.lineno, name[1] if known else "__init__"


def floor(name: str) -> int:
    return 9 if name in ABOVE else FLOORS[name]


def wrong(path: Path, text: str) -> list[str]:
    """What a module imports although it may not."""
    own = module(path)[0]
    if own == "__main__" or (own in ABOVE and len(module(path)) == 1):
        return []
    alone = len(module(path)) == 1  # a module of the package's own folder: the others there are of its floor
    found = []
    for line, name in imports(path, text):
        same = name == own or (alone and floor(name) == floor(own))
        top = name == "__init__" and floor(own) >= 5  # people's commands use what programs use
        if not (same or top or floor(name) < floor(own)):
            found.append(f"{path.relative_to(SOURCE)}:{line} (floor {floor(own)}) imports {name} (floor {floor(name)})")
    return found


def test_the_table_is_read() -> None:
    assert FLOORS["errors"] == FLOORS["config"] == 0
    assert FLOORS["store"] == FLOORS["format"] == FLOORS["state"] == FLOORS["group"] == 1
    assert FLOORS["capture"] == FLOORS["redundancy"] == FLOORS["health"] == 2
    assert (FLOORS["catalog"], FLOORS["engine"], FLOORS["run"], FLOORS["cli"]) == (2, 3, 4, 6)


def test_every_module_has_its_floor() -> None:
    unknown = {module(path)[0] for path in FILES} - set(FLOORS) - ABOVE
    assert not unknown, f"not in the table of docs/design.md: {sorted(unknown)}"
    there = {module(path)[0] for path in FILES}
    assert set(FLOORS) <= there, f"in the table, but not there: {sorted(set(FLOORS) - there)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    assert wrong(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("place", "text", "count"),
    [
        ("format/keys.py", "from ..store import Store", 1),
        ("format/keys.py", "from .. import engine", 1),
        ("format/keys.py", "def f():\n    import holdfast.run.opening", 1),
        ("format/keys.py", "from holdfast import state, errors", 1),
        ("format/keys.py", "from . import blocks\nfrom .blocks import digest\nfrom ..errors import DamageError", 0),
        ("run/run.py", "from ..engine import publish\nfrom .. import state\nimport numpy", 0),
        ("run/run.py", "from ..cli import main\nimport holdfast", 2),
        ("config.py", "from .policy import Keep", 0),
        ("config.py", "from .store import Store", 1),
        ("cli/app.py", "import holdfast\nfrom ..supervisor import supervise", 0),
        ("supervisor/loop.py", "from ..cli import main", 1),
    ],
)  # fmt: skip
def test_the_rule_itself(place: str, text: str, count: int) -> None:
    assert len(wrong(SOURCE / place, text)) == count
