"""Integrations with other libraries and the standard library. Import each by its module name."""
