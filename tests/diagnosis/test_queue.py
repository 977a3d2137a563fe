"""`leanbase doctor` and a queue, with moto in the place of AWS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.diagnosis.conftest import Set, failed
from tests.support.moto_server import CREDENTIALS, MotoServer


@pytest.mark.slow
def test_16_the_queue_and_its_credentials(set: Set, doctor: Any, moto: MotoServer) -> None:
    set(transport="sqs", api_key=None, queue_url=moto.queue(), **CREDENTIALS)
    code, steps = doctor("--send")
    assert (code, [step["status"] for step in steps.values()]) == (0, ["ok"] * 4)
    assert steps["send"]["found"] == "the event 'leanbase doctor' was handed off"
    set(queue_url=f"{moto.url}/123456789012/missing")
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["queue"])
    assert "there is no such queue" in steps["queue"]["found"]
    set(queue_url="arn:aws:sqs:eu-west-1:123456789012:events")
    assert "that is an ARN" in doctor()[1]["queue"]["found"]
    set(queue_url=None)
    assert doctor()[1]["settings"]["found"] == "queue_url is not set"


@pytest.mark.slow
def test_17_no_credentials(set: Set, doctor: Any, tmp_path: Path) -> None:
    set(transport="sqs", queue_url="https://sqs.eu-west-1.amazonaws.com/123456789012/events")
    set(
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=tmp_path / "no",
        AWS_SHARED_CREDENTIALS_FILE=tmp_path / "no",
    )
    code, steps = doctor()
    assert (code, failed(steps)) == (1, ["credentials"])
    assert "AWS_ACCESS_KEY_ID" in steps["credentials"]["advice"]
