"""moto in server mode: simulates AWS in a separate process, over real HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import Any
from uuid import uuid4

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-west-1",
}


class MotoServer:
    """Starts the server, and calls it with boto3."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ),
        )
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, "moto does not start"
                time.sleep(0.05)
        self.sqs = self.client("sqs")

    def client(self, service: str) -> Any:
        """Return a boto3 client."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="eu-west-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
        )

    def queue(self, *, fifo: bool = False, **attributes: str) -> str:
        """Return the URL of a new queue. By default its messages become visible again after 1 s."""
        if fifo:
            attributes["FifoQueue"] = "true"
        name = uuid4().hex + (".fifo" if fifo else "")
        attributes.setdefault("VisibilityTimeout", "1")
        url: str = self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    def receive(self, queue: str, *, wait: int = 0) -> dict[str, Any] | None:
        """Return up to ten messages in the form of a Lambda event, or `None` if the queue has no messages."""
        messages = self.sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait, AttributeNames=["All"]
        ).get("Messages")
        if not messages:
            return None
        return {
            "Records": [
                {
                    "messageId": each["MessageId"],
                    "receiptHandle": each["ReceiptHandle"],
                    "body": each["Body"],
                    "attributes": each["Attributes"],
                    "messageAttributes": {},
                    "md5OfBody": each["MD5OfBody"],
                    "eventSource": "aws:sqs",
                    "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:" + queue.rpartition("/")[2],
                    "awsRegion": "eu-west-1",
                }
                for each in messages
            ]
        }

    def delete(self, queue: str, event: dict[str, Any], answer: dict[str, Any]) -> None:
        """Delete the messages that did not fail, as Lambda's poller does."""
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        for record in event["Records"]:
            if record["messageId"] not in failed:
                self.sqs.delete_message(QueueUrl=queue, ReceiptHandle=record["receiptHandle"])

    def is_empty(self, queue: str) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
        return not any(int(counts[name]) for name in names)

    def stop(self) -> None:
        self.sqs.close()
        self._process.terminate()
        self._process.wait(10)
