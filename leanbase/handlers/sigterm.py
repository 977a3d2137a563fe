"""The public function that handles SIGTERM. `termination` does the work."""

from __future__ import annotations

import logging

from ..client import Leanbase
from ..default import default_client
from ..messages import log_internal_error

logger = logging.getLogger("leanbase")


def install_sigterm_handler(client: Leanbase | None = None) -> bool:
    """Send pending events when the process receives SIGTERM, before it ends.

    `lambda_handler` and `job` do this by themselves. Call this function in other programs on Render, Cloud
    Run, Vercel or in a container. Call it in the main thread, after every other SIGTERM handler is
    installed: the previous handler runs after the send. (The handler of an asyncio event loop runs at once,
    and the end of the process waits for the send.)

    The send takes at most 80 % of the time from SIGTERM to SIGKILL. Set the option `sigterm_grace` to that
    time in seconds. Default: the platform's usual time: Lambda 0.3 s, Vercel 0.5 s, Cloud Run 10 s, Render
    30 s, elsewhere 10 s. Events that are not delivered in time go to the fallback or the spool. Without
    either, they are lost.

    Args:
        client: The client whose retained and buffered events are sent, besides the events of open delivery
            scopes. Default: the default client. Call this function again to add another client.

    Returns:
        True if the handler is installed. False outside the main thread, or if the current handler was not
        installed from Python. Does not block. Never raises.

    Examples:
        >>> import leanbase
        >>> leanbase.install_sigterm_handler()
        True
    """
    if client is not None and not isinstance(client, Leanbase):
        logger.error(
            "install_sigterm_handler(): client must be a Leanbase, not %s; SIGTERM is not handled",
            type(client).__name__,
        )
        return False
    try:
        from .termination import termination  # imports `signal`, which takes 2 % of `import leanbase`

        installed = termination().install(client or default_client)
        if not installed:
            logger.warning(
                "SIGTERM is not handled: call install_sigterm_handler() in the main thread, and before "
                "code other than Python's installs a handler"
            )
        return installed
    except Exception as error:
        log_internal_error("install_sigterm_handler()", error)
        return False
