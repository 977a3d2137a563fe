"""A diagnosis: its steps, each with a finding and advice."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, ParamSpec

P = ParamSpec("P")

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Step:
    """One step on the way of an event.

    Attributes:
        name: The name of the step, such as `"tls"`.
        status: `"ok"`; `"failed"` if events do not arrive because of this step; `"warning"` if something else
            is wrong.
        found: The finding, in words. It never contains a key.
        advice: What to do, or `""`.
        seconds: The duration of the step.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Diagnosis:
    """The steps of a diagnosis, in order. It is true if no step failed.

    A step that depends on a failed step is left out. `str()` returns a table for people.
    """

    steps: tuple[Step, ...]

    def __bool__(self) -> bool:
        return all(step.status != "failed" for step in self.steps)

    def __str__(self) -> str:
        return "\n".join(line for step in self.steps for line in lines(step))

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values that can be written as JSON."""
        return {"ok": bool(self), "steps": [asdict(step) for step in self.steps]}


def lines(step: Step) -> list[str]:
    """Return a step as one line, or as two lines with advice."""
    took = f"{step.seconds * 1000:,.0f} ms" if step.seconds >= 0.0005 else ""
    shown = [f"{step.status:<8} {step.name:<12} {took:>9}  {step.found}"]
    if step.advice:
        shown.append(f"{'':<8} {'':<12} {'':>9}  -> {step.advice}")
    return shown


def timed(name: str) -> Callable[[Callable[P, Step]], Callable[P, Step]]:
    """Add the duration to a step. An exception in the check itself becomes a failed step."""

    def decorate(function: Callable[P, Step]) -> Callable[P, Step]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Step:
            started = time.perf_counter()
            try:
                step = function(*args, **kwargs)
            except Exception as error:
                step = Step(name, "failed", f"the check itself failed with {type(error).__name__}")
            return replace(step, seconds=time.perf_counter() - started)

        return wrapper

    return decorate
