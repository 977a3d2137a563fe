"""Finds the credentials for AWS requests: in the environment, else through botocore."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from ... import forking
from ...errors import MissingDependencyError, TransportError
from .._http.timed_calls import call_with_timeout
from ..deadline import Deadline
from .sigv4 import Credentials

ACCESS_KEY = "AWS_ACCESS_KEY_ID"
SECRET_KEY = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable
TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105


class CredentialsSource:
    """Finds the current credentials. Call it for each request: AWS renews temporary credentials.

    Args:
        user: The option that needs the credentials, for the message of the error.

    Raises:
        MissingDependencyError: The environment has no credentials, and botocore is not installed.
    """

    def __init__(self, user: str) -> None:
        self._chain: Any = None
        if _of_environment() is None and find_spec("botocore") is None:
            wanted = f"{user} without {ACCESS_KEY} and {SECRET_KEY} in the environment"
            raise MissingDependencyError(wanted, package="botocore", extra="aws")

    @property
    def place(self) -> str:
        """Where the credentials are, in words."""
        return "in the environment" if _of_environment() is not None else "through botocore"

    def current(self, deadline: Deadline) -> Credentials:
        """Return the current credentials. Blocks while botocore requests them, until the deadline.

        Raises:
            TransportError: There are no credentials, or they could not be read in time.
        """
        found = _of_environment()
        if found is not None:
            return found
        try:
            return call_with_timeout(self._of_chain, deadline.remaining(), name="leanbase-credentials")
        except TransportError:
            raise
        except Exception as error:
            what = f"AWS credentials could not be read: {type(error).__name__}"
            raise TransportError(what, mends_soon=False) from error

    def _of_chain(self) -> Credentials:
        if self._chain is None:
            with forking.importing:
                from botocore.session import get_session
            self._chain = get_session().get_credentials()
        if self._chain is None:
            what = "there are no AWS credentials, neither in the environment nor for botocore"
            raise TransportError(what, mends_soon=False)
        found = self._chain.get_frozen_credentials()  # botocore renews them when they are about to expire
        return Credentials(found.access_key, found.secret_key, found.token)


def _of_environment() -> Credentials | None:
    access_key, secret_key = os.environ.get(ACCESS_KEY), os.environ.get(SECRET_KEY)
    if not access_key or not secret_key:
        return None
    return Credentials(access_key, secret_key, os.environ.get(TOKEN))
