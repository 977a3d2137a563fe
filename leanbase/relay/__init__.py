"""The Lambda function that delivers what others handed to a queue or a log: `leanbase.relay.handler`.

Its key, host and options are those of its own environment. A Powertools application: install
`leanbase[relay]`.
"""

from ..errors import MissingDependencyError

try:
    from .application import handler
except ImportError as error:
    raise MissingDependencyError(__name__, package="aws_lambda_powertools", extra="relay") from error

__all__ = ["handler"]
