"""A WSGI application on Vercel, which shows reports.

Set LEANBASE_API_KEY and LEANBASE_HOST in the project's environment. The events of a request are sent before
its response, because Vercel may freeze the process after it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

import leanbase
from leanbase.integrations.flask import LeanbaseFlask

SALES = {"2026": 1200, "2025": 900}

app = Flask(__name__)
LeanbaseFlask(app)


@app.get("/api/reports/<year>")
def report(year: str) -> dict[str, Any]:
    """Show the sales of a year. An unknown year fails, which is captured."""
    sales = SALES[year]
    leanbase.capture("report opened", properties={"year": year})
    return {"sales": sales}
