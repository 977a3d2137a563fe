"""HTTP events as AWS sends them, and a Lambda context with fixed values."""

from __future__ import annotations

import time
from typing import Any


class LambdaContext:
    function_name = "orders"
    function_version = "$LATEST"
    aws_request_id = "11111111-2222-3333-4444-555555555555"
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:orders"
    memory_limit_in_mb = 128

    def __init__(self, seconds: float = 30.0) -> None:
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends - time.monotonic()) * 1000)


HEADERS = {
    "Host": "api.example.com",
    "User-Agent": "curl/8",
    "X-Forwarded-For": "203.0.113.7, 10.0.0.1",
    "X-Forwarded-Proto": "https",
    "x-leanbase-session-ID": "0198c0de-0000-7000-8000-000000000abc",
    "X-LEANBASE-DISTINCT-ID": "user_1",
}
MULTI = {name: ["", value] if name == "User-Agent" else [value] for name, value in HEADERS.items()}
LOWER = {name.lower(): value for name, value in HEADERS.items()}

REST: dict[str, Any] = {
    "resource": "/orders/{id}",
    "path": "/orders/7",
    "httpMethod": "POST",
    "headers": HEADERS,
    "multiValueHeaders": MULTI,
    "queryStringParameters": {"q": "b c"},
    "multiValueQueryStringParameters": {"q": ["a", "b c"]},
    "requestContext": {
        "path": "/prod/orders/7",
        "domainName": "x.execute-api.eu-west-1.amazonaws.com",
        "stage": "prod",
    },
    "body": None,
}
HTTP_API: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "POST /orders/{id}",
    "rawPath": "/orders/7",
    "rawQueryString": "q=a&q=b+c",
    "headers": LOWER,
    "requestContext": {"domainName": "api.example.com", "http": {"method": "POST", "path": "/orders/7"}},
    "isBase64Encoded": False,
}
ALB: dict[str, Any] = {
    "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/x"}},
    "httpMethod": "POST",
    "path": "/orders/7",
    "queryStringParameters": {"q": "b%20c"},
    "headers": LOWER,
    "body": "",
}
ALB_MULTI: dict[str, Any] = {
    **{name: value for name, value in ALB.items() if name not in ("headers", "queryStringParameters")},
    "multiValueHeaders": {name: [value] for name, value in LOWER.items()},
    "multiValueQueryStringParameters": {"q": ["a", "b%20c"]},
}
