"""Where the values of options come from, and what happens to invalid values."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import leanbase
from leanbase import Leanbase
from leanbase.errors import ConfigError
from leanbase.settings import PACKAGE, Settings
from leanbase.transports import MemoryTransport


@pytest.mark.rule("O-1")
def test_keyword_beats_attribute_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.resolve({}).timeout == 10.0
    monkeypatch.setenv("LEANBASE_TIMEOUT", "4")
    assert Settings.resolve({}).timeout == 4.0
    leanbase.timeout = 3.0
    assert Settings.resolve({}).timeout == 3.0
    assert Settings.resolve({"timeout": 2.0}).timeout == 2.0
    assert Settings.resolve({"timeout": None}).timeout == 3.0


def test_a_misspelt_option_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Settings.resolve({})
    assert caplog.text == ""
    monkeypatch.setenv("LEANBASE_TRANSPRT", "sqs")
    monkeypatch.setenv("LEANBASE_BILLING_TABLE", "somebody's own")
    monkeypatch.setattr(leanbase, "api_ky", "phc_secret", raising=False)
    monkeypatch.setattr(leanbase, "unlike_any", 1, raising=False)
    for _ in range(3):
        Settings.resolve({})
    assert [record.getMessage() for record in caplog.records] == [
        "LEANBASE_TRANSPRT is not an option; did you mean LEANBASE_TRANSPORT?",
        f"{PACKAGE}.api_ky is not an option; did you mean {PACKAGE}.api_key?",
    ]


def test_options_of_similar_sdks_on_the_module_are_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("thread", "enable_local_evaluation", "personal_api_key"):
        monkeypatch.setattr(leanbase, name, "phs_secret", raising=False)
    Settings.resolve({})
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"{PACKAGE}.enable_local_evaluation is not an option: leave out secret_key and flag_definitions",
        f"{PACKAGE}.personal_api_key is not an option: the key that reads flag definitions is called secret_key here",
        f"{PACKAGE}.thread is not an option: a buffer has one thread (sync_mode=False)",
    ]


@pytest.mark.rule("O-1")
@pytest.mark.parametrize(
    ("option", "string", "value"),
    [
        ("DISABLED", "yes", True),
        ("DISABLED", "0", False),
        ("GZIP", "off", False),
        ("MAX_RETRIES", "7", 7),
        ("SEND_DEADLINE", "1.5", 1.5),
        ("TRANSPORT", "memory", "memory"),
        ("IN_APP_MODULES", "shop, billing.core,", ("shop", "billing.core")),
        ("PROJECT_ROOT", "/srv/shop", "/srv/shop"),
    ],
)
def test_environment_variables_are_read_as_their_option(
    option: str, string: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LEANBASE_{option}", string)
    assert getattr(Settings.resolve({}), option.lower()) == value


@pytest.mark.rule("O-2")
@pytest.mark.parametrize(
    ("option", "string"), [("DISABLED", "perhaps"), ("TIMEOUT", "soon"), ("ON_ERROR", "print")]
)
def test_invalid_environment_variables_are_ignored_with_a_warning(
    option: str, string: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"LEANBASE_{option}", string)
    assert getattr(Settings.resolve({}), option.lower()) == getattr(Settings(), option.lower())
    assert f"LEANBASE_{option}" in caplog.text


@pytest.mark.rule("O-2")
@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"timeout": -1}, 0.1),
        ({"send_deadline": 0}, 0.1),
        ({"max_retries": -3}, 0),
        ({"flush_at": 0}, 1),
        ({"flush_at": 1.5}, 100),
        ({"timeout": float("inf")}, 86_400.0),
        ({"disabled": "perhaps"}, False),
        ({"max_queue_size": -5}, 1),
        ({"timeout": "soon"}, 10.0),
        ({"timeout": float("nan")}, 10.0),
        ({"max_retries": True}, 3),
        ({"on_error": "print"}, None),
        ({"super_properties": [1]}, None),
        ({"in_app_modules": 7}, None),
        ({"in_app_modules": ["shop", 7, ""]}, ("shop",)),
        ({"exception_autocapture_bucket_size": 101}, 100),
        ({"exception_autocapture_refill_rate": "many"}, 100),
    ],
)
def test_invalid_values_are_replaced_with_a_warning(
    given: dict[str, Any], used: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (name,) = given
    assert getattr(Settings.resolve(given), name) == used
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(("string", "value"), [("false", False), ("no", False), ("True", True), ("on", True)])
def test_keywords_accept_the_same_strings_as_environment_variables(string: Any, value: bool) -> None:
    assert Settings.resolve({"disabled": string}).disabled is value


def test_a_single_pattern_becomes_a_tuple_and_a_path_becomes_a_string() -> None:
    settings = Settings.resolve({"code_variables_mask_patterns": "^card", "project_root": Path("/srv/shop")})
    assert settings.code_variables_mask_patterns == ("^card",)
    assert settings.project_root == "/srv/shop"
    with pytest.raises(ConfigError, match="project_root must be a string, not int"):
        Settings.resolve({"project_root": 7})


@pytest.mark.rule("W-1", "W-6")
def test_host_and_key_are_trimmed() -> None:
    settings = Settings.resolve({"api_key": " phc_x\n", "host": " https://example.com/prefix/ "})
    assert settings.api_key == "phc_x"
    assert settings.host == "https://example.com/prefix"


@pytest.mark.rule("O-3")
def test_project_api_key_is_another_name_of_api_key() -> None:
    assert Settings.resolve({"project_api_key": "phc_x"}).api_key == "phc_x"
    assert Settings.resolve({"project_api_key": "phc_x", "api_key": "phc_y"}).api_key == "phc_x"
    assert Settings.resolve({"project_api_key": " ", "api_key": "phc_y"}).api_key == "phc_y"


@pytest.mark.rule("O-1", "O-3", "G-6")
def test_both_names_of_the_key_have_the_same_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_API_KEY", "phc_environment")
    assert Settings.resolve({"project_api_key": "phc_keyword"}).api_key == "phc_keyword"
    assert Settings.resolve({"api_key": "  ", "project_api_key": None}).api_key == "phc_environment"
    leanbase.project_api_key = "phc_module"
    assert Settings.resolve({}).api_key == Settings.resolve({}).project_api_key == "phc_module"
    assert "phc_module" not in repr(Settings.resolve({}))


@pytest.mark.rule("W-1")
def test_plain_http_is_warned_about_once_except_for_loopback(caplog: pytest.LogCaptureFixture) -> None:
    for host in ("http://127.0.0.1:8000", "http://localhost", "http://[::1]:1", "https://example.com"):
        Settings.resolve({"host": host})
    assert caplog.records == []
    for _ in range(2):
        Settings.resolve({"host": "http://example.com"})
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "unencrypted" in caplog.text


def test_every_option_is_documented() -> None:
    import dataclasses

    for option in dataclasses.fields(Settings):
        assert option.metadata["doc"].endswith("."), option.name


def test_super_properties_are_copied_when_the_client_is_created() -> None:
    properties = {"a": [1]}
    memory = MemoryTransport()
    client = Leanbase("k", transport=memory, super_properties=properties)
    properties["a"].append(2)
    client.capture("e")
    assert memory.events[0]["properties"]["a"] == [1]


@pytest.mark.rule("O-2")
def test_an_invalid_max_queue_bytes_is_replaced_by_a_share_of_the_functions_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
    monkeypatch.setenv("LEANBASE_MAX_QUEUE_BYTES", "much")
    assert Settings.resolve({}).max_queue_bytes == 16 * 1024 * 1024
