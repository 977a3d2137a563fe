"""Checks the way to the server: proxy, host name, connection, TLS, endpoint, key and clock."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import TransportError
from ..events.timestamps import utc_now
from ..transports._http.timed_calls import call_with_timeout
from ..transports.deadline import Deadline
from ..transports.http import DEFAULT_PORTS, HEADERS, host_in
from .report import Step, timed

if TYPE_CHECKING:
    from ..transports._http.connection import Connections, Response

NAME_SECONDS = 3.0
CONNECT_SECONDS = 3.0
TLS_SECONDS = 4.0
RESPONSE_SECONDS = 5.0
MOST_SKEW_SECONDS = 60.0
PERSON = "leanbase doctor"

_REJECTED = "the server rejects the key"
_OTHER_KEY = "compare the key and the host with those in the project's settings"


def steps(host: str, api_key: str, deadline: Deadline) -> Iterator[Step]:
    """Check the way to the server, up to the first step that fails."""
    from ..transports._http.connection import Connections, proxy_of

    parts = urlsplit(host)
    target, port = parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]
    try:
        proxy = proxy_of(host)
    except TransportError as error:
        yield Step("proxy", "failed", str(error), "correct the variable HTTPS_PROXY, HTTP_PROXY or ALL_PROXY")
        return
    if proxy is not None:
        address = urlsplit(proxy[0])
        target, port = address.hostname or "", address.port or DEFAULT_PORTS[address.scheme]
        yield Step("proxy", "ok", f"through {proxy[0]}, from the environment")
    else:
        yield Step("proxy", "ok", "none")
    of_proxy = " of the proxy" if proxy is not None else ""
    addresses: list[Any] = []
    step = _dns(target, port, of_proxy, deadline, addresses)
    yield step
    if step.status != "failed":
        step = _tcp(port, addresses, of_proxy, deadline)
        yield step
    if step.status == "failed":
        return
    connections = Connections()
    try:
        if parts.scheme == "https":
            step = _tls(connections, host, deadline)
            yield step
            if step.status == "failed":
                return
        yield from _requests(connections, host, api_key, deadline)
    finally:
        connections.close()


@timed("dns")
def _dns(host: str, port: int, of_proxy: str, deadline: Deadline, found: list[Any]) -> Step:
    """Resolve a host name, and add its addresses to `found`."""
    spelling = "check its spelling"
    try:
        found += call_with_timeout(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
            deadline.at_most(NAME_SECONDS).remaining(),
            name="leanbase-dns",
        )
    except TimeoutError:
        what = f"the host name{of_proxy} was not resolved in {NAME_SECONDS:g} s"
        return Step("dns", "failed", what, "check the DNS server of this machine, or of the function's VPC")
    except UnicodeError:
        return Step("dns", "failed", f"{host}{of_proxy} is not a valid host name", spelling)
    except OSError as error:
        why = error.strerror or error.args[-1]
        return Step("dns", "failed", f"the host name {host}{of_proxy} cannot be resolved: {why}", spelling)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    if addresses == [host]:
        return Step("dns", "ok", f"{host} is an address")
    return Step("dns", "ok", f"{host} is {addresses[0]}{more}")


@timed("tcp")
def _tcp(port: int, addresses: list[Any], of_proxy: str, deadline: Deadline) -> Step:
    deadline = deadline.at_most(CONNECT_SECONDS)
    failure: OSError = TimeoutError()
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(max(0.05, deadline.remaining() / (len(addresses) - position)))
            try:
                connection.connect(address)
            except OSError as error:
                failure = error
            else:
                return Step("tcp", "ok", f"port {port}{of_proxy} accepts connections")
    if isinstance(failure, TimeoutError):
        what = f"port {port}{of_proxy} does not answer in {CONNECT_SECONDS:g} s"
        advice = "a firewall or a security group drops the packets; a function in a VPC needs a way out (NAT)"
        return Step("tcp", "failed", what, advice)
    why = failure.strerror or failure
    return Step("tcp", "failed", f"port {port}{of_proxy} cannot be reached: {why}", "is it the right port?")


@timed("tls")
def _tls(connections: Connections, host: str, deadline: Deadline) -> Step:
    try:
        connections.open_one(host, deadline=deadline.at_most(TLS_SECONDS))
    except TransportError as error:
        text = str(error)
        advice = "is the port one of an https:// server?"
        if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text:
            advice = "if the server's CA is a private one, set SSL_CERT_FILE to its file"
        elif "proxy" in text:
            advice = "the proxy must allow CONNECT to this host; it may need a user and a password in its URL"
        return Step("tls", "failed", text, advice)
    return Step("tls", "ok", "the certificate is trusted")


def _requests(connections: Connections, host: str, api_key: str, deadline: Deadline) -> Iterator[Step]:
    started = time.perf_counter()
    body = {"api_key": api_key, "historical_migration": False, "sent_at": utc_now(), "batch": []}
    step, response = _posted(connections, f"{host}/batch/", body, deadline)
    yield replace(step, seconds=time.perf_counter() - started)
    if response is None or step.status == "failed":
        return
    if response.status in (401, 403):
        yield Step("key", "failed", _REJECTED, _OTHER_KEY)
    else:
        yield _key(connections, host, api_key, deadline)
    yield _clock(response)


def _posted(
    connections: Connections, url: str, body: dict[str, object], deadline: Deadline
) -> tuple[Step, Response | None]:
    """Post a batch without events, so that the server stores nothing."""
    try:
        response = connections.request(
            "POST", url, json.dumps(body).encode(), HEADERS, deadline=deadline.at_most(RESPONSE_SECONDS)
        )
    except TransportError as error:
        advice = "the server accepts connections and does not answer: is it overloaded, or another program?"
        return Step("endpoint", "failed", str(error), advice), None
    status = response.status
    found = f"{url} responds with {status}"
    kind = response.headers.get("Content-Type") or ""
    if status in (404, 405, 501):
        advice = "host must be the address of the ingestion server, with its path prefix if it has one"
        return Step("endpoint", "failed", found, advice), response
    if 300 <= status < 400:
        place = host_in(response.headers.get("Location"))
        advice = "set host to the address that accepts events"
        return Step("endpoint", "failed", f"{found}, a redirect to {place}", advice), response
    if status == 407:
        advice = "write user and password into the URL of the proxy"
        return Step("endpoint", "failed", "the proxy wants credentials (407)", advice), response
    if status == 429 or status >= 500:
        advice = "the server is overloaded or broken; events are kept and sent again later"
        return Step("endpoint", "failed", found, advice), response
    if status < 300 and "html" in kind:
        advice = "host must be the address of the ingestion server, not of its website"
        return Step("endpoint", "failed", f"{found}, with an HTML page", advice), response
    return Step("endpoint", "ok", f"{url} responds"), response


@timed("key")
def _key(connections: Connections, host: str, api_key: str, deadline: Deadline) -> Step:
    """Check the key with a request for flags, which stores nothing."""
    body = {"api_key": api_key, "distinct_id": PERSON}
    unknown = Step("key", "ok", "not checked without an event", "leanbase doctor --send checks it")
    try:
        response = connections.request(
            "POST",
            f"{host}/flags/?v=2",
            json.dumps(body).encode(),
            HEADERS,
            deadline=deadline.at_most(RESPONSE_SECONDS),
        )
    except TransportError:
        return unknown
    if response.status in (401, 403):
        return Step("key", "failed", _REJECTED, _OTHER_KEY)
    return Step("key", "ok", "the server accepts the key") if response.status == 200 else unknown


def _clock(response: Response) -> Step:
    try:
        theirs = parsedate_to_datetime(response.headers.get("Date") or "").timestamp()
    except (TypeError, ValueError):
        return Step("clock", "ok", "not checked: the response has no date")
    skew = time.time() - theirs
    if abs(skew) <= MOST_SKEW_SECONDS:
        return Step("clock", "ok", "within a minute of the server's")
    direction = "ahead of" if skew > 0 else "behind"
    found = f"the clock of this machine is {abs(skew):,.0f} s {direction} the server's"
    return Step("clock", "warning", found, "set the clock; AWS refuses requests that are 5 minutes off")
