"""What was captured, and what a test says about it."""

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
    """Events as dicts (`event`, `distinct_id`, `uuid`, `timestamp`, `properties`) in the order they left in.

    Example:
        >>> events = CapturedEvents([{"event": "paid", "distinct_id": "u1", "properties": {"total": 42}}])
        >>> events.assert_captured("paid", distinct_id="u1", properties={"total": 42})["properties"]
        {'total': 42}
        >>> events.assert_not_captured("refunded")
    """

    def named(self, event: str) -> list[dict[str, Any]]:
        """The events of this name."""
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
            event: Its name.
            distinct_id: Whose it is; any, if it is not given.
            properties: Properties that it has, among others. They are compared as they are sent: a `Decimal`
                with the number, an `Enum` with its value.
            times: How often such an event was captured; at least once, if it is not given.

        Returns:
            The first such event.

        Raises:
            AssertionError: There is none, or another number; the text says what was captured.
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
        """Assert that no event of this name was captured; without a name, that none was.

        Raises:
            AssertionError: One was; the text says what was captured.
        """
        __tracebackhide__ = True
        if self.named(event) if event is not None else self:
            raise AssertionError(f"captured, but not expected: {event or 'anything'}\n{self._listed()}")

    def _differences(self, event: str, distinct_id: object, properties: Mapping[str, Any] | None) -> str:
        """How the event of that name that comes nearest is another one."""
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
    """Properties without those that the SDK adds, also to events of an invocation or a request."""
    return {
        name: value
        for name, value in properties.items()
        if name not in EVERYWHERE and not name.startswith(OF_CONTEXTS)
    }


def _described(event: str, distinct_id: str | None, properties: Mapping[str, Any]) -> str:
    """An event in one line."""
    own = dict(properties)
    whose = "" if distinct_id is None else f" of {distinct_id!r}"
    return f"{event!r}{whose}{f' with {own!r}' if own else ''}"
