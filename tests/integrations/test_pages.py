"""The first code block of each page about a framework works unchanged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import run_program
from tests.support.web_servers import ROOT, application, gunicorn, uvicorn

PAGES = ["asgi", "celery", "django", "flask", "web-applications", "wsgi"]


def code_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_is_valid_python(page: str) -> None:
    for block in code_blocks(page):
        body = block.replace("\n", "\n    ")  # some blocks use `await` outside of a function
        compile(f"async def page():\n    {body}", page, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["asgi", "flask", "wsgi"])
def test_the_first_code_block_of_a_page_delivers_an_event(page: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code_blocks(page)[0])
    command = uvicorn("app:app") if page == "asgi" else gunicorn("app:app", "--threads", "4")
    with application(command, cwd=tmp_path) as shop:
        assert shop.server.get("/orders/7").status == 200
        shop.server.stop()
        (event,) = shop.local.store.events()
    assert event["event"] in ("order viewed", "page viewed")
    assert event["properties"]["$request_path"] == "/orders/7"


@pytest.mark.slow
def test_the_first_code_blocks_about_django_deliver_an_event(tmp_path: Path) -> None:
    settings, views, *_ = code_blocks("django")
    (tmp_path / "page_settings.py").write_text(settings)
    (tmp_path / "page_views.py").write_text(views)
    command = gunicorn("tests.integrations.programs.django_page:app")
    with application(command, cwd=tmp_path) as shop:
        assert shop.server.get("/orders/7").status == 200
        shop.server.stop()
        (event,) = shop.local.store.events()
    assert event["properties"]["$request_route"] == "/orders/<int:number>"


@pytest.mark.slow
def test_the_first_code_block_about_celery_captures_an_event(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(code_blocks("celery")[0])
    environment: dict[str, Any] = {"LEANBASE_API_KEY": "k", "LEANBASE_HOST": "http://127.0.0.1:9"}
    program = "tests.integrations.programs.celery_page"
    done = run_program(program, PYTHONPATH=f"{tmp_path}:{ROOT}", **environment)
    assert done.returncode == 0, done.stderr
