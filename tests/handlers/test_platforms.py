"""The tags of jobs, requests and tasks on each platform, and which platforms freeze a process."""

from __future__ import annotations

from typing import Any

import pytest

import leanbase
from leanbase.handlers.platforms import PLATFORMS, current_platform
from leanbase.integrations.wsgi import LeanbaseMiddleware
from leanbase.transports import MemoryTransport

RENDER = {
    "RENDER": "true",
    "RENDER_SERVICE_NAME": "shop-worker",
    "RENDER_SERVICE_TYPE": "background_worker",
    "RENDER_INSTANCE_ID": "srv-c1-abcde",
    "RENDER_GIT_COMMIT": "0a1b2c3d",
}
RENDER_TAGS = {
    "render.service.name": "shop-worker",
    "render.service.type": "background_worker",
    "render.instance.id": "srv-c1-abcde",
    "render.git.commit": "0a1b2c3d",
    "service.version": "0a1b2c3d",
}
CASES = [
    (RENDER, RENDER_TAGS, False),
    ({"RENDER": "true", "RENDER_GIT_COMMIT": ""}, {}, False),
    (
        {"K_SERVICE": "orders", "K_REVISION": "orders-00007"},
        {"faas.name": "orders", "faas.version": "orders-00007"},
        True,
    ),
    (
        {"CLOUD_RUN_JOB": "import", "CLOUD_RUN_EXECUTION": "import-x7", "CLOUD_RUN_TASK_INDEX": "0"},
        {
            "faas.name": "import",
            "gcp.cloud_run.job.execution": "import-x7",
            "gcp.cloud_run.job.task_index": "0",
            "cloud.provider": "gcp",
        },
        False,
    ),
    (
        {"VERCEL": "1", "VERCEL_REGION": "fra1", "VERCEL_ENV": "preview", "VERCEL_GIT_COMMIT_SHA": "0a1b"},
        {"cloud.region": "fra1", "deployment.environment.name": "preview", "service.version": "0a1b"},
        True,
    ),
    ({}, {}, False),
]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    for platform in PLATFORMS:
        monkeypatch.delenv(platform.variable, raising=False)
    leanbase.api_key, leanbase.transport = "phc_test", (transport := MemoryTransport())
    return transport


def application(environ: Any, start_response: Any) -> list[bytes]:
    leanbase.capture("in the request")
    return []


def request(app: LeanbaseMiddleware) -> None:
    list(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None))


@pytest.mark.rule("P-1")
@pytest.mark.parametrize(("variables", "tags", "freezes"), CASES, ids=lambda case: "")
def test_jobs_and_requests_carry_the_tags_of_the_platform(
    memory: MemoryTransport,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    tags: dict[str, str],
    freezes: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    @leanbase.job
    def job() -> dict[str, Any]:
        leanbase.capture("in the job")
        return leanbase.get_tags()

    assert job() == tags
    request(LeanbaseMiddleware(application, flush="before_response"))
    for event in memory.events:
        assert tags.items() <= event["properties"].items()
        assert set(tags) <= set(event["properties"]["$context_tags"])
    assert len(memory.events) == 2
    assert current_platform().freezes is freezes


@pytest.mark.rule("P-1")
def test_a_request_inside_a_job_keeps_the_tags_of_the_job(
    memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RENDER.items():
        monkeypatch.setenv(name, value)

    @leanbase.job
    def job() -> None:
        leanbase.tag("service.version", "3.1")
        request(LeanbaseMiddleware(application))

    job()
    (event,) = memory.events
    assert event["properties"]["service.version"] == "3.1"
    assert event["properties"]["render.service.name"] == "shop-worker"


@pytest.mark.rule("P-1")
def test_the_applications_own_version_wins(memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RENDER.items():
        monkeypatch.setenv(name, value)
    leanbase.super_properties = {"service.version": "3.1"}

    @leanbase.job
    def job() -> None:
        leanbase.capture("super property")
        leanbase.tag("render.service.name", "the shop")
        leanbase.capture("tag")

    job()
    assert [event["properties"]["service.version"] for event in memory.events] == ["3.1", "3.1"]
    assert [event["properties"]["render.service.name"] for event in memory.events] == [
        "shop-worker",
        "the shop",
    ]


def test_a_filter_of_tags_sees_the_tags_of_the_platform(
    memory: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in RENDER.items():
        monkeypatch.setenv(name, value)

    def tag_map(tags: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in tags.items() if not name.startswith("render.")}

    request(LeanbaseMiddleware(application, flush="before_response", tag_map=tag_map))
    (event,) = memory.events
    assert event["properties"]["service.version"] == "0a1b2c3d"
    assert not any(name.startswith("render.") for name in event["properties"])
