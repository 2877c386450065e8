"""SQS, SNS, EventBridge and Step Functions. The only place that imports boto3."""
