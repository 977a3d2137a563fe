"""What wraps a program's work: in a context, and in a scope whose events are delivered before it ends."""

from leanbase.handlers.aws_lambda import lambda_handler
from leanbase.handlers.job import job
from leanbase.handlers.lambda_records import record_scope
from leanbase.handlers.termination import install_sigterm_handler

__all__ = ["install_sigterm_handler", "job", "lambda_handler", "record_scope"]
