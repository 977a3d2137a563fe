"""The publisher: the relay, invoked by a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from leanbase.errors import ConfigError
from leanbase.feature_flags import SourceError
from leanbase.feature_flags.sources.s3 import S3Source
from leanbase.relay import definitions, handler
from leanbase.testing import LambdaContext
from leanbase.transports.deadline import Deadline
from tests.feature_flags.conftest import FlagServer, flag, flags
from tests.support.moto_server import CREDENTIALS, MotoServer

__all__ = ["flags"]

SCHEDULED = {"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}

pytestmark = pytest.mark.slow


@pytest.fixture
def place(flags: FlagServer, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    bucket = f"flags-{uuid4().hex}"
    where = {"LocationConstraint": "eu-west-1"}
    moto.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration=where)
    environment = {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": moto.url,
        "LEANBASE_HOST": flags.url,
        "LEANBASE_API_KEY": "phc_test",
        "LEANBASE_SECRET_KEY": "phs_secret",
        "LEANBASE_FLAG_DEFINITIONS": f"s3://{bucket}/flags.json",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    new_process()
    yield f"//{bucket}/flags.json"
    new_process()


def new_process() -> None:
    definitions._latest = None
    for store in definitions._stores.values():
        store.close()
    definitions._stores.clear()


def invoke() -> Any:
    return handler(SCHEDULED, LambdaContext(10.0))


def published(place: str) -> list[str]:
    source = S3Source(place)
    found = list(source.load(None, deadline=Deadline.after(5)) or ())
    source.close()
    return found


def test_it_writes_what_has_changed(flags: FlagServer, place: str) -> None:
    assert invoke() == {"flags": 1, "written": True}
    assert published(place) == ["beta"]
    flags.serve_definitions(status=304, respond=None, body=b"")
    assert invoke() == {"flags": 1, "written": False}
    new_process()
    assert invoke() == {"flags": 1, "written": False}, "the ETag is in the object"
    assert flags.to("/flags")[-1].headers["if-none-match"] == '"v1"'
    flags.definitions, flags.etag = {"flags": [flag("new")]}, '"v2"'
    flags.serve_definitions()
    assert invoke() == {"flags": 1, "written": True}
    assert published(place) == ["new"]


@pytest.mark.parametrize("behaviour", [{"status": 500}, {"status": 401}, {"instead": "reset"}])
def test_a_failure_raises_so_that_the_schedule_sees_it(
    behaviour: dict[str, Any], flags: FlagServer, place: str
) -> None:
    invoke()
    flags.serve_definitions(**behaviour)
    with pytest.raises(SourceError):
        invoke()
    assert published(place) == ["beta"], "what is there stays"


@pytest.mark.parametrize("where", ["file:flags.json", "api", "s3://a/b,s3://c/d"])
def test_it_needs_one_place_to_write_to(where: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEANBASE_FLAG_DEFINITIONS", where)
    with pytest.raises(ConfigError, match="one place to write to"):
        invoke()


def test_it_needs_the_secret_key(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEANBASE_SECRET_KEY")
    with pytest.raises(ConfigError, match="secret_key are needed"):
        invoke()
