"""Decorators and handlers that wrap a program's work in a context and a delivery scope."""

from .aws_lambda.decorator import lambda_handler
from .aws_lambda.records import record_context
from .job import job
from .sigterm import install_sigterm_handler

__all__ = ["install_sigterm_handler", "job", "lambda_handler", "record_context"]
