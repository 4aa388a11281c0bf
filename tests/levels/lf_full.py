"""A run with its place on a tmpfs of 2 MiB, filled up by somebody else for a while. Arguments: the place's root, the run."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lf_errors import Said

import holdfast


def main(root: Path, url: Path) -> dict[str, Any]:
    said = Said()
    logging.getLogger("holdfast").addHandler(said)
    levels = [holdfast.memory(root), holdfast.global_(every=holdfast.versions(1000))]
    run = holdfast.open(url, levels=levels, signals=False, incremental="off")
    u = run.protect("u", np.zeros(50_000))
    seen: dict[str, Any] = {}

    def look(name: str) -> None:
        seen[name] = {
            "place": sorted(int(p.parent.name[:8]) for p in root.glob("*/*/versions/*/commit")),
            "store": sorted(int(p.parent.name[:8]) for p in url.glob("versions/*/commit")),
        }

    hog = root / "hog"
    for step in run.steps(1000, every=holdfast.steps(1)):
        u += 1
        run._x.writer.arrive()
        if step == 5:
            look("before")
            try:
                with hog.open("wb", buffering=0) as f:
                    while True:
                        f.write(bytes(4096))
            except OSError:
                pass
        if step == 12:
            look("full")
            hog.unlink()
        if step == 25:
            look("after")
            break
    run.close()
    run = holdfast.open(url, levels=levels, signals=False)
    u = run.protect("u", np.zeros(50_000))
    run.ready()
    assert run.restored is not None
    seen |= {"restored": run.restored.step, "u": float(u[-1]), "said": said.lines}
    run.complete()
    run.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
