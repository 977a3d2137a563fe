"""Lazy proxies of Werkzeug, Django and wrapt may be given for every argument, property value and id.

A lazy proxy stands for an object that is looked up when the proxy is used. Outside of a request the lookup fails: then
the proxy is unbound.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.transports import MemoryTransport

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
TIMESTAMP = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)

Lazy = Callable[[Callable[[], Any]], Any]


def werkzeug(value: Callable[[], Any]) -> Any:
    return pytest.importorskip("werkzeug.local").LocalProxy(value)


def django(value: Callable[[], Any]) -> Any:
    return pytest.importorskip("django.utils.functional").SimpleLazyObject(value)


def wrapt(value: Callable[[], Any]) -> Any:
    return pytest.importorskip("wrapt").ObjectProxy(value())


def nested(value: Callable[[], Any]) -> Any:
    return werkzeug(lambda: django(value))


@pytest.fixture(params=[werkzeug, django, wrapt, nested])
def lazy(request: pytest.FixtureRequest) -> Lazy:
    chosen: Lazy = request.param
    return chosen


@pytest.mark.rule("E-3", "E-11", "E-12")
def test_every_argument_of_capture_may_be_a_lazy_proxy(
    lazy: Lazy, client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture(
        lazy(lambda: "signed up"),
        distinct_id=lazy(lambda: "user-7"),
        properties=lazy(lambda: {"plan": "pro"}),
        groups=lazy(lambda: {"company": "acme"}),
        timestamp=lazy(lambda: TIMESTAMP),
        uuid=lazy(lambda: uuid.UUID(ID)),
        disable_geoip=lazy(lambda: False),
    )
    [event] = memory.events
    assert event["event"] == "signed up"
    assert event["distinct_id"] == "user-7"
    assert event["uuid"] == ID
    assert event["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert event["properties"]["plan"] == "pro"
    assert event["properties"]["$groups"] == {"company": "acme"}
    assert "$geoip_disable" not in event["properties"]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("pro", "pro"), (7, 7), (1.5, 1.5), (True, True), (None, None), ([1], [1]), ({"a": {"b": 1}}, {"a": {"b": 1}}),
        (TIMESTAMP, TIMESTAMP.isoformat()), (uuid.UUID(ID), ID), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_property_value_may_be_a_lazy_proxy(
    given: Any, sent: Any, lazy: Lazy, client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture(
        "e", distinct_id="u", properties={"value": lazy(lambda: given), "nested": [lazy(lambda: given)]}
    )
    [event] = memory.events
    assert event["properties"]["value"] == sent
    assert event["properties"]["nested"] == [sent]


@pytest.mark.rule("E-11")
@pytest.mark.parametrize(("given", "sent"), [("ann", "ann"), (7, "7"), (uuid.UUID(ID), ID)])
def test_ids_and_properties_of_the_other_calls_may_be_lazy_proxies(
    given: Any, sent: str, lazy: Lazy, client: Leanbase, memory: MemoryTransport
) -> None:
    client.identify(lazy(lambda: given), {"a": 1})
    client.set(distinct_id="u", properties=lazy(lambda: {"b": 2}))
    client.alias(lazy(lambda: "before"), lazy(lambda: given))
    client.group_identify(lazy(lambda: "company"), lazy(lambda: given), lazy(lambda: {"c": 3}))
    with client.new_context():
        client.identify_context(lazy(lambda: given))
        client.tag(lazy(lambda: "plan"), lazy(lambda: "pro"))
        client.capture("e")
    identify, set_, alias, group, event = memory.events
    assert identify["distinct_id"] == sent
    assert set_["properties"]["$set"] == {"b": 2}
    assert alias["properties"]["alias"] == sent
    assert alias["properties"]["distinct_id"] == alias["distinct_id"] == "before"
    assert str(group["properties"]["$group_key"]) == sent
    assert group["properties"]["$group_set"] == {"c": 3}
    assert event["distinct_id"] == sent
    assert event["properties"]["plan"] == "pro"


@pytest.mark.rule("E-10")
def test_a_lazy_proxy_of_none_counts_as_a_missing_id(
    lazy: Lazy, client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture("e", distinct_id=lazy(lambda: None))
    [event] = memory.events
    assert event["distinct_id"] != "None"
    assert event["properties"]["$process_person_profile"] is False


def test_a_lazy_translation_is_sent_as_its_string(client: Leanbase, memory: MemoryTransport) -> None:
    translated = pytest.importorskip("django.utils.functional").lazystr("signed up")
    client.capture(translated, distinct_id=translated, properties={"string": translated})
    [event] = memory.events
    assert [event["event"], event["distinct_id"], event["properties"]["string"]] == ["signed up"] * 3


class Unbound:
    """Fails whatever is done with it, like a proxy outside of a request."""

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("not bound")

    __bool__ = __str__ = __repr__ = __len__ = __iter__ = keys = __getitem__ = _fail
    __hash__ = __eq__ = _fail
    __class__ = property(_fail)


@pytest.mark.rule("G-1")
@pytest.mark.parametrize(
    "argument", ["distinct_id", "properties", "groups", "timestamp", "uuid", "disable_geoip"]
)
def test_an_unbound_proxy_as_an_argument_does_not_drop_the_event(
    argument: str, client: Leanbase, memory: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"distinct_id": "u", "properties": {"kept": 1}, argument: Unbound()}
    assert client.capture("e", **given)
    [event] = memory.events
    assert "kept" in event["properties"] or argument == "properties"
    assert client.stats()["dropped"] == {}
    assert "its str() is used" not in caplog.text


@pytest.mark.rule("S-29")
def test_an_unbound_proxy_as_a_property_value_is_its_class_name(
    client: Leanbase, memory: MemoryTransport
) -> None:
    client.capture("e", distinct_id="u", properties={"value": Unbound(), "plan": "pro"})
    [event] = memory.events
    assert event["properties"]["value"] == f"<{__name__}.Unbound>"
    assert event["properties"]["plan"] == "pro"


@pytest.mark.rule("G-1")
def test_setters_of_a_context_do_not_raise_for_unbound_proxies(
    client: Leanbase, memory: MemoryTransport
) -> None:
    unbound: Any = Unbound()
    with client.new_context(), client.new_context(fresh=unbound):
        client.tag(unbound, 1)
        client.tag("value", unbound)
        client.tag("plan", "pro")
        client.identify_context(unbound)
        client.set_context_session(unbound)
        client.set_context_device_id(unbound)
        client.set_capture_exception_code_variables_context(unbound)
        client.set_code_variables_mask_url_credentials_context(unbound)
        client.set_code_variables_detect_secrets_context(unbound)
        client.capture("e")
    [event] = memory.events
    assert event["properties"]["plan"] == "pro"
