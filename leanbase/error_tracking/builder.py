"""Builds `$exception_list` from what was captured.

The caller passes how an exception was captured, as the mechanism of the first exception (X-25).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .. import introspection
from . import chain
from .frames import Call, Frame, FrameReader, capped, stack_calls, traceback_calls
from .metadata import valid_mechanism
from .source import cut_bytes
from .subjects import (
    Described,
    Raised,
    Subject,
    Summarized,
    message,
    summary_class,
    summary_frames,
    summary_relatives,
)

MAX_VALUE_BYTES = 8 * 1024
MAX_READ_CHARACTERS = 32 * 1024
MAX_THREAD_ID = 2**31 - 1  # the server rejects an event with a larger id


class Item:
    """One exception of the list. `wire` are its fields in the wire format, without the frames."""

    __slots__ = ("frames", "wire")

    def __init__(self, wire: dict[str, Any], frames: Sequence[Frame]) -> None:
        self.wire = wire
        self.frames = frames

    def finished(self) -> dict[str, Any]:
        """Return the wire format with the frames."""
        if self.frames:
            self.wire["stacktrace"] = {"type": "raw", "frames": [frame.wire for frame in self.frames]}
        return self.wire


class ExceptionListBuilder:
    """Builds exception lists. Every message is redacted before it is cut to `MAX_VALUE_BYTES`."""

    def __init__(self, frames: FrameReader, redact: Callable[[str], str] = str) -> None:
        self._frames = frames
        self._redact = redact

    def build(
        self,
        subject: Subject,
        mechanism: Mapping[str, object] | None = None,
        *,
        stack: Sequence[Call] | None = None,
        thread_id: int | None = None,
    ) -> list[Item]:
        """List an exception with its causes, contexts and group members, at most 50 items.

        Args:
            subject: What was captured.
            mechanism: The mechanism of the first exception. Invalid fields are left out, unknown fields stay.
            stack: The stack to report for a first exception without frames. Default: the caller's stack.
            thread_id: The native id of the first exception's thread, if known.
        """
        if isinstance(subject, Raised):
            items = list(self._raised(subject, stack))
        elif isinstance(subject, Summarized):
            items = list(self._summarized(subject))
        else:
            items = [self._described(subject, stack)]
        first = items[0].wire
        first["mechanism"].update(valid_mechanism(mechanism))
        if thread_id is not None and 0 <= thread_id <= MAX_THREAD_ID:
            first["thread_id"] = thread_id
        return items

    def _raised(self, subject: Raised, stack: Sequence[Call] | None) -> Iterator[Item]:
        for link in chain.flatten(subject.error, chain.relatives):
            error, is_first = link.node, link.parent is None
            traceback = subject.traceback if is_first else introspection.traceback(error)
            calls: Sequence[Call] = traceback_calls(traceback)
            synthetic = is_first and traceback is None
            if synthetic:
                calls = _current_stack() if stack is None else stack
            mechanism: dict[str, Any] = {"synthetic": synthetic}
            if chain.members(error):
                mechanism["is_exception_group"] = True
            number = introspection.errno(error)
            if number is not None:
                mechanism["meta"] = {"errno": {"number": number}}
            names = introspection.class_name(type(error)), introspection.class_module(type(error))
            yield self._item(link, *names, message(error), self._frames.describe(calls), mechanism)

    def _summarized(self, subject: Summarized) -> Iterator[Item]:
        for link in chain.flatten(subject.summary, summary_relatives):
            frames = self._from_texts(summary_frames(link.node))
            text, mechanism = str(link.node), {"synthetic": False}
            yield self._item(link, *summary_class(link.node), text, frames, mechanism)

    def _described(self, subject: Described, stack: Sequence[Call] | None) -> Item:
        if subject.frames is not None:
            frames = self._from_texts(subject.frames)
        elif subject.traceback is not None:
            frames = self._frames.describe(traceback_calls(subject.traceback))
        else:
            frames = self._frames.describe(_current_stack() if stack is None else stack)
        link = chain.Link(subject, 0, None, None)
        return self._item(link, subject.type, subject.module, subject.value, frames, {"synthetic": True})

    def _item(
        self,
        link: chain.Link,
        type: str,
        module: str | None,
        text: str,
        frames: Sequence[Frame],
        mechanism: dict[str, Any],
    ) -> Item:
        wire: dict[str, Any] = {"type": type, "value": self._value(text)}
        if module:
            wire["module"] = module
        wire["mechanism"] = mechanism = {**mechanism, "exception_id": link.position}
        if link.parent is not None:
            mechanism.update(type="chained", source=link.source, parent_id=link.parent)
        return Item(wire, frames)

    def _value(self, text: str) -> str:
        if len(text) > MAX_READ_CHARACTERS:
            # Cut at a space: half a secret would no longer match its pattern.
            text = text[:MAX_READ_CHARACTERS]
            text = (text.rpartition(" ")[0] or text) + " ..."
        return cut_bytes(self._redact(text), MAX_VALUE_BYTES)

    def _from_texts(self, described: Sequence[Mapping[str, Any]]) -> list[Frame]:
        return [
            Frame({**each, **self._frames.place(each["filename"], None)}, None) for each in capped(described)
        ]


def _current_stack() -> list[Call]:
    return stack_calls(sys._getframe(), without=(__name__.partition(".")[0],))
