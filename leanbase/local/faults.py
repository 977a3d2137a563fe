"""The faults that the local server simulates: refusals, error statuses and delays."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import ConfigError

MAX_DELAY_SECONDS = 600.0

REFUSALS: Mapping[str, tuple[int, str]] = {
    "invalid-key": (401, "API key invalid"),
    "malformed": (400, "the batch is malformed"),
    "too-large": (413, "the body is too large"),
    "rate-limit": (429, "too many requests"),
    "quota": (200, ""),
}
"""The choices of `--reject`: the status of the response, and its error."""


@dataclass(frozen=True)
class Faults:
    """The simulated faults. A batch that gets a simulated response is not stored.

    Attributes:
        status: The status of every response to a batch; 0 for the real status.
        delay: Seconds before each response to a batch. Events are stored before the delay.
        reject: A key of `REFUSALS`, or `""`.
        reject_key: An API key to refuse, or `""`. The page does not show it.
    """

    status: int = 0
    delay: float = 0.0
    reject: str = ""
    reject_key: str = ""

    def check(self) -> Faults:
        """Return these faults if they are valid.

        Raises:
            ConfigError: A value is not valid.
        """
        if self.status and not 200 <= self.status <= 599:
            raise ConfigError(f"status must be from 200 to 599, not {self.status}")
        if not 0 <= self.delay <= MAX_DELAY_SECONDS:
            raise ConfigError(f"delay must be from 0 to {MAX_DELAY_SECONDS:g} seconds, not {self.delay:g}")
        if self.reject and self.reject not in REFUSALS:
            raise ConfigError(f"reject must be one of {', '.join(REFUSALS)}, not {self.reject!r}")
        return self

    def shown(self) -> dict[str, Any]:
        """Return the faults for the page, without the key."""
        return {name: value for name, value in asdict(self).items() if name != "reject_key"}

    def changed(self, given: object) -> Faults:
        """Return the faults with the changes that the page requests.

        Raises:
            ConfigError: A change is not valid.
        """
        kinds = {"status": int, "delay": (int, float), "reject": str}
        if not isinstance(given, dict):
            raise ConfigError("faults must be an object")
        for name, value in given.items():
            if name not in kinds or isinstance(value, bool) or not isinstance(value, kinds[name]):  # type: ignore[arg-type]
                raise ConfigError(f"{name} is not a fault, or has the wrong type")
        return replace(self, **given).check()

    def answer(self, api_key: object) -> tuple[int, dict[str, str], dict[str, Any]] | None:
        """Return the simulated status, headers and body for a batch, or `None` for the real response."""
        if self.reject_key and api_key == self.reject_key:
            return _refusal("invalid-key")
        if self.reject:
            return _refusal(self.reject)
        if self.status:
            ok = 200 <= self.status < 300
            return self.status, {}, {"status": 1} if ok else {"status": 0, "error": "simulated by --status"}
        return None


def _refusal(kind: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, error = REFUSALS[kind]
    headers = {"Retry-After": "1"} if status == 429 else {}
    body = {"status": 0, "error": error} if error else {"status": 1, "quota_limited": ["events"]}
    return status, headers, body


class CurrentFaults:
    """The current faults. The page changes them while requests are served."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults.check()
        self._lock = threading.Lock()

    @property
    def faults(self) -> Faults:
        return self._faults

    def change(self, body: bytes) -> Faults:
        """Change the faults as the JSON body says. Raises as `Faults.changed`, or a ValueError."""
        with self._lock:
            self._faults = self._faults.changed(json.loads(body))
            return self._faults
