"""Captured events of a test, and assertions about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events.contexts import coerce_id
from ..events.encoding import sanitize
from ..events.event import runtime_properties

EVERYWHERE = frozenset({"$lib", "$lib_version", "$is_server", "$geoip_disable", *runtime_properties()})
OF_CONTEXTS = (
    *("faas.", "cloud.", "celery.", "$context_tags", "$current_url", "$ip", "$raw_user_agent", "$request_"),
    *("$session_id", "$user_agent"),
)
NOTHING = (
    "nothing; is the client disabled, or a delivery scope still open? "
    "(What a LambdaSimulator captures is in its own events.)"
)


class CapturedEvents(list[dict[str, Any]]):
    """A list of captured events as dicts, in the order in which they were sent.

    The keys of an event are `event`, `distinct_id`, `uuid`, `timestamp` and `properties`.

    Examples:
        >>> events = CapturedEvents([{"event": "paid", "distinct_id": "u1", "properties": {"total": 42}}])
        >>> events.assert_captured("paid", distinct_id="u1", properties={"total": 42})["properties"]
        {'total': 42}
        >>> events.assert_not_captured("refunded")
    """

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events with this name."""
        return [each for each in self if each["event"] == event]

    def assert_captured(
        self,
        event: str,
        *,
        distinct_id: object = None,
        properties: Mapping[str, Any] | None = None,
        times: int | None = None,
    ) -> dict[str, Any]:
        """Assert that an event was captured.

        Args:
            event: The event's name.
            distinct_id: The distinct id that the event must have. Default: any.
            properties: Properties that the event must have; it may have others. They are compared in the form
                in which they are sent: a `Decimal` as a number, an `Enum` as its value.
            times: The exact number of matching events. Default: one or more.

        Returns:
            The first matching event, or `{}` with `times=0`.

        Raises:
            AssertionError: The number of matching events is wrong. The message lists the captured events.
        """
        __tracebackhide__ = True
        found = [each for each in self.named(event) if _fits(each, distinct_id, properties)]
        expected = "at least once" if times is None else f"{times} time(s)"
        if len(found) != times if times is not None else not found:
            wanted = _described(event, coerce_id(distinct_id), sanitize(properties or {}))
            count = f"captured {len(found)} time(s), expected {expected}"
            near = self._differences(event, distinct_id, properties) if not found else ""
            raise AssertionError(f"{count}: {wanted}{near}\ncaptured was: {self._listed()}")
        return found[0] if found else {}

    def assert_not_captured(self, event: str | None = None) -> None:
        """Assert that no event with this name was captured. Without a name, assert that there is no event.

        Raises:
            AssertionError: Such an event was captured. The message lists the captured events.
        """
        __tracebackhide__ = True
        if self.named(event) if event is not None else self:
            raise AssertionError(f"captured, but not expected: {event or 'anything'}\n{self._listed()}")

    def _differences(self, event: str, distinct_id: object, properties: Mapping[str, Any] | None) -> str:
        """Describe how the most similar event with this name differs, or return `""`."""
        wanted = sanitize(properties or {})
        person = coerce_id(distinct_id)
        lines: list[str] | None = None
        for each in self.named(event):
            own = each["properties"]
            differences = [
                f"\n  {name}: expected {value!r}, was {own[name]!r}"
                if name in own
                else f"\n  {name}: expected {value!r}, was not there"
                for name, value in wanted.items()
                if name not in own or own[name] != value
            ]
            if person is not None and each["distinct_id"] != person:
                differences.insert(0, f"\n  distinct_id: expected {person!r}, was {each['distinct_id']!r}")
            if lines is None or len(differences) < len(lines):
                lines = differences
        return f"\nthe nearest {event!r} differs:{''.join(lines)}" if lines else ""

    def _listed(self) -> str:
        lines = [
            _described(each["event"], each.get("distinct_id"), _own(each["properties"])) for each in self
        ]
        return "".join(f"\n  {line}" for line in lines) or NOTHING


def _fits(captured: dict[str, Any], distinct_id: object, properties: Mapping[str, Any] | None) -> bool:
    if distinct_id is not None and captured["distinct_id"] != coerce_id(distinct_id):
        return False
    wanted = sanitize(properties or {})
    own = captured["properties"]
    return all(name in own and own[name] == value for name, value in wanted.items())


def _own(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that the application set, as far as their names tell."""
    return {
        name: value
        for name, value in properties.items()
        if name not in EVERYWHERE and not name.startswith(OF_CONTEXTS)
    }


def _described(event: str, distinct_id: str | None, properties: Mapping[str, Any]) -> str:
    own = dict(properties)
    whose = "" if distinct_id is None else f" of {distinct_id!r}"
    return f"{event!r}{whose}{f' with {own!r}' if own else ''}"
