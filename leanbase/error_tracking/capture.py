"""Captures an exception once for each client, at any number of boundaries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidEventError
from ..events import contexts
from .seen import CapturedExceptions
from .subjects import Raised, read

if TYPE_CHECKING:
    from ..events.event import Draft
    from .describer import ExceptionDescriber
    from .frames import Call
    from .metadata import Metadata

logger = logging.getLogger("leanbase")


class ExceptionCapture:
    """Captures exceptions for one client, also after its settings change."""

    def __init__(self) -> None:
        self._seen = CapturedExceptions()

    def capture(
        self,
        exception: object,
        draft: Draft,
        *metadata: Metadata,
        describer: ExceptionDescriber,
        emit: Callable[[Draft], str | None],
        fingerprint: object = None,
        stack: Sequence[Call] | None = None,
    ) -> str | None:
        """Capture an exception, unless this client has captured it before.

        Args:
            exception: As for `capture_exception`.
            draft: The event, without the properties that describe the exception.
            metadata: As for `ExceptionDescriber.describe`.
            describer: Describes the exception.
            emit: Builds the event and passes it to the outbox. Returns its uuid, or `None` if it is dropped.
            fingerprint: As for `ExceptionDescriber.describe`.
            stack: As for `ExceptionDescriber.describe`.

        Returns:
            The event's uuid. `None` if the event was dropped, or the exception was captured before.

        Raises:
            InvalidEventError: No exception was passed, and no exception is being handled.
        """
        subject = read(exception)
        if subject is None:
            raise InvalidEventError("there is no exception: pass one, or call it in an except block")
        error = subject.error if isinstance(subject, Raised) else None
        if error is not None and not self._seen.claim(error, contexts.outermost_number()):
            logger.debug("skipping an exception that was captured before")
            return None
        uuid = None
        try:
            draft.is_exception = True
            draft.finalize = describer.describe(subject, *metadata, fingerprint=fingerprint, stack=stack)
            uuid = emit(draft)
        finally:
            if uuid is None and error is not None:
                self._seen.release(error)  # an outer boundary may try again
        if uuid is not None and describer.settings.log_captured_exceptions:
            logger.error("captured an exception", exc_info=error or True)
        return uuid
