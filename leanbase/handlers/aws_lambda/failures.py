"""The uuid and the properties of an event about the failure of one invocation.

The function itself may report a failure (a timeout that comes near, a result that cannot be sent). The relay
may report the same failure, from the platform's log lines. Both use this module, so that it is one event.
"""

from __future__ import annotations

import os

from ...events.idempotency import derived_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

REQUEST_PROPERTIES = ("$context_tags", "$groups", "$process_person_profile", "$session_id")
"""The properties that a failure takes from the request's other events, besides their tags."""


PERSONLESS_EVENTS = ("$create_alias", "$groupidentify")
"""Events whose distinct id may not be that of the request's person."""


def failure_uuid(account: str, log_group: str, log_stream: str, request_id: str) -> str:
    """Return the uuid of the event about the failure of a request."""
    return derived_uuid(f"{account}/{log_group}/{log_stream}/{request_id}")


def own_failure_uuid(context: Any) -> str | None:
    """Return `failure_uuid` for an invocation of this function, or `None` outside Lambda."""
    try:
        account = context.invoked_function_arn.split(":")[4]
        group, stream = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"], os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        return failure_uuid(account, group, stream, context.aws_request_id)
    except Exception:
        return None  # a test calls the handler with another context


def request_properties(captured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties that a failure takes from another event of the same request."""
    properties = captured["properties"]
    tags = properties.get("$context_tags")
    names = [*REQUEST_PROPERTIES, *(tags if isinstance(tags, list) else [])]
    return {name: properties[name] for name in names if isinstance(name, str) and name in properties}
