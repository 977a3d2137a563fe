"""A Celery application on a broker of files."""
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

import leanbase
from leanbase.integrations.celery import install
from tests.integrations.apps import configure

configure()
FOLDER = Path(os.environ["CELERY_FOLDER"])

app = Celery("tasks", broker="filesystem://")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.05,  # the default of 1 s is the time that each message waits
    },
    result_backend=f"file://{FOLDER / 'results'}",
    task_always_eager=bool(os.environ.get("EAGER")),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_lost_wait=1,  # the default is 10 s
)
install(app)


class Expected(Exception):
    pass


@app.task
def order(number: int) -> int:
    leanbase.tag("number", number)
    leanbase.capture("order worked on", properties={"pid": os.getpid()})
    return number


@app.task
def fails() -> None:
    leanbase.tag("step", "payment")
    raise ValueError("no money left")


@app.task(bind=True, max_retries=2)
def retries(self: Any) -> str:
    leanbase.capture("tried", properties={"retries": self.request.retries})
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return "done"


@app.task
def ignored() -> None:
    raise Ignore


@app.task
def rejected() -> None:
    raise Reject("no", requeue=False)


@app.task(throws=(Expected,))
def expected() -> None:
    raise Expected


@app.task(time_limit=1)
def too_slow() -> None:
    leanbase.capture("began")
    time.sleep(30)


@app.task
def dies() -> None:
    os.kill(os.getpid(), 9)


@app.task
def calls_another() -> None:
    leanbase.tag("outer", True)
    order.delay(99)
