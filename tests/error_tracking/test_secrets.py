"""No secret is readable in a request, and harmless strings stay readable.

The tests put strings of a corpus into variables of a frame and into messages of exceptions. A real client sends the
exception to `FaultServer`, a server in a thread of this process, and the tests search the bytes of the request.

* `KNOWN`, `OPAQUE`, `IN_URLS` and `IN_ENVIRONMENT` are secrets. No half of one may be readable, in any spelling.
* `HARMLESS` are strings that look a little like secrets. They must arrive unchanged.
"""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import logging
import random
import urllib.parse
import weakref
from collections import deque, namedtuple
from collections.abc import Callable
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from types import SimpleNamespace
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.integrations.logging import LeanbaseHandler
from leanbase.redaction import DEFAULT_MASK_PATTERNS, REDACTED, Redaction, matcher, redacted_url
from leanbase.transports import MemoryTransport
from tests.error_tracking.conftest import raised
from tests.support.fault_server import FaultServer

# Secrets are generated: a literal would be in a source line, and events quote source lines.
_random = random.Random(20260102)
ALNUM = ascii_letters + digits
HEX = "0123456789abcdef"
URL_SAFE = ALNUM + "_-"


def chars(alphabet: str, length: int) -> str:
    """Return a string of random characters."""
    return "".join(_random.choice(alphabet) for _ in range(length))


def mixed(length: int) -> str:
    """Return a random string with lower-case letters, upper-case letters and digits."""
    return chars(ascii_lowercase, 3) + chars(ascii_uppercase, 3) + chars(digits, 3) + chars(ALNUM, length - 9)


