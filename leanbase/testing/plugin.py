"""The pytest plugin: no client sends. It has the fixtures `leanbase_events` and `leanbase_flags`.

The marker `leanbase_send` allows one test to send. The setting `leanbase_send = true` allows all tests. If
the package has another module name, the plugin uses that name in place of `leanbase`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .captured import CapturedEvents
    from .flag_overrides import FlagOverrides

PACKAGE = __name__.partition(".")[0]
SEND = f"{PACKAGE}_send"
EVENTS = f"{PACKAGE}_events"
FLAGS = f"{PACKAGE}_flags"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(SEND, "Let Leanbase clients send what tests capture.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{SEND}: let the Leanbase clients that this test makes send")
    if not config.getini(SEND):
        _intercept()


def pytest_unconfigure() -> None:
    from ..delivery import factory
    from ..flag_calls import override_flags

    factory.override_transport(None)
    override_flags(None)


def _intercept() -> None:
    # Imported here, because pytest loads this module in every project that installs the package.
    from ..delivery import factory
    from ..flag_calls import override_flags
    from .flag_overrides import flag_overrides
    from .recording import recorder

    factory.override_transport(recorder)
    override_flags(flag_overrides)


@pytest.fixture(autouse=True, name=f"_{PACKAGE}_sends")
def _leanbase_sends(request: pytest.FixtureRequest) -> Iterator[None]:
    """Allow a test with the marker to send, with a new default client."""
    if request.node.get_closest_marker(SEND) is None or request.config.getini(SEND):
        yield
        return
    from ..default import default_client
    from ..delivery import factory
    from ..flag_calls import override_flags

    default_client.shutdown()
    factory.override_transport(None)
    override_flags(None)
    yield
    default_client.shutdown()
    _intercept()


@pytest.fixture(name=EVENTS)
def leanbase_events(request: pytest.FixtureRequest) -> Iterator[CapturedEvents]:
    """Return the events that all clients captured during the test, in the order in which they were sent."""
    if request.node.get_closest_marker(SEND) is not None or request.config.getini(SEND):
        pytest.fail(f"{EVENTS} is empty because this test sends: the marker or the ini option {SEND} is set")
    from .recording import capture_events

    with capture_events() as events:
        yield events


@pytest.fixture(name=FLAGS)
def leanbase_flags(request: pytest.FixtureRequest) -> Iterator[FlagOverrides]:
    """Return an object that sets the feature flags of all clients. A flag that is not set is missing."""
    if request.node.get_closest_marker(SEND) is not None or request.config.getini(SEND):
        pytest.fail(
            f"{FLAGS} has no effect because this test sends: the marker or the ini option {SEND} is set"
        )
    from .flag_overrides import flag_overrides

    flag_overrides.clear()
    yield flag_overrides
    flag_overrides.clear()
