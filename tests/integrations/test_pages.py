"""The first lines of each page about a framework work as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.web_servers import ROOT, application, gunicorn, uvicorn

PAGES = ["asgi", "celery", "django", "flask", "web-applications", "wsgi"]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_all_code_is_python(page: str) -> None:
    for block in blocks(page):
        body = block.replace("\n", "\n    ")
        compile(f"async def page():\n    {body}", page, "exec")


@pytest.mark.parametrize(
    ("page", "path"), [("asgi", "/orders/7"), ("flask", "/orders/7"), ("wsgi", "/orders/7")]
)
def test_the_first_lines_of_a_page_deliver(page: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(blocks(page)[0])
    command = uvicorn("app:app") if page == "asgi" else gunicorn("app:app", "--threads", "4")
    with application(command, cwd=tmp_path) as shop:
        assert shop.server.get(path).status == 200
        shop.server.stop()
        (event,) = shop.local.store.events()
    assert event["event"] in ("order viewed", "page viewed")
    assert event["properties"]["$request_path"] == path


@pytest.mark.slow
def test_the_first_lines_about_django_deliver(tmp_path: Path) -> None:
    settings, views, *_ = blocks("django")
    (tmp_path / "project.py").write_text(
        f"""
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path
{settings}
settings.configure(
    ALLOWED_HOSTS=["*"], MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=__name__, SECRET_KEY="x" * 50,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
)
django.setup()
from views import order
urlpatterns = [path("orders/<int:number>", order)]
app = get_wsgi_application()
"""
    )
    (tmp_path / "views.py").write_text(views)
    with application(gunicorn("project:app"), cwd=tmp_path) as shop:
        assert shop.server.get("/orders/7").status == 200
        shop.server.stop()
        (event,) = shop.local.store.events()
    assert event["properties"]["$request_route"] == "/orders/<int:number>"


@pytest.mark.slow
def test_the_first_lines_about_celery_capture(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(blocks("celery")[0])
    program = """
import leanbase
from leanbase.transports import MemoryTransport
memory = leanbase.transport = MemoryTransport()
from app import ship
ship.apply(args=[7])
(event,) = memory.events
assert event["event"] == "order shipped", event
assert event["properties"]["celery.task_name"] == "app.ship", event
"""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "LEANBASE_API_KEY": "k",
        "LEANBASE_HOST": "http://127.0.0.1:9",
    }
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