def jwt_segment(content: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def jwt() -> str:
    header, claims = jwt_segment({"alg": "HS256", "typ": "JWT"}), jwt_segment({"sub": chars(HEX, 12)})
    return f"{header}.{claims}.{chars(URL_SAFE, 43)}"


def pem(kind: str) -> str:
    body = "\n".join(chars(ALNUM + "+/", 64) for _ in range(6))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----\n"


KNOWN = {
    "anthropic": f"sk-ant-api03-{chars(URL_SAFE, 93)}",
    "openai": f"sk-{chars(ALNUM, 48)}",
    "openai project": f"sk-proj-{chars(URL_SAFE, 48)}",
    "openai service account": f"sk-svcacct-{chars(URL_SAFE, 48)}",
    "openrouter": f"sk-or-v1-{chars(HEX, 64)}",
    "hugging face": f"hf_{chars(ALNUM, 34)}",
    "aws access key": f"AKIA{chars(ascii_uppercase + '234567', 16)}",
    "aws temporary key": f"ASIA{chars(ascii_uppercase + '234567', 16)}",
    "google api key": f"AIza{chars(URL_SAFE, 35)}",
    "google oauth": f"ya29.{chars(URL_SAFE, 60)}",
    "digitalocean": f"dop_v1_{chars(HEX, 64)}",
    "digitalocean oauth": f"doo_v1_{chars(HEX, 64)}",
    "digitalocean refresh": f"dor_v1_{chars(HEX, 64)}",
    "stripe": f"sk_live_{chars(ALNUM, 24)}",
    "stripe test": f"sk_test_{chars(ALNUM, 24)}",
    "stripe restricted": f"rk_live_{chars(ALNUM, 24)}",
    "stripe restricted test": f"rk_test_{chars(ALNUM, 24)}",
    "stripe webhook": f"whsec_{chars(ALNUM, 32)}",
    "square access": f"sq0atp-{chars(URL_SAFE, 22)}",
    "square": f"sq0csp-{chars(URL_SAFE, 43)}",
    "github": f"ghp_{chars(ALNUM, 36)}",
    "github oauth": f"gho_{chars(ALNUM, 36)}",
    "github user": f"ghu_{chars(ALNUM, 36)}",
    "github server": f"ghs_{chars(ALNUM, 36)}",
    "github refresh": f"ghr_{chars(ALNUM, 36)}",
    "github fine-grained": f"github_pat_{chars(ALNUM, 22)}_{chars(ALNUM, 59)}",
    "gitlab": f"glpat-{chars(URL_SAFE, 20)}",
    "gitlab deploy": f"gldt-{chars(URL_SAFE, 20)}",
    "gitlab runner": f"glrt-{chars(URL_SAFE, 20)}",
    "gitlab trigger": f"glptt-{chars(HEX, 40)}",
    "grafana": f"glsa_{chars(ALNUM, 32)}_{chars(HEX, 8)}",
    "slack bot": f"xoxb-{chars(digits, 12)}-{chars(digits, 12)}-{chars(ALNUM, 24)}",
    "slack user": f"xoxp-{chars(digits, 12)}-{chars(digits, 12)}-{chars(ALNUM, 24)}",
    "slack app": f"xapp-1-{chars(ascii_uppercase, 11)}-{chars(digits, 12)}-{chars(HEX, 64)}",
    "twilio": f"SK{chars(HEX, 32)}",
    "sendgrid": f"SG.{chars(URL_SAFE, 22)}.{chars(URL_SAFE, 43)}",
    "mailgun": f"key-{chars(HEX, 32)}",
    "mailchimp": f"{chars(HEX, 32)}-us12",
    "npm": f"npm_{chars(ALNUM, 36)}",
    "pypi": f"pypi-AgEI{chars(URL_SAFE, 100)}",
    "databricks": f"dapi{chars(HEX, 32)}",
    "doppler": f"dp.pt.{chars(ALNUM, 43)}",
    "postman": f"PMAK-{chars(HEX, 24)}-{chars(HEX, 34)}",
    "linear": f"lin_api_{chars(ALNUM, 40)}",
    "notion": f"ntn_{chars(ALNUM, 46)}",
    "shopify": f"shpat_{chars(HEX, 32)}",
    "shopify shared": f"shpss_{chars(HEX, 32)}",
    "shopify custom": f"shpca_{chars(HEX, 32)}",
    "new relic": f"NRAK-{chars(ascii_uppercase + digits, 27)}",
    "posthog personal key": f"phx_{chars(ALNUM, 40)}",
    "basic": f"Basic {base64.b64encode(b'shop:' + _random.randbytes(12).hex().encode()).decode()}",
    "bearer in lower case": f"bearer {mixed(24)}1",
    "bearer in upper case": f"BEARER {mixed(24)}1",
    "slack webhook": f"https://hooks.slack.com/services/T{mixed(9)}/B{mixed(9)}/{mixed(24)}",
    "discord webhook": f"https://discord.com/api/webhooks/{chars(digits, 18)}/{mixed(60)}",
    "visa": "4111 1111 1111 1111",
    "mastercard": "5555-5555-5555-4444",
    "american express": "378282246310005",
    "jwt": jwt(),
    "another jwt": jwt(),
    "pem": pem(""),
    "pem rsa": pem("RSA "),
    "pem ec": pem("EC "),
    "pem openssh": pem("OPENSSH "),
    "pem encrypted": pem("ENCRYPTED "),
}
"""Secrets that are recognized by their format, anywhere in a string."""

OPAQUE = {
    "aws secret key": f"{mixed(16)}/K7MDENG/{mixed(15)}",
    "base64 key": base64.b64encode(_random.randbytes(33)).decode(),
    "azure key": base64.b64encode(_random.randbytes(64)).decode(),
    "random token": mixed(32),
    "short token": f"{mixed(14)}-_",
    "session id": f"s:{mixed(30)}.{mixed(20)}",
}
"""Secrets that are recognized by their entropy, if they are the whole string."""

IN_URLS = {
    "postgres": ("postgres://shop:{}@db.internal:5432/shop", mixed(12)),
    "redis": ("redis://:{}@cache:6379/0", mixed(12)),
    "amqp": ("amqps://guest:{}@mq/vhost", mixed(12)),
    "https": ("https://deploy:{}@git.example.com/shop.git", mixed(12)),
    "mongodb": ("mongodb+srv://admin:{}@cluster.example.net/?w=majority", mixed(12)),
    "smtp": ("smtp://robot%40example.com:{}@mail:587", "p" + chars(HEX, 6)),
}
"""URLs with a placeholder for the password, and the password."""

IN_ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": chars(ascii_lowercase, 40),
    "AWS_SESSION_TOKEN": chars(ascii_lowercase, 80),
    "DATABASE_PASSWORD": f"correct horse '{chars(ascii_lowercase, 6)}' \\ staple",
    "STRIPE_API_KEY": chars(ascii_lowercase, 20),
    "MY_SERVICE_TOKEN": chars(digits, 18),
    "SMTP_PASSWD": chars(ascii_lowercase, 8),
    "LEANBASE_API_KEY": f"phc_{chars(ALNUM, 43)}",
}
"""Secrets that only the names of their environment variables give away."""

