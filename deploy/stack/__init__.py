"""Generates the stack's CloudFormation templates from the routing table, for LocalStack and for AWS."""
