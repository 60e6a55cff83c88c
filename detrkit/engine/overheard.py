"""What parts of detrkit say in their log while they are looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Ear(logging.Handler):
    """Keeps warnings and passes the rest on to where it went before."""

    def __init__(self, logger: logging.Logger, quiet: bool) -> None:
        super().__init__(logging.DEBUG)
        self.handlers = list(logger.handlers)
        self.parent = logger.parent if logger.propagate else None
        self.quiet = quiet
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        elif record.levelno < logging.INFO or not self.quiet:
            for handler in self.handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
            if self.parent is not None:
                self.parent.callHandlers(record)


@contextmanager
def overheard(*, quiet: bool = False) -> Iterator[list[str]]:
    """Collects detrkit's warnings instead of showing them.

    So everything that a run would warn about can stand in a report, once.

    Args:
        quiet: drop information as well; otherwise it goes on as usual.
    """
    logger = logging.getLogger("detrkit")
    handlers, propagate = logger.handlers, logger.propagate
    ear = _Ear(logger, quiet)
    logger.handlers, logger.propagate = [ear], False
    try:
        yield ear.warnings
    finally:
        logger.handlers, logger.propagate = handlers, propagate
