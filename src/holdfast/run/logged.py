"""What the library logs, where the program has set up no logging: lines on stderr that say whose they are.

Python itself would print warnings then, without a word on where they come from, in the midst of the program's own output. As
soon as there is any other handler, of the program's or of the root logger, it alone has the say.
"""

from __future__ import annotations

import logging
import sys

NAME = "holdfast"


class Lines(logging.Handler):
    """Warnings and errors, each line of theirs behind `holdfast: `."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.lastResort is None or self._others():
            return
        try:
            text = "".join(f"{NAME}: {line}\n" for line in self.format(record).splitlines())
            sys.stderr.write(text)  # at once, so that other ranks' lines do not come in between
            sys.stderr.flush()
        except Exception:  # nobody reads any more: no reason to stop the program
            self.handleError(record)

    def _others(self) -> bool:
        logger: logging.Logger | None = logging.getLogger(NAME)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


def install() -> None:
    """Once for the process."""
    logger = logging.getLogger(NAME)
    if not any(isinstance(handler, Lines) for handler in logger.handlers):
        logger.addHandler(Lines(logging.WARNING))
