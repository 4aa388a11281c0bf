"""The peers' environment: made once, in the bench's own folder, with pip as it is configured here.

Where pip's index offers PyTorch with CUDA by default, PIP_EXTRA_INDEX_URL may name one with CPU wheels: that saves some GiB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from job import told
from peers import PACKAGES

TIMEOUT = 900.0  # seconds for one package and what it needs


def make(folder: Path) -> tuple[Path, dict[str, str]]:
    """The environment's Python, and why packages could not be installed: {name: reason}. What failed is tried
    again next time."""
    python, note = folder / "bin" / "python", folder / "installed.json"
    if not python.exists():
        told("making the peers' environment")
        subprocess.run(
            [sys.executable, "-m", "venv", str(folder)], check=True, timeout=TIMEOUT, stdout=subprocess.DEVNULL
        )
    there = set(json.loads(note.read_text())) if note.exists() else set()
    failed: dict[str, str] = {}
    for packages in ("numpy", *PACKAGES):
        if packages in there:
            continue
        told(f"installing {packages}")
        why = _install(python, packages.split())
        if why is None:
            there.add(packages)
        else:
            failed |= {package.partition("[")[0]: why for package in packages.split()}
    note.write_text(json.dumps(sorted(there)))
    return python, failed


def versions(python: Path) -> dict[str, str]:
    """{package: version} of the peers that are there."""
    names = [p.partition("[")[0] for packages in PACKAGES for p in packages.split()]
    code = (
        "import importlib.metadata as m, json\n"
        "found = {}\n"
        f"for name in {['numpy', *names]!r}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    output = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    found: dict[str, str] = json.loads(output)
    return found


def _install(python: Path, packages: list[str]) -> str | None:
    """Why it failed, or None."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"pip was not done after {TIMEOUT:.0f} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    return " ".join(["pip install failed:", *lines[-1:]])[:160]
