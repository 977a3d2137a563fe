"""Requests the decrypted payload of a flag from the server, with the secret key."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..delivery.scope import send_deadline
from ..errors import TransportError
from .http import JSON_HEADERS, HttpClient, TooLargeError, decoded

if TYPE_CHECKING:
    from ..settings import Settings

logger = logging.getLogger("leanbase")


def payload_of(settings: Settings, key: str) -> Any:
    """Return the decoded payload, or `None` if there is none or the request failed.

    Blocks until the deadline of the open scope, at most `flags_timeout` seconds.
    """
    if not settings.secret_key:
        logger.warning("get_remote_config_payload() returns None: secret_key is not set")
        return None
    path = f"/api/projects/@current/feature_flags/{quote(key, safe='')}/remote_config"
    url = f"{settings.host}{path}?token={quote(settings.api_key or '', safe='')}"
    headers = {**JSON_HEADERS, "Authorization": f"Bearer {settings.secret_key}"}
    http = HttpClient()
    try:
        deadline = send_deadline(settings.flags_timeout)
        response = http.request("GET", url, None, headers, deadline=deadline)
        if response.status != 200:
            logger.warning("the payload of flag %r could not be read: %d", key, response.status)
            return None
        found = decoded(response)
        return json.loads(found) if isinstance(found, str) else found
    except (TransportError, TooLargeError, ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, TransportError) else type(error).__name__
        logger.warning("the payload of flag %r could not be read: %s", key, what)
        return None
    finally:
        http.close()