SECRETS = [
    *KNOWN.values(), *OPAQUE.values(), *IN_ENVIRONMENT.values(), *(secret for _, secret in IN_URLS.values()),
]  # fmt: skip

HARMLESS = [
    # paths
    "/var/task/shop/views.py", "shop/templates/checkout.html", "/usr/lib/python3.11/json/decoder.py",
    "C:\\Users\\Jo\\Projects\\Shop\\main.py", "s3/bucket/with/a/long/key-2026-01-02.parquet",
    "/home/user1/.config/app/settings.toml", "node_modules/@types/node/index.d.ts",
    # ids and digests
    "0198c0de-7a3b-7c4d-8e5f-0123456789ab", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
    "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "0x7f3a5c2e9b10", "1-5759e988-bd862e3fe1be",
    "12345678901234567890", "4006381333931", "20260102030405", "000000000000000000042",
    # names in AWS
    "arn:aws:lambda:eu-west-1:123456789012:function:OrdersHandler:42",
    "arn:aws:s3:::My-Bucket-2026/Exports/Q1.csv", "arn:aws:sqs:eu-west-1:123456789012:Orders-DLQ",
    "s3://my-bucket/Exports/2026/Q1-Report.csv",
    "https://sqs.eu-west-1.amazonaws.com/123456789012/Orders-Queue",
    "https://my-bucket.s3.eu-west-1.amazonaws.com/Exports/Q1-Report.csv",
    # user agents and versions
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "leanbase-python/3.0.0", "Boto3/1.34.131", "python-requests/2.32.3", "Amazon-CloudFront/2.1",
    # sentences and lists
    "The author of task 42 used 80% of the disk.", "Order #4711 could not be paid: no money left!",
    "a, b; c (d) [e] {f} <g> 'h'", "SELECT id, total FROM orders WHERE total > 100 ORDER BY id",
    # names
    "task_id", "disk_usage", "author", "risk_score", "compass_heading", "DataFrameGroupBy.aggregate",
    "shop.orders.Checkout_View2", "std::vector::push_back_V2", "OrderCreatedEvent", "MAX_RETRIES_EXCEEDED_2",
    # numbers that are not those of payment cards
    "4111 1111 1111 1112", "order 4000-1234-5678", "1700000000000", "9780306406157", "4012 8888", "+1 415 555 2671 4000",
    # words that are not authentication schemes
    "basic plan is off", "a bearer of good news", "Basic plan", "basic_plan_v2",
    # other things
    "2026-01-02T03:04:05.678901+00:00", "Thu, 01 Jan 2026 00:00:00 GMT", "192.168.100.200:8080",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334", "user@example.com", "+49 170 1234567", "#ff8800", "en-US,en;q=0.9",
    "http://localhost:8000/orders/7?page=2#top", "eu-west-1", "text/html; charset=utf-8", "application/json",
]  # fmt: skip


def test_the_corpora_have_sixty_secrets_and_forty_harmless_strings() -> None:
    assert len(set(SECRETS)) >= 60
    assert len(set(HARMLESS)) >= 40


@dataclasses.dataclass
class Settings:
    endpoint: str
    limits: dict[str, Any]


class Slots:
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held


Pair = namedtuple("Pair", ["left", "right"])


def objects_with(string: str) -> dict[str, Any]:
    """Return variables that hold the string in every kind of object of the standard library."""
    return {
        "plain": string,
        "in_a_dict": {"a": {"b": [1, {"c": string}]}},
        "as_a_key": {string: 1},
        "in_a_tuple": (1, (string,)),
        "in_a_set": {string},
        "in_a_deque": deque([string]),
        "in_a_namedtuple": Pair(1, string),
        "in_a_dataclass": Settings(string, {"nested": [string]}),
        "in_an_object": SimpleNamespace(a=1, held=[string]),
        "in_slots": Slots({"held": string}),
        "in_bytes": string.encode(),
        "in_an_exception": ValueError(string, {"held": string}),
        "in_a_closure": (lambda: string),
        "in_a_mapping_proxy": type("T", (), {"held": string}).__dict__,
        "in_an_iterator": iter([string]),
        "in_a_view": {string: string}.values(),
    }


