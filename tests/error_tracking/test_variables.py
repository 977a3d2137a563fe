"""The variables of frames: which are shown, how they are written, and what is redacted or left out.

`variables` makes a function with the given local variables and lets it raise. A client sends the exception to a server,
and `variables` returns what the server received of them.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import gc
import itertools
import json
import time
import types
import urllib.parse
import uuid
import weakref
from pathlib import Path
from typing import Any

import pytest

from leanbase.redaction import REDACTED, TOO_LONG
from tests.error_tracking.conftest import ROOT, RoundTrip, raised
from tests.error_tracking.exception_format import frames
from tests.error_tracking.exceptions import HostileStr


def variables(round_trip: RoundTrip, _options: Any = None, /, **local: Any) -> Any:
    """Capture an exception of a function with these local variables, and return those that its frame shows."""
    names = ", ".join(local)
    namespace: dict[str, Any] = {"__name__": "own"}
    source = f"def fail({names}):\n    raise ValueError\n"
    exec(compile(source, str(ROOT / "own.py"), "exec"), namespace)
    with pytest.raises(ValueError) as caught:
        namespace["fail"](**local)
    properties = round_trip.capture(caught.value, capture_exception_code_variables=True, **(_options or {}))
    return frames(properties)[-1].get("code_variables")


@pytest.mark.rule("V-1")
def test_variables_share_10_kib_from_the_crash_site_outwards(round_trip: RoundTrip) -> None:
    def deep(level: int, string: str) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1, string)

    assert "code_variables" not in frames(round_trip.capture(raised(ValueError())))[-1]
    with pytest.raises(ValueError) as caught:
        deep(30, "a word " * 100)
    shown = frames(round_trip.capture(caught.value, capture_exception_code_variables=True))
    with_variables = [frame["code_variables"] for frame in shown if "code_variables" in frame]
    rendered = sum(len(str(value)) for each in with_variables for value in each.values())
    assert 9 * 1024 < rendered <= 10 * 1024
    assert [each["level"] for each in reversed(with_variables)][:14] == list(range(14))
    assert "code_variables" not in shown[1]


@pytest.mark.rule("V-1")
def test_only_frames_that_are_in_app_have_variables(round_trip: RoundTrip) -> None:
    with pytest.raises(ValueError) as caught:
        json.loads("not json")
    for frame in frames(round_trip.capture(caught.value, capture_exception_code_variables=True)):
        assert ("code_variables" in frame) == frame["in_app"]


@pytest.mark.rule("V-2")
def test_scalars_come_first_and_both_parts_are_sorted_by_name(round_trip: RoundTrip) -> None:
    shown = variables(round_trip, b=[1], a={}, z=1, y="s", x=None, w=True, v=1.5)
    assert list(shown) == ["v", "w", "x", "y", "z", "a", "b"]


@pytest.mark.rule("V-3")
def test_ignored_names_are_left_out_and_masked_values_are_not_read(round_trip: RoundTrip) -> None:
    class FailsIfRead:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("was read")

    assert variables(round_trip, __hidden=1, password=FailsIfRead(), visible=1) == {
        "visible": 1,
        "password": REDACTED,
    }
    options = {"code_variables_ignore_patterns": ["^skip"], "code_variables_mask_patterns": ["^mine$"]}
    shown = variables(round_trip, options, skip_me=1, mine=1, password="now visible")
    assert shown == {"mine": REDACTED, "password": "now visible"}


@pytest.mark.rule("V-4")
def test_numbers_stay_numbers_and_other_values_become_strings_of_1024_characters(
    round_trip: RoundTrip,
) -> None:
    shown = variables(
        round_trip,
        none=None, true=True, false=False, one=1, half=0.5, nan=float("nan"), inf=float("-inf"),
        string="string", huge=2**70, list_=[1, None, True, "x"], long="y z " * 500,
    )  # fmt: skip
    assert shown["none"] == "None"
    assert (shown["true"], shown["false"]) == ("True", "False")
    assert (shown["one"], shown["half"]) == (1, 0.5)
    assert (shown["nan"], shown["inf"]) == ("nan", "-inf")
    assert shown["string"] == "string"
    assert shown["huge"] == str(2**70)
    assert shown["list_"] == '[1, null, true, "x"]'
    assert len(shown["long"]) == 1024
    assert shown["long"].endswith("...")


@pytest.mark.rule("V-5")
def test_patterns_are_searched_in_names_and_broken_patterns_are_skipped(round_trip: RoundTrip) -> None:
    options = {"code_variables_mask_patterns": ["(", "(?i)CARD", r"^pin\d$"]}
    shown = variables(round_trip, options, my_card=1, pin1=1, pins=1)
    assert shown == {"my_card": REDACTED, "pin1": REDACTED, "pins": 1}


MASKED = [
    "password", "user_password", "PASSWORD", "secret", "client_secret", "passwd", "pwd", "api_key", "apikey",
    "auth", "auth_header", "authorization", "authentication", "authenticated", "oauth", "credentials",
    "privatekey", "private_key", "token", "access_token", "aws_access_key_id", "db_pass", "sk_live", "x1sk_",
    "jwt", "connection_string", "connectionstring", "conn_str", "connstr", "dsn", "sentry_dsn",
]  # fmt: skip
UNMASKED = ["task_id", "disk_usage", "author", "authors", "risk_level", "compass", "order", "user_id", "skin"]


@pytest.mark.rule("V-6")
def test_the_default_patterns_mask_names_of_secrets_and_no_others(round_trip: RoundTrip) -> None:
    shown = variables(round_trip, **dict.fromkeys(MASKED, 7), **dict.fromkeys(UNMASKED, 7))
    assert {name for name, value in shown.items() if value == REDACTED} == set(MASKED)
    assert {name for name, value in shown.items() if value == 7} == set(UNMASKED)


@dataclasses.dataclass
class Account:
    user: str
    password: str


class Slotted:
    __slots__ = ("token", "unset", "visible")

    def __init__(self) -> None:
        self.token = "hunter2"
        self.visible = 1


Login = collections.namedtuple("Login", ["user", "pwd"])


@pytest.mark.rule("V-7")
def test_patterns_apply_to_values_keys_and_fields_at_any_depth(round_trip: RoundTrip) -> None:
    shown = variables(
        round_trip,
        string="password=hunter2",
        nested={"a": [{"api_key": "hunter2", "user": "jo"}]},
        account=Account("jo", "hunter2"),
        login=Login("jo", "hunter2"),
        slotted=Slotted(),
        deep=[{"b": Account("jo", "hunter2")}],
    )
    assert shown["string"] == REDACTED
    assert json.loads(shown["nested"]) == {"a": [{"api_key": REDACTED, "user": "jo"}]}
    assert json.loads(shown["login"]) == {"user": "jo", "pwd": REDACTED}
    assert json.loads(shown["slotted"]) == {
        "__class__": f"{__name__}.Slotted", "token": REDACTED, "visible": 1,
    }  # fmt: skip
    assert "hunter2" not in str(shown)


@pytest.mark.rule("V-8")
def test_objects_are_shown_by_their_attributes_and_properties_are_not_evaluated(
    round_trip: RoundTrip,
) -> None:
    class Order:
        token_store = "class attribute"

        def __init__(self) -> None:
            self.number = 7

        @property
        def password(self) -> str:
            raise AssertionError("was evaluated")

        @property
        def total(self) -> int:
            raise AssertionError("was evaluated")

        def __repr__(self) -> str:
            raise AssertionError("was called")

    shown = variables(round_trip, order=Order(), account=Account("jo", "hunter2"))
    order = json.loads(shown["order"])
    assert order.pop("__class__").endswith("<locals>.Order")
    assert order == {"number": 7, "password": REDACTED, "token_store": REDACTED}
    assert json.loads(shown["account"])["__class__"] == f"{__name__}.Account"


@pytest.mark.rule("V-8")
def test_dates_paths_and_other_simple_objects_are_shown_by_their_repr(round_trip: RoundTrip) -> None:

    class BrokenRepr(dt.date):
        def __repr__(self) -> str:
            raise RuntimeError

    class ReprWithPassword(dt.date):
        def __repr__(self) -> str:
            return "ReprWithPassword(password=hunter2)"

    class LongRepr(dt.date):
        def __repr__(self) -> str:
            return "x" * 5000

    number = uuid.UUID(int=7)
    shown = variables(
        round_trip, day=dt.date(2026, 1, 2), broken=BrokenRepr(2026, 1, 2), leaking=ReprWithPassword(2026, 1, 2),
        long=LongRepr(2026, 1, 2), number=number, path=Path("/srv/shop"), cls=Account, module=json,
        data=b"bytes", raw=b"\xff", error=KeyError("k"),
    )  # fmt: skip
    assert shown["day"] == "datetime.date(2026, 1, 2)"
    assert shown["broken"].endswith("BrokenRepr>")
    assert shown["leaking"] == shown["long"] == REDACTED
    assert str(number) in shown["number"]
    assert "/srv/shop" in shown["path"]
    assert shown["cls"] == f"<class {__name__}.Account>"
    assert shown["module"] == "<module json>"
    assert (shown["data"], shown["raw"]) == ("bytes", "b'\\xff'")
    assert json.loads(shown["error"]) == {"__class__": "KeyError", "args": ["k"]}


@pytest.mark.rule("V-9")
def test_values_beyond_a_bound_are_replaced_by_a_constant(round_trip: RoundTrip) -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    deep: list[Any] = ["bottom"]
    for _ in range(20):
        deep = [deep]
    shown = variables(
        round_trip,
        string="a b" * 700,
        entries=list(range(51)),
        keys={str(n): n for n in range(51)},
        long_key={"k " * 1100: 1},
        nodes=[[0] * 40] * 40,
        deep=deep,
        cycle=cycle,
        fifty=list(range(50)),
    )
    assert shown["string"] == TOO_LONG
    assert shown["entries"] == shown["keys"] == shown["nodes"] == TOO_LONG
    assert shown["long_key"] == json.dumps({TOO_LONG: TOO_LONG})
    assert shown["deep"] == "[" * 12 + json.dumps(TOO_LONG) + "]" * 12
    assert shown["cycle"] == '[1, "<circular ref>"]'
    assert shown["fifty"] == json.dumps(list(range(50)))


@pytest.mark.rule("V-10")
def test_the_constants_for_redacted_and_too_long_values_are_fixed(round_trip: RoundTrip) -> None:
    shown = variables(round_trip, password=1, long="a b" * 700)
    assert shown["password"] == "$$_leanbase_redacted_based_on_masking_rules_$$"
    assert shown["long"] == "$$_leanbase_value_too_long_$$"


@pytest.mark.rule("V-11")
def test_credentials_in_urls_are_redacted_and_the_rest_stays(round_trip: RoundTrip) -> None:
    cases = {
        "postgres://jo:hunter2@db:5432/shop": f"postgres://{REDACTED}@db:5432/shop",
        "redis://:hunter2@cache/0": f"redis://{REDACTED}@cache/0",
        "two a://u:p@h and b+c://u:p@h/x": f"two a://{REDACTED}@h and b+c://{REDACTED}@h/x",
        "https://u:p@ss@h/": f"https://{REDACTED}@h/",
        "ssh://git@github.com/x": "ssh://git@github.com/x",
        "http://localhost:8000/a@b": "http://localhost:8000/a@b",
        "mailto:jo@example.com": "mailto:jo@example.com",
        "host:80 at jo@h": "host:80 at jo@h",
    }
    shown = variables(round_trip, **{f"v{n}": url for n, url in enumerate(cases)})
    assert [shown[f"v{n}"] for n in range(len(cases))] == list(cases.values())
    off = variables(round_trip, {"code_variables_mask_url_credentials": False}, url="a://u:p@h")
    assert off == {"url": "a://u:p@h"}
    started = time.process_time()
    variables(
        # Strings with which a careless regular expression takes minutes.
        round_trip,
        text="a" * 2000,
        urls="://" * 600,
        ats="://" + "@" * 2000,
        colons="://" + ":" * 2000,
    )
    assert time.process_time() - started < 5


@pytest.mark.rule("V-12")
def test_a_string_that_looks_like_a_secret_is_redacted_unless_detection_is_off(round_trip: RoundTrip) -> None:
    secret = "".join(["Kx9", "fQ2z_", "Lm7R-", "pT4wV"])
    assert variables(round_trip, opaque=secret) == {"opaque": REDACTED}
    off = variables(round_trip, {"code_variables_detect_secrets": False}, opaque=secret)
    assert off == {"opaque": secret}


@pytest.mark.rule("V-13")
def test_a_variable_whose_methods_fail_costs_neither_the_event_nor_other_variables(
    round_trip: RoundTrip,
) -> None:
    class Hostile(dict[str, Any]):
        def __len__(self) -> int:
            raise RuntimeError

        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError

        def __class_getitem__(cls, item: Any) -> Any:
            raise RuntimeError

    class HostileMeta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError

    class WithHostileMeta(metaclass=HostileMeta):
        pass

    shown = variables(round_trip, hostile=Hostile(a=1), meta=WithHostileMeta(), fine=1)
    assert shown["fine"] == 1
    assert json.loads(shown["hostile"]) == {"a": 1}


@pytest.mark.rule("V-3", "V-11", "V-12")
def test_options_of_a_context_override_those_of_the_client(round_trip: RoundTrip) -> None:
    client = round_trip.client()

    def capture() -> dict[str, Any]:
        url, mine, skipped, opaque = "a://u:p@h", 1, 1, "Kx9fQ2z_Lm7R-" + "pT4wV"
        client.capture_exception(raised_here(url, mine, skipped, opaque))
        found: dict[str, Any] = frames(round_trip.exceptions()[-1])[-1].get("code_variables", {})
        return found

    assert capture() == {}
    with client.new_context():
        client.set_capture_exception_code_variables_context(True)
        client.set_code_variables_mask_patterns_context(["^mine$"])
        client.set_code_variables_ignore_patterns_context(["^skipped$", "^__"])
        with client.new_context():
            client.set_code_variables_mask_url_credentials_context(False)
            client.set_code_variables_detect_secrets_context(False)
            shown = capture()
            assert shown["url"] == "a://u:p@h"
            assert shown["mine"] == REDACTED
            assert shown["opaque"].startswith("Kx9")
            assert "skipped" not in shown
        assert capture()["opaque"] == REDACTED
        with client.new_context(fresh=True):
            assert capture() == {}


def raised_here(url: str, mine: int, skipped: int, opaque: str) -> Exception:
    try:
        raise ValueError
    except ValueError as error:
        return error


class Setting(str, enum.Enum):
    PASSWORD = "db-password-setting"


class Plain(enum.Enum):
    TOKEN = 1
    COLOR = 2


@pytest.mark.rule("V-7")
def test_patterns_apply_to_keys_of_any_type_and_to_pairs(round_trip: RoundTrip) -> None:
    shown = variables(
        round_trip,
        by_bytes={b"password": "hunter2"},
        by_member={Setting.PASSWORD: "hunter2"},
        by_plain_member={Plain.TOKEN: "hunter2", Plain.COLOR: "red"},
        by_subclass={HostileStr("password"): "hunter2"},
        by_tuple={("password", 1): "hunter2"},
        pairs=[("Authorization", "hunter2"), (b"authorization", b"hunter2"), ("host", "example.com")],
        items={"password": "hunter2", "user": "jo"}.items(),
        command=["mysql", "--password", "hunter2", "--user", "jo"],
        headers={"X-Api-Key": "hunter2", "private-key": "hunter2"},
        netloc=urllib.parse.urlsplit("postgres://jo:hunter2@db/x"),
        fine={1: "one", None: "none", 2.5: "half", (1, 2): "both"},
    )
    assert "hunter2" not in str(shown)
    assert json.loads(shown["by_bytes"]) == {"password": REDACTED}
    assert json.loads(shown["by_plain_member"]) == {"Plain.TOKEN": REDACTED, "Plain.COLOR": "red"}
    assert json.loads(shown["pairs"])[2] == ["host", "example.com"]
    assert json.loads(shown["command"]) == ["mysql", REDACTED, REDACTED, "--user", "jo"]
    assert json.loads(shown["netloc"])["netloc"] == f"{REDACTED}@db"
    assert json.loads(shown["fine"]) == {"1": "one", "None": "none", "2.5": "half", "(1, 2)": "both"}


@pytest.mark.rule("V-8")
def test_showing_variables_does_not_run_code_of_the_application(round_trip: RoundTrip) -> None:
    ran: list[str] = []

    class Recording:
        def __repr__(self) -> str:
            ran.append("repr")
            return "recording"

        @property
        def __class__(self) -> Any:
            ran.append("__class__")
            return int

        @__class__.setter
        def __class__(self, value: object) -> None: ...

    class RecordingBytes(bytes):
        def __len__(self) -> int:
            ran.append("len")
            return 1

        def __bytes__(self) -> bytes:
            ran.append("bytes")
            return b""

    class RecordingMeta(type):
        def __eq__(cls, other: object) -> bool:
            ran.append("eq")
            return True

        def __hash__(cls) -> int:
            ran.append("hash")
            return 1

    class OfRecordingMeta(metaclass=RecordingMeta):
        attribute_token = Recording()

    recording = Recording()
    shown = variables(
        round_trip, proxy=types.MappingProxyType({"k": recording}), values={"k": recording}.values(), part=slice(recording),
        repeated=itertools.repeat(recording), partial=functools.partial(print, recording), data=RecordingBytes(b"data"),
        of_meta=OfRecordingMeta(), method=recording.__repr__, member=Plain.COLOR, plain=object(),
    )  # fmt: skip
    assert ran == []
    assert shown["proxy"] == "<mappingproxy>"
    assert shown["values"] == "<dict_values>"
    assert shown["data"] == "data"
    assert shown["member"] == "Plain.COLOR"
    assert shown["plain"].startswith("<object object at ")


@pytest.mark.rule("V-5")
def test_invalid_patterns_add_the_default_patterns_to_the_valid_ones(round_trip: RoundTrip) -> None:
    for patterns in (42, {"a": 1}, ["["], [None], "["):
        options = {"code_variables_mask_patterns": patterns}
        assert variables(round_trip, options, password="hunter2") == {"password": REDACTED}, patterns
    assert variables(round_trip, {"code_variables_mask_patterns": []}, password="shown") == {
        "password": "shown"
    }
    # Nobody knows what the broken pattern was to hide, so the default patterns apply too.
    half_broken = {"code_variables_mask_patterns": ["(", "card"]}
    shown = variables(round_trip, half_broken, password="hunter2", card="4711", amount="9")
    assert shown == {"amount": "9", "card": REDACTED, "password": REDACTED}
    client = round_trip.client(capture_exception_code_variables=True, code_variables_mask_patterns=["^mine$"])
    with client.new_context():
        client.set_code_variables_mask_patterns_context(each for each in ["x"])  # type: ignore[arg-type]
        client.capture_exception(raised_here("u", 1, 1, "o"))
    assert frames(round_trip.exceptions()[-1])[-1]["code_variables"]["mine"] == REDACTED


def test_paths_in_environment_variables_with_secret_names_are_not_redacted(
    round_trip: RoundTrip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PWD", "/srv/shop/current")
    monkeypatch.setenv("DB_PASSWORD_FILE", "/run/secrets/password-of-db")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent.4711/socket")
    for path in ("/srv/shop/current/x", "/tmp/agent.4711/socket"):
        assert round_trip.capture(f"no file {path} here")["$exception_message"] == f"no file {path} here"


@pytest.mark.rule("V-9")
def test_the_work_for_the_variables_of_one_event_is_bounded(round_trip: RoundTrip) -> None:
    class Counted(str):
        def __new__(cls) -> Counted:
            return str.__new__(cls, "words " * 300)

    def deep(level: int, values: list[Any]) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1, values)

    with pytest.raises(ValueError) as caught:
        deep(60, [[Counted() for _ in range(40)] for _ in range(40)])
    shown = frames(round_trip.capture(caught.value, capture_exception_code_variables=True))
    assert 1 <= sum("code_variables" in frame for frame in shown) < 10
    assert variables(round_trip, huge=dict.fromkeys(range(1_000_000))) == {"huge": TOO_LONG}


@pytest.mark.rule("V-13")
@pytest.mark.untraced
def test_capturing_does_not_keep_variables_alive_or_change_locals(round_trip: RoundTrip) -> None:
    class Big:
        pass

    def work() -> weakref.ref[Big]:
        big = Big()
        try:
            raise ValueError
        except ValueError as error:
            client.capture_exception(error)
        reference = weakref.ref(big)
        del big
        return reference if reference() is None else pytest.fail("still alive")

    def keeps_its_own_locals() -> dict[str, Any]:
        number = 7
        before = locals()
        try:
            raise ValueError
        except ValueError as error:
            client.capture_exception(error)
        return before

    client = round_trip.client(capture_exception_code_variables=True)
    gc.disable()  # a reference cycle would keep the object alive only until the next collection
    try:
        assert work()() is None
    finally:
        gc.enable()
    assert keeps_its_own_locals()["number"] == 7
