"""Helpers for tests of code that uses Leanbase.

The package installs a pytest plugin. Under pytest, no client sends unless the test or the configuration
allows it. The fixture `leanbase_events` holds the captured events, and `leanbase_flags` sets feature flags.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .captured import CapturedEvents
    from .flag_overrides import FlagOverrides
    from .lambda_simulator import FunctionError, LambdaContext, LambdaSimulator
    from .recording import capture_events
    from .source_contract import SourceContract
    from .transport_contract import TransportContract

__all__ = [
    "CapturedEvents",
    "FlagOverrides",
    "FunctionError",
    "LambdaContext",
    "LambdaSimulator",
    "SourceContract",
    "TransportContract",
    "capture_events",
]

_MODULES = {
    "CapturedEvents": "captured",
    "FlagOverrides": "flag_overrides",
    "FunctionError": "lambda_simulator",
    "LambdaContext": "lambda_simulator",
    "LambdaSimulator": "lambda_simulator",
    "SourceContract": "source_contract",
    "TransportContract": "transport_contract",
    "capture_events": "recording",
}


def _lazily(name: str) -> Any:
    """Import a name at its first use, because pytest loads this package in every project that installs it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:  # type checkers see the real names, and catch typos
    __getattr__ = _lazily
