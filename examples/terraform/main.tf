# A function that hands its events to a queue, and the relay that delivers them.

terraform {
  required_version = ">= 1.5"

  required_providers {
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.4"
    }
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "leanbase_host" {
  description = "The address of the ingestion server."
  type        = string

  validation {
    condition     = startswith(var.leanbase_host, "https://")
    error_message = "The host must begin with https://."
  }
}

variable "leanbase_api_key" {
  description = "The project API key. Only the relay has it."
  type        = string
  sensitive   = true
}

variable "powertools_layer" {
  description = "The ARN of AWS's layer AWSLambdaPowertoolsPythonV3 (Python 3.13, arm64, this region)."
  type        = string
}

variable "alarm_email" {
  description = "Who is told when events wait."
  type        = string
}

locals {
  runtime      = "python3.13"
  architecture = "arm64"
}

# --- The layer, which `make layer` builds --------------------------------------------------------

resource "aws_lambda_layer_version" "leanbase" {
  layer_name               = "leanbase"
  filename                 = "${path.module}/../../dist/leanbase-layer.zip"
  source_code_hash         = filebase64sha256("${path.module}/../../dist/leanbase-layer.zip")
  compatible_runtimes      = [local.runtime]
  compatible_architectures = [local.architecture]
}

# --- The queue -----------------------------------------------------------------------------------

resource "aws_sqs_queue" "events" {
  name                    = "leanbase-events"
  sqs_managed_sse_enabled = true

  # AWS advises six times the timeout of the function that reads the queue.
  visibility_timeout_seconds = 180
  message_retention_seconds  = 1209600

  # 100 times 180 s: an outage of five hours moves nothing to the dead-letter queue.
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_events.arn
    maxReceiveCount     = 100
  })
}

resource "aws_sqs_queue" "dead_events" {
  name                      = "leanbase-dead-events"
  sqs_managed_sse_enabled   = true
  message_retention_seconds = 1209600
}

# --- The function whose events are captured ------------------------------------------------------

data "archive_file" "orders" {
  type        = "zip"
  source_dir  = "${path.module}/../lambda/orders"
  output_path = "${path.module}/.build/orders.zip"
}

resource "aws_lambda_function" "orders" {
  function_name    = "orders"
  runtime          = local.runtime
  architectures    = [local.architecture]
  handler          = "app.handler"
  filename         = data.archive_file.orders.output_path
  source_code_hash = data.archive_file.orders.output_base64sha256
  layers           = [aws_lambda_layer_version.leanbase.arn]
  memory_size      = 256
  timeout          = 30
  role             = aws_iam_role.orders.arn

  environment {
    variables = {
      LEANBASE_TRANSPORT = "sqs"
      LEANBASE_QUEUE_URL = aws_sqs_queue.events.url
    }
  }
}

resource "aws_iam_role" "orders" {
  name               = "leanbase-orders"
  assume_role_policy = data.aws_iam_policy_document.lambda.json
}

resource "aws_iam_role_policy_attachment" "orders_log" {
  role       = aws_iam_role.orders.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_iam_role_policy" "orders" {
  role = aws_iam_role.orders.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      # SendMessageBatch needs this, and nothing else.
      { Effect = "Allow", Action = "sqs:SendMessage", Resource = aws_sqs_queue.events.arn },
    ]
  })
}

# --- The relay -----------------------------------------------------------------------------------

data "archive_file" "relay" {
  type                    = "zip"
  source_content          = "# The code is in the layer."
  source_content_filename = "readme.py"
  output_path             = "${path.module}/.build/relay.zip"
}

resource "aws_lambda_function" "relay" {
  function_name    = "leanbase-relay"
  runtime          = local.runtime
  architectures    = [local.architecture]
  handler          = "leanbase.relay.handler"
  filename         = data.archive_file.relay.output_path
  source_code_hash = data.archive_file.relay.output_base64sha256
  layers           = [aws_lambda_layer_version.leanbase.arn, var.powertools_layer]
  memory_size      = 256
  timeout          = 30
  role             = aws_iam_role.relay.arn

  environment {
    variables = {
      LEANBASE_HOST    = var.leanbase_host
      LEANBASE_API_KEY = var.leanbase_api_key
    }
  }
}

resource "aws_lambda_event_source_mapping" "relay" {
  event_source_arn                   = aws_sqs_queue.events.arn
  function_name                      = aws_lambda_function.relay.arn
  batch_size                         = 100
  maximum_batching_window_in_seconds = 5
  function_response_types            = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = 5
  }
}

resource "aws_iam_role" "relay" {
  name               = "leanbase-relay"
  assume_role_policy = data.aws_iam_policy_document.lambda.json
}

resource "aws_iam_role_policy_attachment" "relay_log" {
  role       = aws_iam_role.relay.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
}

resource "aws_iam_role_policy" "relay" {
  role = aws_iam_role.relay.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
        Resource = aws_sqs_queue.events.arn
      },
    ]
  })
}

data "aws_iam_policy_document" "lambda" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

# --- The alarms ----------------------------------------------------------------------------------

resource "aws_sns_topic" "alarms" {
  name = "leanbase-alarms"
}

resource "aws_sns_topic_subscription" "alarms" {
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

resource "aws_cloudwatch_metric_alarm" "dead_events" {
  alarm_name          = "leanbase-dead-events"
  alarm_description   = "Events wait in the dead-letter queue. Mend what the relay logs, and redrive them."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_events.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
}

# Long before anything gets to the dead-letter queue.
resource "aws_cloudwatch_metric_alarm" "old_events" {
  alarm_name          = "leanbase-old-events"
  alarm_description   = "Events have waited for half an hour. The server or the relay does not take them."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.events.name }
  statistic           = "Maximum"
  period              = 300
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 1800
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
}

output "dead_events" {
  description = "The dead-letter queue."
  value       = aws_sqs_queue.dead_events.url
}
