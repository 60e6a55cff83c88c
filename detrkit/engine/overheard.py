"""What parts of detrkit say in their log while they are looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Ear(logging.Handler):
    def __init__(self, others: list[logging.Handler]) -> None:
        super().__init__(logging.DEBUG)
        self.others = others
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
            return
        for handler in self.others:
            if record.levelno >= handler.level:
                handler.handle(record)


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collects detrkit's warnings instead of showing them; information goes on as usual.

    So everything that a run would warn about stands in the report, once.
    """
    logger = logging.getLogger("detrkit")
    handlers, propagate = logger.handlers, logger.propagate
    ear = _Ear(list(handlers))
    logger.handlers, logger.propagate = [ear], False
    try:
        yield ear.warnings
    finally:
        logger.handlers, logger.propagate = handlers, propagate
