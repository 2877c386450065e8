"""Generates the CloudFormation of the stack from the routing table, for LocalStack and for AWS."""
