"""The relay: a Lambda function that delivers events from a queue or a log. Its handler is `handler`.

It reads its API key, host and options from its own environment. It needs Powertools: install
`leanbase[relay]`.
"""

from ..errors import MissingDependencyError

try:
    from .application import handler
except ImportError as error:
    raise MissingDependencyError(__name__, package="aws_lambda_powertools", extra="relay") from error

__all__ = ["handler"]
