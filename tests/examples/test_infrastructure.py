"""The CDK and the Terraform example: both have the queue, the relay, the alarms and the layer of the SAM template."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from aws_cdk import App
from aws_cdk.assertions import Template
from app import LeanbaseStack
app = App(analytics_reporting=False)
stack = LeanbaseStack(app, "Leanbase", layer=sys.argv[2], orders=sys.argv[3])
print(json.dumps(Template.from_stack(stack).to_json()))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The template that CDK makes."""
    pytest.importorskip("aws_cdk", reason="needs aws-cdk-lib")
    layer = tmp_path_factory.mktemp("layer")
    (layer / "python").mkdir()
    (layer / "python" / "leanbase.py").touch()
    command = [
        sys.executable,
        "-c",
        RUN,
        str(EXAMPLES / "cdk"),
        str(layer),
        str(EXAMPLES / "lambda" / "orders"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=layer)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def resources(template: Any, kind: str) -> list[Any]:
    return [each["Properties"] for each in template["Resources"].values() if each["Type"] == kind]


@pytest.mark.slow
@pytest.mark.needs("node")
def test_the_cdk_app_makes_what_the_sam_template_has(template: Any) -> None:
    queues = resources(template, "AWS::SQS::Queue")
    assert [queue.get("VisibilityTimeout") for queue in queues] == [None, 180]
    assert queues[1]["RedrivePolicy"]["maxReceiveCount"] == 100
    (mapping,) = resources(template, "AWS::Lambda::EventSourceMapping")
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 5}
    functions = {each["Handler"]: each for each in resources(template, "AWS::Lambda::Function")}
    assert set(functions) == {"app.handler", "leanbase.relay.handler"}
    orders = functions["app.handler"]["Environment"]["Variables"]
    assert orders["LEANBASE_TRANSPORT"] == "sqs"
    assert "LEANBASE_API_KEY" not in orders, "only the relay has the key"
    assert len(functions["leanbase.relay.handler"]["Layers"]) == 2
    alarms = resources(template, "AWS::CloudWatch::Alarm")
    assert sorted(alarm["Threshold"] for alarm in alarms) == [0, 1800]
    statements = [
        statement
        for policy in resources(template, "AWS::IAM::Policy")
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert {"Action": "sqs:SendMessage", "Effect": "Allow"}.items() <= statements[0].items() or any(
        statement["Action"] == "sqs:SendMessage" for statement in statements
    )


def test_the_terraform_module_has_what_the_sam_template_has() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="needs python-hcl2")
    with (EXAMPLES / "terraform" / "main.tf").open() as file:
        module = hcl2.load(file)
    found = {
        (kind.strip('"'), name.strip('"')): body
        for block in module["resource"]
        for kind, named in block.items()
        for name, body in named.items()
    }
    kinds = [kind for kind, _ in found]
    assert kinds.count("aws_sqs_queue") == 2
    assert kinds.count("aws_cloudwatch_metric_alarm") == 2
    assert kinds.count("aws_lambda_function") == 2
    assert kinds.count("aws_lambda_layer_version") == 1
    mapping = found["aws_lambda_event_source_mapping", "relay"]
    assert [each.strip('"') for each in mapping["function_response_types"]] == ["ReportBatchItemFailures"]
    assert found["aws_sqs_queue", "events"]["visibility_timeout_seconds"] == 180
    (variables,) = [each for each in module["variable"] if "leanbase_api_key" in str(each)]
    assert "'sensitive': True" in str(variables)


@pytest.mark.needs("terraform")
def test_terraform_formats_the_module_like_this() -> None:
    terraform = shutil.which("terraform")
    assert terraform is not None
    command = [terraform, "fmt", "-check", "-diff", str(EXAMPLES / "terraform")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
