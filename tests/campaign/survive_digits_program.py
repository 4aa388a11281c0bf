"""`examples/digits.py` for part G: the example's own code, whose steps are noted and whose state goes to the ledger."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import holdfast
from campaign.digits_truth import Watched, digits
from campaign.ledger import Durable, Ledger
from campaign.survive_moments import fail_storage, kill_at_moments, note_damage
from campaign.survive_notes import Notebook, Orders, What
from campaign.survive_steps import told_steps

DIRECTORY = Path(os.environ["SURVIVE_NOTES"])
BOOK, ORDERS = Notebook(DIRECTORY), Orders(DIRECTORY)


class Traced(Watched):
    """The run as the example sees it."""

    def __init__(self, run: holdfast.Run, ledger: Ledger) -> None:
        super().__init__(run)
        self._ledger = ledger

    def steps(self, n: int, **options: Any) -> Iterator[int]:
        yield from told_steps(self.run, n, options, BOOK, ORDERS, self._ledger, self.digest)


def main() -> None:
    faulthandler.enable()
    BOOK.note(What.STARTED)
    note_damage(BOOK)
    kill_at_moments(BOOK, ORDERS, lambda: 0)
    (path,) = (word.partition("=")[2] for word in sys.argv[1:] if word.startswith("--ledger="))
    sys.argv = [word for word in sys.argv if not word.startswith("--ledger=")]
    ledger, known = Ledger(Path(path)), {"rank": 0, "attempt": 0}
    Durable(ledger, lambda: known).attach()

    def opened(*args: Any, **options: Any) -> Traced:
        run = holdfast.open(*args, **options)
        known["attempt"] = run.attempt
        BOOK.note(What.OPENED, 0, run.attempt)
        fail_storage(BOOK, ORDERS, 0)
        return Traced(run, ledger)

    digits.holdfast = SimpleNamespace(open=opened, steps=holdfast.steps)
    digits.main()
    BOOK.note(What.LEFT, 0, known["attempt"])


if __name__ == "__main__":
    main()
