"""What tests of code that uses Leanbase need.

Installed with the package is a pytest plugin: under pytest no client sends anything, unless it is asked to,
and the fixture `leanbase_events` has what was captured.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .captured import CapturedEvents
    from .lambda_simulator import FunctionError, LambdaContext, LambdaSimulator
    from .transport_contract import TransportContract

__all__ = ["CapturedEvents", "FunctionError", "LambdaContext", "LambdaSimulator", "TransportContract"]

_MODULES = {
    "CapturedEvents": "captured",
    "FunctionError": "lambda_simulator",
    "LambdaContext": "lambda_simulator",
    "LambdaSimulator": "lambda_simulator",
    "TransportContract": "transport_contract",
}


def _lazily(name: str) -> Any:
    """Import a name when it is asked for: pytest loads the plugin of everybody who has the package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


if not TYPE_CHECKING:  # checkers see the real names, and catch typos
    __getattr__ = _lazily
