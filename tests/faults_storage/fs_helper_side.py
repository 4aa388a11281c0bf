"""What the helper process runs in place of its own beginning: the same, with one of its storage calls made to go wrong.

The fault stands in the environment as `Faults.parse` takes it; it strikes once, in the first helper that reaches it, and leaves
a note of what it hit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULT, NOTE = "FAULTS_OF_THE_HELPER", "FAULTS_OF_THE_HELPER_NOTED_IN"
CODE = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"


def main() -> None:
    """In the helper process."""
    sys.path.append(str(Path(__file__).parents[1]))
    from faults import Call, Faults

    from holdfast.engine.helper import process

    note = Path(os.environ[NOTE])
    if note.exists():
        return process.main()

    class Noted(Faults):
        def _fault(self, call: Call, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            note.write_text(str(call))
            return super()._fault(call, real, args)

    with Noted.parse(os.environ[FAULT]):
        process.main()
