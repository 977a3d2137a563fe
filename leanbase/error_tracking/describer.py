"""Builds the properties of `$exception` events, by the settings of a client."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from ..events import contexts
from ..redaction import DEFAULT_IGNORE_PATTERNS, DEFAULT_MASK_PATTERNS, Redaction, broken_in, matcher
from ..settings import Settings, as_strings
from .builder import ExceptionListBuilder
from .frames import Call, FrameReader
from .metadata import Metadata, resolved
from .subjects import Described, Raised, Subject
from .variables import add_variables

logger = logging.getLogger("leanbase")

RESERVED = frozenset(
    {
        # set by the SDK
        "$exception_list", "$exception_type", "$exception_message", "$exception_level", "$exception_source",
        # never sent: frames of Python have no debug images, and `handled` is in the mechanism
        "$debug_images", "$exception_handled",
        # derived by the processor on the server
        "$exception_types", "$exception_values", "$exception_sources", "$exception_functions",
        "$exception_fingerprint_version", "$exception_fingerprint_record", "$exception_issue_id",
        "$exception_release", "$cymbal_errors",
    }
)  # fmt: skip
FINGERPRINT = "$exception_fingerprint"


class ExceptionDescriber:
    """Describes the exceptions of a client. `running_since` is the time of its creation, in epoch seconds."""

    def __init__(self, settings: Settings, running_since: float) -> None:
        self.settings = settings
        self._frames = FrameReader(settings.project_root or "", settings.in_app_modules or (), running_since)

    def describe(
        self,
        subject: Subject,
        *metadata: Metadata,
        fingerprint: object = None,
        stack: Sequence[Call] | None = None,
    ) -> Callable[[dict[str, Any]], None]:
        """Describe a subject in its current state.

        Args:
            subject: What was captured.
            metadata: How it was captured, the most specific first.
            fingerprint: The caller's fingerprint, which groups events into issues.
            stack: The stack to report for a subject without a stack. Default: the stack of the caller.

        Returns:
            A function that adds the description to the properties of an event. Call it last.
        """
        redaction = self.redaction()
        owned, mechanism = resolved(*metadata)
        builder = ExceptionListBuilder(self._frames, redaction.message)
        items = builder.build(
            subject,
            mechanism,
            stack=stack,
            thread_id=threading.get_native_id() if _is_live(subject) else None,
        )
        if self._option("capture_exception_code_variables"):
            try:
                add_variables(items, redaction)
            except Exception as error:
                logger.warning(
                    "local variables could not be read: %s; the exception is sent without them",
                    type(error).__name__,
                )
                for frame in (frame for item in items for frame in item.frames):
                    frame.wire.pop("code_variables", None)
        finished = [item.finished() for item in items]
        owned["$exception_list"] = finished
        owned["$exception_type"] = finished[0]["type"]
        owned["$exception_message"] = finished[0]["value"]
        trace = _open_telemetry_ids()

        def finalize(properties: dict[str, Any]) -> None:
            for name in RESERVED:
                properties.pop(name, None)
            given = properties.pop(FINGERPRINT, None)
            text = _fingerprint(fingerprint) or _fingerprint(given)
            if text is not None:
                properties[FINGERPRINT] = text
            for name, value in trace.items():
                properties.setdefault(name, value)
            logged = properties.get("logger_message")
            if isinstance(logged, str):
                properties["logger_message"] = redaction.message(logged)
            properties.update(owned)

        return finalize

    def redaction(self) -> Redaction:
        """Return the redaction rules, each from the nearest context that sets it, else from the client."""
        return Redaction(
            matcher(self._patterns("code_variables_mask_patterns", DEFAULT_MASK_PATTERNS)),
            matcher(self._patterns("code_variables_ignore_patterns", DEFAULT_IGNORE_PATTERNS)),
            mask_url_credentials=bool(self._option("code_variables_mask_url_credentials")),
            detect_secrets=bool(self._option("code_variables_detect_secrets")),
        )

    def _patterns(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """Return an option's patterns. If one is invalid, add the defaults: a typo must expose no secret."""
        for given in (contexts.override(name), getattr(self.settings, name)):
            texts = None if given is None else as_strings(name, given)
            if texts is not None:
                broken = broken_in(texts)
                if broken:
                    _warn_of_pattern(name, broken[0])
                return (*texts, *default) if broken else texts
        return default

    def _option(self, name: str) -> Any:
        """Return an option from the nearest context that sets it, else from the client."""
        value = contexts.override(name)
        return getattr(self.settings, name) if value is None else value


@cache
def _warn_of_pattern(option: str, pattern: str) -> None:
    logger.warning(
        "%s: %r is not a valid regular expression; the built-in patterns are used instead", option, pattern
    )


def _is_live(subject: Subject) -> bool:
    """Return True if the subject was captured in this thread."""
    return isinstance(subject, Raised) or (isinstance(subject, Described) and subject.frames is None)


def _fingerprint(given: object) -> str | None:
    if given is None:
        return None
    if isinstance(given, (list, tuple)) and given and all(isinstance(part, str) for part in given):
        given = "-".join(given)
    if isinstance(given, str) and given:
        return str.__str__(given)
    logger.warning("fingerprint must be a non-empty string, not %s; it is ignored", type(given).__name__)
    return None


def _open_telemetry_ids() -> dict[str, str]:
    """Return the ids of the current OpenTelemetry span, if any."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    try:
        span = trace.get_current_span().get_span_context() if trace is not None else None
        if span is None or not span.is_valid:
            return {}
        return {"$trace_id": f"{span.trace_id:032x}", "$span_id": f"{span.span_id:016x}"}
    except Exception:
        return {}
