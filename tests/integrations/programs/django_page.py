"""A Django project with the settings and the view of docs/django.md, which a test has written to two modules."""

from __future__ import annotations

import importlib

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=importlib.import_module("page_settings").MIDDLEWARE,
    ROOT_URLCONF=__name__,
    SECRET_KEY="x" * 50,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
)
django.setup()
urlpatterns = [path("orders/<int:number>", importlib.import_module("page_views").order)]
app = get_wsgi_application()
