"""Functions without a decorator, which `leanbase.auto.handler` runs."""
