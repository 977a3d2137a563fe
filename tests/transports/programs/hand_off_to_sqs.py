"""Hand events off to SQS, and print which libraries of AWS were imported. Argument: the URL of a queue."""

from __future__ import annotations

import sys

import leanbase

SLOW_IMPORTS = {"boto3", "botocore", "urllib3", "ssl"}

if __name__ == "__main__":
    loaded = [name for name in sys.modules if name.partition(".")[0] in SLOW_IMPORTS]
    assert not loaded, loaded
    client = leanbase.Leanbase(transport="sqs", queue_url=sys.argv[1])
    for number in range(10):
        client.capture("e", distinct_id=number)
    print(client.stats()["handed_off"], "botocore" in sys.modules, "boto3" in sys.modules)
    print(repr(client), repr(client._current().outbox._transport.inner))
