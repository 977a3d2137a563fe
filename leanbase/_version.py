"""The one place that names the version."""

__version__ = "3.0.0"