def models_with(string: str) -> dict[str, Any]:
    """Return variables that hold the string in pydantic models and attrs classes."""
    pydantic = pytest.importorskip("pydantic")
    attrs = pytest.importorskip("attrs")
    model = pydantic.create_model("Model", endpoint=(str, ...), nested=(dict[str, Any], ...))
    frozen = attrs.make_class("Frozen", ["held"], frozen=True, slots=True)
    return {
        "pydantic": model(endpoint=string, nested={"a": [string]}),
        "in_a_list_of_models": [model(endpoint=string, nested={})],
        "pydantic_secret": pydantic.SecretStr(string),
        "attrs": frozen(string),
    }


def request_bodies(
    server: FaultServer, make: Callable[..., Leanbase], variables: dict[str, Any], **options: Any
) -> str:
    """Capture one exception for each variable, which its frame has, and return the bodies of all requests."""
    for name, value in variables.items():
        try:
            fail_with(name, value)
        except ValueError as error:
            client = make(server, gzip=False, capture_exception_code_variables=True, **options)
            client.capture_exception(error)
    bodies = b"\n".join(request.raw for request in server.requests).decode()
    server.requests.clear()
    return bodies


def fail_with(name: str, value: Any) -> None:
    raise ValueError(name)


def is_readable(secret: str, body: str) -> bool:
    """Return whether the secret, or its first half, is in a body in any spelling of JSON and `repr`."""
    spellings = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(json.dumps(secret))[3:-3]}
    parts = {part for spelling in spellings for part in (spelling, spelling[: max(8, len(spelling) // 2)])}
    return any(part in body for part in parts)


@pytest.mark.rule("V-12")
@pytest.mark.parametrize("name", [*KNOWN, *OPAQUE])
def test_secrets_in_variables_are_not_readable(
    name: str, server: FaultServer, make: Callable[..., Leanbase]
) -> None:
    secret = {**KNOWN, **OPAQUE}[name]
    bodies = request_bodies(server, make, objects_with(secret))
    assert "in_a_dataclass" in bodies
    assert "code_variables" in bodies
    assert not is_readable(secret, bodies)


@pytest.mark.rule("V-12")
@pytest.mark.parametrize("name", ["openai", "jwt", "pem rsa", "random token"])
def test_secrets_in_models_are_not_readable(
    name: str, server: FaultServer, make: Callable[..., Leanbase]
) -> None:
    secret = {**KNOWN, **OPAQUE}[name]
    assert not is_readable(secret, request_bodies(server, make, models_with(secret)))


@pytest.mark.rule("V-11")
@pytest.mark.parametrize("name", IN_URLS)
def test_passwords_in_urls_are_not_readable(
    name: str, server: FaultServer, make: Callable[..., Leanbase]
) -> None:
    url, secret = IN_URLS[name]
    bodies = request_bodies(server, make, objects_with(url.format(secret)))
    assert not is_readable(secret, bodies)
    assert url.partition("@")[2] in bodies


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_values_of_secret_environment_variables_are_not_readable(
    name: str, server: FaultServer, make: Callable[..., Leanbase], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = IN_ENVIRONMENT[name]
    monkeypatch.setenv(name, secret)
    variables = objects_with(f"the value is {secret}, see?")
    # The other protections are off, and the default patterns are replaced.
    options = {"code_variables_mask_patterns": ["^own$"], "code_variables_detect_secrets": False}
    bodies = request_bodies(server, make, variables, **options)
    assert "the value is $$" in bodies
    assert not is_readable(secret, bodies)


@pytest.mark.rule("V-11", "V-12")
@pytest.mark.parametrize("name", [*KNOWN, *IN_URLS, *IN_ENVIRONMENT])
def test_secrets_in_messages_are_not_readable(
    name: str, server: FaultServer, make: Callable[..., Leanbase], monkeypatch: pytest.MonkeyPatch
) -> None:
    string = secret = {**KNOWN, **IN_ENVIRONMENT}.get(name, "")
    if name in IN_URLS:
        url, secret = IN_URLS[name]
        string = url.format(secret)
    if name in IN_ENVIRONMENT:
        monkeypatch.setenv(name, secret)
    client = make(server, gzip=False)
    error = raised(ValueError(f"could not use {string} for it"))
    error.__cause__ = KeyError(string)
    client.capture_exception(error)
    client.capture_exception(f"could not use {string} for it")
    bodies = b"".join(request.raw for request in server.requests).decode()
    assert bodies.count("could not use ") >= 2
    assert bodies.count(" for it") >= 2
    assert not is_readable(secret, bodies)


@pytest.mark.parametrize(
    "spell",
    [json.dumps, lambda v: json.dumps(v, ensure_ascii=False), urllib.parse.quote, urllib.parse.quote_plus, repr,
     lambda v: repr(v.encode()), lambda v: repr(v + "'\""), lambda v: urllib.parse.quote(v, safe="")],
    ids=["json", "json unicode", "url", "url plus", "repr", "repr of bytes", "repr with quotes", "url with slashes"],
)  # fmt: skip
def test_secrets_of_the_environment_are_redacted_in_every_spelling(
    spell: Callable[[str], str], server: FaultServer, make: Callable[..., Leanbase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    secret = "pa'ss w\u00f6rd/1234\\x\"y"
    monkeypatch.setenv("APP_SECRET", secret)
    make(server, gzip=False).capture_exception(f"cannot use {spell(secret)} here")
    message = server.events[0]["properties"]["$exception_message"]
    assert "1234" not in message
    assert message.endswith(" here")


@pytest.mark.rule("V-6", "V-12")
def test_secrets_in_urls_and_headers_of_a_message_are_redacted(
    server: FaultServer, make: Callable[..., Leanbase]
) -> None:
    """HTTP clients put the URL into the messages of their exceptions, and some put the headers there too."""
    client = make(server)
    cases = {
        "GET https://h/v1?api_key=hunter2&page=2#top failed": "GET https://h/v1?api_key={}&page=2#top failed",
        "for url: /x?access-token=hunter2 (401)": "for url: /x?access-token={} (401)",
        "https://h/x?X-Amz-Security-Token=hunter2&X-Amz-Date=1": "https://h/x?X-Amz-Security-Token={}&X-Amz-Date=1",
        "Authorization: Bearer abcdef1234567890 refused": "Authorization: {} refused",
        "Bearer authentication failed": "Bearer authentication failed",
        "is it ? a & b = c": "is it ? a & b = c",
    }
    for message in cases:
        client.capture_exception(message)
    messages = [event["properties"]["$exception_message"] for event in server.events]
    assert messages == [expected.format(REDACTED) for expected in cases.values()]


def test_short_or_harmless_values_of_environment_variables_are_not_redacted(
    server: FaultServer, make: Callable[..., Leanbase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "short12")
    monkeypatch.setenv("APP_REGION", "north-by-northwest")
    make(server, gzip=False).capture_exception("short12 in north-by-northwest")
    assert server.events[0]["properties"]["$exception_message"] == "short12 in north-by-northwest"


@pytest.mark.rule("V-12")
@pytest.mark.parametrize("string", HARMLESS)
def test_harmless_strings_stay_readable(
    string: str, server: FaultServer, make: Callable[..., Leanbase]
) -> None:
    client = make(server, capture_exception_code_variables=True)
    variables = objects_with(string)
    for name in ("plain", "in_a_dict", "in_a_dataclass", "in_a_tuple", "as_a_key", "in_bytes"):
        try:
            fail_with(name, variables[name])
        except ValueError as error:
            client.capture_exception(error)
    client.capture_exception(f"about {string} here")
    *in_variables, in_message = [event["properties"] for event in server.events]
    for properties in in_variables:
        value = properties["$exception_list"][0]["stacktrace"]["frames"][-1]["code_variables"]["value"]
        assert value == string or json.dumps(string, ensure_ascii=False)[1:-1] in value
        assert "redacted" not in value
    assert in_message["$exception_message"] == f"about {string} here"


@pytest.mark.rule("M-10")
@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("page=2&token=abc&x=1", f"page=2&token={REDACTED}&x=1"),
        ("TOKEN=abc", f"TOKEN={REDACTED}"),
        ("api%5Fkey=abc", f"api%5Fkey={REDACTED}"),
        ("a=1;token=abc", f"a=1;token={REDACTED}"),
        ("next=%2Freset%3Ftoken%3Dabc", f"next={REDACTED}"),
        ("next=%2Forders%3Fpage%3D2", "next=%2Forders%3Fpage%3D2"),
        ("db=https://u:pw@h/", f"db=https://{REDACTED}@h/"),
        ("token", "token"),
        ("author=jo&task_id=7", "author=jo&task_id=7"),
    ],
)
def test_secrets_in_the_query_of_a_url_are_redacted_and_the_rest_stays(query: str, shown: str) -> None:
    assert redacted_url(f"https://example.com/a?{query}") == f"https://example.com/a?{shown}"


@pytest.mark.rule("V-11", "V-12")
@pytest.mark.parametrize(
    "message",
    [
        "https://bucket.s3.amazonaws.com/a?X-Amz-Signature={}&X-Amz-Date=1",
        "https://account.blob.core.windows.net/a?sv=1&sig={}",
        "https://app.example.com/done#access_token={}&state=1",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={}==;EndpointSuffix=x",
        "Endpoint=sb://x/;SharedAccessKeyName=a;SharedAccessKey={}=",
        "postgres://shop:pa/{}@db:5432/shop",
        "postgres://shop:pa#{}@db:5432/shop",
        "https://example.com/?session={}",
        "https://example.com/?pin={}",
        "https://example.com/?csrf_token={}",
    ],
)
def test_secrets_in_the_middle_of_a_message_are_redacted(
    message: str, client: Leanbase, memory: MemoryTransport
) -> None:
    secret = mixed(24)
    client.capture_exception(RuntimeError(message.format(secret)))
    shown = memory.events[0]["properties"]["$exception_message"]
    assert secret not in shown
    assert REDACTED in shown
    before = message.partition("{}")[0].removesuffix("pa/").removesuffix("pa#").removesuffix("shop:")
    assert shown.startswith(before)


@pytest.mark.parametrize("offset", range(6))
def test_a_secret_of_the_environment_is_redacted_in_base64(
    offset: int, client: Leanbase, memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = chars(ascii_lowercase, 20)
    monkeypatch.setenv("DATABASE_PASSWORD", f" {secret}\n")
    encoded = base64.b64encode(f"{'x' * offset}{secret}:{'y' * offset}".encode()).decode()
    client.capture_exception(RuntimeError(f"cannot log in with {encoded}, {quote_lower(secret)}"))
    message = memory.events[0]["properties"]["$exception_message"]
    assert message.startswith("cannot log in with ")
    shown = message.removeprefix("cannot log in with ").partition(",")[0].replace(REDACTED, "")
    assert len(shown) < len(encoded) / 2
    assert secret not in message


def quote_lower(string: str) -> str:
    return urllib.parse.quote(f"{string} /").lower()


@pytest.mark.rule("V-6", "V-11")
def test_messages_of_log_records_and_mappings_are_redacted(client: Leanbase, memory: MemoryTransport) -> None:
    secret = mixed(12)
    url = f"https://bob:{secret}@db.example/x?token={secret}"
    log = logging.Logger("shop")
    log.addHandler(LeanbaseHandler(client=client))
    try:
        raise RuntimeError("no connection")
    except RuntimeError:
        log.exception("cannot connect to %s", url)
    log.error("no route to %s", url)
    client.capture_exception({"message": f"cannot connect to {url}"})
    client.capture_exception(f"cannot connect to {url}")
    assert len(memory.events) == 4
    assert secret not in json.dumps([event["properties"] for event in memory.events])


@pytest.mark.rule("V-8")
def test_coroutines_and_generators_are_shown_by_their_names(
    client_with_variables: Leanbase, memory: MemoryTransport
) -> None:
    def view() -> None:
        async def load() -> str:
            return "a literal of the code"

        async def stream() -> Any:
            yield 1

        coroutine, generator, asynchronous = load(), (number for number in range(3)), stream()  # noqa: F841
        try:
            raise ValueError
        finally:
            coroutine.close()

    try:
        view()
    except ValueError as error:
        client_with_variables.capture_exception(error)
    frames = memory.events[0]["properties"]["$exception_list"][0]["stacktrace"]["frames"]
    variables = frames[-1]["code_variables"]
    assert variables["coroutine"].startswith("<coroutine ")
    assert variables["coroutine"].endswith("view.<locals>.load>")
    assert variables["generator"].startswith("<generator ")
    assert variables["asynchronous"].startswith("<async_generator ")


@pytest.fixture
def client_with_variables(memory: MemoryTransport) -> Leanbase:
    return Leanbase("k", transport=memory, capture_exception_code_variables=True, project_root="/")


def test_redaction_leaves_nothing_for_the_garbage_collector() -> None:
    """It remembers strings of the application, and there is one for each exception."""
    gc.collect()
    gc.disable()
    try:
        redaction = Redaction(
            matcher(DEFAULT_MASK_PATTERNS), matcher(()), mask_url_credentials=True, detect_secrets=True
        )
        assert redaction.value("password") == REDACTED
        assert redaction.key("password") == "password"
        assert redaction.message("of an order") == "of an order"
        alive = weakref.ref(redaction)
        del redaction
        assert alive() is None
    finally:
        gc.enable()
