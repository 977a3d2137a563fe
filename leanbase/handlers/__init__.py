"""Decorators that wrap an invocation in a context and deliver its events before it ends."""

from leanbase.handlers.aws_lambda import lambda_handler
from leanbase.handlers.job import job

__all__ = ["job", "lambda_handler"]
