"""Integrations with other libraries and the standard library. Import each module by its name."""
