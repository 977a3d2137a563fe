"""What the package calls things: once, in one place, and never itself."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import leanbase
from leanbase.settings import Settings, option_names
from leanbase.transports.receipt import DROPPED_REASONS, OUTCOMES, RETAINED_REASONS
from scripts import delivery_page

PACKAGE = Path(leanbase.__file__).parent

FLAGS = {
    *("evaluate_flags", "feature_enabled", "feature_flag_definitions", "get_all_flags"),
    *("get_all_flags_and_payloads", "get_feature_flag", "get_feature_flag_payload"),
    *("get_feature_flag_result", "get_remote_config_payload", "is_feature_enabled", "load_feature_flags"),
    *("reset_group_properties_for_flags", "reset_person_properties_for_flags"),
    *("set_group_properties_for_flags", "set_person_properties_for_flags"),
}
PUBLIC = {
    "leanbase": {
        *FLAGS,
        *("Client", "Leanbase", "Receipt", "__version__", "alias", "capture", "capture_exception"),
        *("delivery_scope", "doctor", "flush", "get_context_device_id", "get_context_distinct_id"),
        *("get_context_session_id", "get_distinct_id", "get_tags", "group_identify", "identify"),
        *("identify_context", "install_sigterm_handler", "is_opted_out", "job", "lambda_handler"),
        *("new_context", "opt_in", "opt_out", "record_context", "scoped", "set"),
        *("set_capture_exception_code_variables_context", "set_code_variables_detect_secrets_context"),
        *("set_code_variables_ignore_patterns_context", "set_code_variables_mask_patterns_context"),
        *("set_code_variables_mask_url_credentials_context", "set_context_device_id"),
        *("set_context_session", "set_once", "setup", "shutdown", "stats", "tag"),
    },
    "leanbase.transports": {
        *("BaseTransport", "BufferedTransport", "Deadline", "EncodedEvent", "FallbackTransport"),
        *("HttpTransport", "LogTransport", "MemoryTransport", "Receipt", "SpoolTransport"),
        *("SqsTransport", "Undelivered"),
    },
    "leanbase.testing": {
        *("CapturedEvents", "FlagOverrides", "FunctionError", "LambdaContext", "LambdaSimulator"),
        *("SourceContract", "TransportContract", "capture_events"),
    },
    "leanbase.feature_flags": {
        *("Definitions", "DefinitionsSource", "FeatureFlagEvaluations", "FeatureFlagResult"),
        *("SourceError", "UnresolvedFlagReason"),
    },
    "leanbase.relay": {"handler"},
}
CLIENT = {
    *FLAGS,
    *("alias", "before_send", "capture", "capture_exception", "debug", "delivery_scope", "disabled"),
    *("disconnect", "flush", "get_context_device_id", "get_context_distinct_id", "get_context_session_id"),
    *("get_distinct_id", "get_tags", "group_identify", "identify", "identify_context", "is_opted_out"),
    *("new_context", "opt_in", "opt_out", "report_exception", "scoped", "set", "set_once", "shutdown"),
    *("set_capture_exception_code_variables_context", "set_code_variables_detect_secrets_context"),
    *("set_code_variables_ignore_patterns_context", "set_code_variables_mask_patterns_context"),
    *("set_code_variables_mask_url_credentials_context", "set_context_device_id", "set_context_session"),
    *("stats", "tag"),
}
ERRORS = {
    *("ClosedError", "ConfigError", "DroppedError", "EventTooLargeError", "InvalidEventError"),
    *(
        "LeanbaseError",
        "MissingDependencyError",
        "NotDeliveredError",
        "RejectedError",
        "TransportError",
        "UnusableError",
    ),
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_are_these(name: str) -> None:
    """So that nothing becomes public by accident, and nothing public disappears."""
    module = importlib.import_module(name)
    assert set(module.__all__) == PUBLIC[name]
    for each in PUBLIC[name]:
        assert getattr(module, each) is not None


def test_dir_shows_what_is_public_and_the_options() -> None:
    assert set(dir(leanbase)) == PUBLIC["leanbase"] | set(option_names())


def test_the_public_names_of_a_client_are_these() -> None:
    leanbase.Leanbase("k", transport="memory")
    names = {name for name in dir(leanbase.Leanbase) if not name.startswith("_")}
    assert names == CLIENT | set(option_names())


@pytest.mark.parametrize("module", ["__init__.py", "client.py"])
def test_type_checkers_know_each_option(module: str) -> None:
    """On the module and on a client, with the type that it has in the settings."""
    types = {field.name: field.type for field in dataclasses.fields(Settings)}
    tree = ast.parse((PACKAGE / module).read_text())
    declared = {
        node.target.id: ast.unparse(node.annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in types
    }
    own = {"before_send", "debug", "disabled"} if module == "client.py" else set()
    assert {**declared, **{name: types[name] for name in own}} == types


def test_the_errors_are_the_drawn_tree() -> None:
    from leanbase import errors

    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert found == ERRORS
    assert errors.__doc__
    for name in ERRORS:
        assert name in errors.__doc__
        assert issubclass(getattr(errors, name), errors.LeanbaseError)


def test_the_signature_shows_each_option_with_type_and_default() -> None:
    parameters = inspect.signature(leanbase.Leanbase).parameters
    assert list(parameters) == option_names()
    assert parameters["flush_at"].default == Settings.flush_at == 100
    assert parameters["flush_at"].annotation == "int"
    assert parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["host"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


@pytest.mark.slow
def test_the_package_does_not_spell_its_own_name() -> None:
    """It is distributed under two."""
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.level or (node.module or "").partition(".")[0] != "leanbase", name
            elif isinstance(node, ast.Import):
                assert all(each.name.partition(".")[0] != "leanbase" for each in node.names), name


def reasons() -> Iterator[tuple[str, str]]:
    """The reasons that the source gives to receipts and errors, with where it does."""
    position = {"retaining": 1, "dropping": 1, "drop": 0, "DroppedError": 0}
    for name, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            if called in position and len(node.args) > position[called]:
                given.append(node.args[position[called]])
            for value in given:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value, f"{name}:{node.lineno}"


@pytest.mark.slow
def test_every_reason_stands_in_the_list() -> None:
    found = list(reasons())
    assert len(found) > 15
    known = {*DROPPED_REASONS, *RETAINED_REASONS}
    assert [each for each in found if each[0] not in known] == []


def test_the_tables_of_the_page_are_the_lists() -> None:
    """`python -m scripts.delivery_page` writes them."""
    assert delivery_page.PAGE.read_text() == delivery_page.page()
    assert set(OUTCOMES) == {"delivered", "handed_off", "spooled", "retained", "dropped"}


def test_what_is_subclassed_of_urllib3_is_there() -> None:
    """Internals of it; pyproject.toml allows one major version."""
    import queue

    import urllib3.connection
    import urllib3.connectionpool

    pool = urllib3.connectionpool.HTTPConnectionPool
    for name in ("_get_conn", "_put_conn", "_prepare_proxy", "urlopen", "close"):
        assert callable(getattr(pool, name)), name
    for name in ("get", "put", "qsize"):  # all that it asks of a queue
        assert callable(getattr(pool.QueueCls, name)), name
    assert issubclass(pool.QueueCls, queue.LifoQueue)
    assert issubclass(pool.ConnectionCls, urllib3.connection.HTTPConnection)
    for name in ("_new_conn", "is_connected", "is_closed", "connect", "request"):
        assert hasattr(urllib3.connection.HTTPConnection, name), name
    connection = urllib3.connection.HTTPConnection("127.0.0.1")
    assert connection._dns_host == "127.0.0.1"
    assert isinstance(connection.socket_options, list)
    manager = urllib3.PoolManager()
    assert set(manager.pool_classes_by_scheme) == {"http", "https"}
