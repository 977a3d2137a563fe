"""The platforms that run a process: how they end or freeze it, and what they say about it.

A platform is known by an environment variable that it sets. Tags have OpenTelemetry's names where it has one.
"""

from __future__ import annotations

import os

from ..events.contexts import get_tags, tag_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Platform:
    """One platform.

    Args:
        variable: The environment variable by which it is known.
        grace: Seconds from SIGTERM to SIGKILL.
        freezes: Whether it may freeze a process as soon as its response is sent.
        is_abrupt: Whether it kills a process before a web server can finish its requests.
        tags: The tags of every event of a job, task or request. Maps a tag's name to the variable that holds
            its value.
        provider: The tag `cloud.provider`.
    """

    def __init__(
        self,
        variable: str,
        *,
        grace: float,
        freezes: bool,
        is_abrupt: bool = False,
        tags: Mapping[str, str] | None = None,
        provider: str | None = None,
    ) -> None:
        self.variable = variable
        self.grace = grace
        self.freezes = freezes
        self.is_abrupt = is_abrupt
        self._tags = tags or {}
        self._provider = provider

    def tags(self) -> dict[str, str]:
        """Return the tags whose variables are set."""
        found = {tag: os.environ.get(variable, "") for tag, variable in self._tags.items()}
        found["cloud.provider"] = self._provider or ""
        return {tag: value for tag, value in found.items() if value}


PLATFORMS = (
    Platform(  # before Lambda, on which it runs functions
        "VERCEL",
        grace=0.5,
        freezes=True,
        is_abrupt=True,
        tags={
            "cloud.region": "VERCEL_REGION",
            "deployment.environment.name": "VERCEL_ENV",
            "service.version": "VERCEL_GIT_COMMIT_SHA",
        },
    ),
    # Lambda waits 500 ms with an internal extension, and 300 ms for the runtime with an external one. Each
    # invocation has tags of its own.
    Platform("AWS_LAMBDA_FUNCTION_NAME", grace=0.3, freezes=True),
    Platform(  # Cloud Run services, and Cloud Functions, which are such services
        "K_SERVICE",
        grace=10.0,
        freezes=True,
        tags={"faas.name": "K_SERVICE", "faas.version": "K_REVISION"},  # also on a Knative of one's own
    ),
    Platform("FUNCTION_TARGET", grace=10.0, freezes=True),
    Platform(
        "CLOUD_RUN_JOB",
        grace=10.0,
        freezes=False,
        tags={
            "faas.name": "CLOUD_RUN_JOB",
            "gcp.cloud_run.job.execution": "CLOUD_RUN_EXECUTION",
            "gcp.cloud_run.job.task_index": "CLOUD_RUN_TASK_INDEX",
        },
        provider="gcp",
    ),
    Platform(
        "RENDER",
        grace=30.0,
        freezes=False,
        tags={
            "render.service.name": "RENDER_SERVICE_NAME",
            "render.service.type": "RENDER_SERVICE_TYPE",
            "render.instance.id": "RENDER_INSTANCE_ID",
            "render.git.commit": "RENDER_GIT_COMMIT",
            "service.version": "RENDER_GIT_COMMIT",
        },
    ),
)

ELSEWHERE = Platform("", grace=10.0, freezes=False)
"""A server or container of one's own. The grace period is that of `docker stop`, the shortest usual one."""


def tag_platform() -> None:
    """Add the tags of the platform to the active context. Tags that are set there or around it win."""
    if tags := current_platform().tags():
        present = get_tags()
        tag_all({name: value for name, value in tags.items() if name not in present})


def current_platform() -> Platform:
    """Return the platform that runs this process."""
    return next((each for each in PLATFORMS if each.variable in os.environ), ELSEWHERE)
