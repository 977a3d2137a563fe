"""Log messages that several modules share, so that each has one wording."""

from __future__ import annotations

import logging

from .interrupts import raise_interrupt

logger = logging.getLogger("leanbase")


def log_internal_error(where: str, error: Exception) -> None:
    """Log a defect of this package, with its traceback at DEBUG. Reraise a signal handler's exception.

    Only the type of the exception is logged at ERROR, because its text may quote a property value. `where`
    names the call or part of the package that failed, for example `"capture()"`.
    """
    raise_interrupt(error)
    logger.error("internal error in %s: %s; please report it", where, type(error).__name__)
    logger.debug("traceback of the internal error:", exc_info=error)


def log_lost_at_exit(count: int) -> None:
    logger.error("%d event(s) could not be delivered and will be lost at exit", count)
