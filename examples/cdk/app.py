"""AWS CDK: a function that hands its events to a queue, and the relay that delivers them: `cdk deploy`."""

from __future__ import annotations

from aws_cdk import (
    App,
    CfnParameter,
    Duration,
    RemovalPolicy,
    Stack,
    aws_cloudwatch,
    aws_cloudwatch_actions,
    aws_iam,
    aws_lambda,
    aws_lambda_event_sources,
    aws_logs,
    aws_secretsmanager,
    aws_sns,
    aws_sqs,
)
from constructs import Construct

RUNTIME = aws_lambda.Runtime.PYTHON_3_13


class LeanbaseStack(Stack):
    """The queue, its dead-letter queue, the relay, the alarms, the layer, and one function that captures.

    Args:
        layer: The zip file that `make layer` builds, or a folder with the same content.
        orders: The folder with the function's code.
    """

    def __init__(self, scope: Construct, id: str, *, layer: str, orders: str) -> None:
        super().__init__(scope, id)
        host = CfnParameter(self, "LeanbaseHost", allowed_pattern="https://.+")
        key = CfnParameter(
            self, "LeanbaseApiKeySecret", description="The name of a secret with the project key"
        )
        secret = aws_secretsmanager.Secret.from_secret_name_v2(self, "ApiKey", key.value_as_string)
        dead = aws_sqs.Queue(self, "DeadEvents", retention_period=Duration.days(14), enforce_ssl=True)
        events = aws_sqs.Queue(
            self,
            "Events",
            # AWS advises six times the timeout of the function that reads the queue.
            visibility_timeout=Duration.seconds(180),
            retention_period=Duration.days(14),
            enforce_ssl=True,
            # 100 times 180 s: an outage of five hours moves no message to the dead-letter queue.
            dead_letter_queue=aws_sqs.DeadLetterQueue(queue=dead, max_receive_count=100),
        )
        leanbase = aws_lambda.LayerVersion(
            self, "Layer", code=aws_lambda.Code.from_asset(layer), compatible_runtimes=[RUNTIME]
        )
        orders_function = self._function(
            "Orders",
            leanbase,
            handler="app.handler",
            code=aws_lambda.Code.from_asset(orders),
            environment={"LEANBASE_TRANSPORT": "sqs", "LEANBASE_QUEUE_URL": events.queue_url},
        )
        orders_function.add_to_role_policy(
            aws_iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[events.queue_arn])
        )
        relay = self._function(
            "Relay",
            leanbase,
            # Powertools, which the relay needs, is in AWS's own layer.
            self._powertools(),
            handler="leanbase.relay.handler",
            code=aws_lambda.Code.from_inline("# the code is in the layer"),
            environment={
                "LEANBASE_HOST": host.value_as_string,
                "LEANBASE_API_KEY": secret.secret_value.unsafe_unwrap(),
            },
        )
        relay.add_event_source(
            aws_lambda_event_sources.SqsEventSource(
                events,
                batch_size=100,  # several messages become one request to the ingestion server
                max_batching_window=Duration.seconds(5),
                max_concurrency=5,
                report_batch_item_failures=True,
            )
        )
        self._alarms(events, dead)

    def _function(
        self,
        id: str,
        *layers: aws_lambda.ILayerVersion,
        handler: str,
        code: aws_lambda.Code,
        environment: dict[str, str],
    ) -> aws_lambda.Function:
        log = aws_logs.LogGroup(
            self,
            f"{id}Log",
            retention=aws_logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.DESTROY,
        )
        return aws_lambda.Function(
            self,
            id,
            runtime=RUNTIME,
            architecture=aws_lambda.Architecture.ARM_64,
            handler=handler,
            code=code,
            layers=list(layers),
            memory_size=256,
            timeout=Duration.seconds(30),
            environment=environment,
            log_group=log,
        )

    def _powertools(self) -> aws_lambda.ILayerVersion:
        arn = CfnParameter(
            self,
            "PowertoolsLayer",
            description="The ARN of AWS's layer AWSLambdaPowertoolsPythonV3 (Python 3.13, arm64)",
        )
        return aws_lambda.LayerVersion.from_layer_version_arn(self, "Powertools", arn.value_as_string)

    def _alarms(self, events: aws_sqs.Queue, dead: aws_sqs.Queue) -> None:
        topic = aws_sns.Topic(self, "Alarms")
        alarms = {
            "DeadEventsAlarm": (dead.metric_approximate_number_of_messages_visible(statistic="Maximum"), 0),
            # The alarm comes long before a message gets to the dead-letter queue.
            "OldEventsAlarm": (events.metric_approximate_age_of_oldest_message(statistic="Maximum"), 1800),
        }
        for id, (metric, threshold) in alarms.items():
            alarm = metric.create_alarm(
                self,
                id,
                threshold=threshold,
                evaluation_periods=1,
                comparison_operator=aws_cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
                treat_missing_data=aws_cloudwatch.TreatMissingData.NOT_BREACHING,
            )
            alarm.add_alarm_action(aws_cloudwatch_actions.SnsAction(topic))


if __name__ == "__main__":
    app = App()
    LeanbaseStack(app, "Leanbase", layer="../../dist/leanbase-layer.zip", orders="../lambda/orders")
    app.synth()
