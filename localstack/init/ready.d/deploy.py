"""Deploys `stack.yaml` to LocalStack. Needs boto3 only. There are three ways to run it:

- LocalStack's official container runs it as an init hook in `/etc/localstack/init/ready.d`, with `stack.yaml` two
  folders up;
- the embedded launcher sets LocalStack's init folder to this one;
- you run `python localstack/init/ready.d/deploy.py`.

As a hook it runs at every start, so a LocalStack that died and came back empty gets its stack again. Running it again
changes nothing. It talks to LocalStack only (`AWS_ENDPOINT_URL`, or port `LOCALSTACK_PORT` of this machine), never to
an AWS account: there, `aws cloudformation deploy --template-file localstack/stack.yaml` does the same.
"""

import os
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

DEADLINE_SECONDS = 300
POLL_SECONDS = 0.2  # boto3's own waiter sleeps 30 s between polls; each poll takes LocalStack's time from deploying


def template_file() -> Path:
    """The template's path: two folders up from this file. LocalStack runs hooks by exec(), which sets no `__file__`."""
    named = os.environ.get("ORDERFLOW_STACK_FILE")
    if named:
        return Path(named)
    if "__file__" in globals():
        return Path(__file__).resolve().parents[2] / "stack.yaml"
    return Path("/etc/localstack/stack.yaml")


def client(endpoint):
    """A CloudFormation client that can't reach an AWS account: its own endpoint, test credentials."""
    return boto3.client(
        "cloudformation",
        endpoint_url=endpoint,
        region_name=os.environ.get("AWS_REGION", "us-east-1"),
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - LocalStack's account 000000000000
        config=Config(retries={"mode": "standard", "max_attempts": 5}, parameter_validation=False),
    )


def describe(cfn, name):
    """The stack's description, or None if there is no stack."""
    try:
        return cfn.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def settle(cfn, name):
    """Waits for the stack's final status; None if it was deleted. Raises TimeoutError after DEADLINE_SECONDS."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        stack = describe(cfn, name)
        if stack is None or stack["StackStatus"] == "DELETE_COMPLETE":
            return None
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return stack["StackStatus"]
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"stack {name} is still {stack['StackStatus']} after {DEADLINE_SECONDS} s")


def why(cfn, name):
    """The first reason that CloudFormation gives for a failure."""
    events = cfn.describe_stack_events(StackName=name)["StackEvents"]
    failed = [e for e in events if e["ResourceStatus"].endswith("_FAILED")]
    return failed[-1].get("ResourceStatusReason", "no reason given") if failed else "no reason given"


def deploy(endpoint, name):
    """Brings the stack to what the template says. Raises RuntimeError with CloudFormation's reason if it can't."""
    body = template_file().read_text(encoding="utf-8")
    cfn = client(endpoint)
    parts = {
        "StackName": name,
        "TemplateBody": body,
        "Parameters": [
            {"ParameterKey": "Name", "ParameterValue": name},
            {"ParameterKey": "Logging", "ParameterValue": "off"},  # LocalStack would load another service for it
        ],
        "Capabilities": ["CAPABILITY_IAM"],
    }
    status = settle(cfn, name)
    if status is not None and status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        cfn.delete_stack(StackName=name)  # a stack that was created in part can't be updated, only created again
        settle(cfn, name)
        status = None
    if status is None:
        cfn.create_stack(**parts, OnFailure="DO_NOTHING")
    else:
        try:
            cfn.update_stack(**parts)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            return "unchanged"
    status = settle(cfn, name)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise RuntimeError(f"stack {name} ended {status}: {why(cfn, name)}")
    return status


def main():
    began = time.monotonic()
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or f"http://127.0.0.1:{os.environ.get('LOCALSTACK_PORT', '4566')}"
    name = os.environ.get("ORDERFLOW_STACK", "orderflow")
    result = deploy(endpoint, name)
    sys.stdout.write(f"stack {name}: {result} in {time.monotonic() - began:.1f} s\n")
    sys.stdout.flush()


if __name__ in ("__main__", "builtins"):  # exec() by LocalStack leaves builtins' name
    main()
