"""The platforms that run a process: how they end or freeze it, and the tags that describe it.

An environment variable identifies the platform. Tags have OpenTelemetry's names where these exist.
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
        variable: The environment variable that identifies the platform.
        grace: Seconds from SIGTERM to SIGKILL.
        freezes: Whether the platform may freeze a process as soon as its response is sent.
        is_abrupt: Whether the platform kills a process before a web server can finish its requests.
        tags: The tags of every event of a job, task or request, each with the variable that holds its value.
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
    Platform(  # before Lambda, because Vercel runs functions on Lambda
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
    # From SIGTERM to SIGKILL: 500 ms with an internal extension, 300 ms with an external one. Each invocation
    # sets its own tags.
    Platform("AWS_LAMBDA_FUNCTION_NAME", grace=0.3, freezes=True),
    Platform(  # Cloud Run services, and Cloud Functions, which are such services
        "K_SERVICE",
        grace=10.0,
        freezes=True,
        tags={"faas.name": "K_SERVICE", "faas.version": "K_REVISION"},  # also on a self-hosted Knative
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
"""Any other server or container. The grace period is that of `docker stop`, the shortest common one."""


def tag_platform() -> None:
    """Add the platform's tags to the active context. Tags that it has or inherits are not replaced."""
    if tags := current_platform().tags():
        present = get_tags()
        tag_all({name: value for name, value in tags.items() if name not in present})


def current_platform() -> Platform:
    """Return the platform that runs this process."""
    return next((each for each in PLATFORMS if each.variable in os.environ), ELSEWHERE)
