"""What an AWS error code blames: the message, its destination, or either of the two.

A message is dead-lettered only if its code can blame nothing but the message. `SenderFault`, HTTP's 4xx and the words
"not retryable" don't count: AWS also calls throttling, a missing permission and a missing queue the sender's fault. If
the cause is uncertain, the messages are sent one by one, so that a bad one is found without delaying the others.

The tables follow the errors that each API documents:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html
https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html (the same for all)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Blame(Enum):
    """What an error code blames, and so what must wait."""

    MESSAGE = "message"
    """It will never be accepted."""
    UNSURE = "unsure"
    """Either a message or the destination's configuration: sending each message alone will tell."""
    DESTINATION = "destination"
    """It accepts no message for now."""


FINAL: Final[Mapping[str, frozenset[str]]] = {
    # Characters that XML can't represent.
    "sqs": frozenset({"InvalidMessageContents"}),
    "sns": frozenset(),
    # Its `Detail` is not JSON.
    "events": frozenset({"MalformedDetail"}),
    "stepfunctions": frozenset({"InvalidExecutionInput", "InvalidName", "InvalidOutput"}),
}
"""By API: the codes that blame nothing but the message.

Codes about length are not included: a staged message never exceeds 192 KiB (`orderflow.envelope.MAX_BYTES`), so if a
queue finds one too long, its MaximumMessageSize is too low, and the message passes once that is corrected. Also not
included are InvalidParameter (SNS: also for a wrong topic), InvalidParameterValue (SQS: also for the queue's settings),
InvalidArgument (EventBridge: also for a wrong bus) and ValidationException."""

MISSING: Final = frozenset(
    {
        "NotFound",
        "NonExistentQueue",
        "QueueDoesNotExist",
        "QueueDeletedRecently",
        "ResourceNotFound",
        "ResourceNotFoundException",
        "StateMachineDeleting",
        "StateMachineDoesNotExist",
    }
)
"""A part of the stack is missing: the broker may have been replaced."""

_DESTINATION: Final = MISSING | {
    # Throttling and quotas.
    "ExecutionLimitExceeded",
    "LimitExceededException",
    "OverLimit",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttled",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    # Permissions and credentials.
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "AuthorizationError",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccountIdException",
    "InvalidAddress",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "NotAuthorizedForDetailTypeException",
    "NotAuthorizedForSourceException",
    "OptInRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
    "UnrecognizedClientException",
    # Failures of the service, or a configuration that fails every message.
    "EndpointDisabled",
    "InternalError",
    "InternalException",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceException",
    "InvalidArn",
    "PlatformApplicationDisabled",
    "RedactionFailure",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "UnsupportedOperation",
}


def blame(api: str, code: str, status: int = 0) -> Blame:
    """What `code` blames, for a call to `api` (`sqs`, `sns`, `events`, `stepfunctions`) or for one entry of its batch.

    `status`: the HTTP status of a whole call. An unknown code is UNSURE, unless the server itself failed."""
    code = code.removeprefix("AWS.SimpleQueueService.")
    if code in FINAL[api]:
        return Blame.MESSAGE
    # Encrypted topics and queues: a KMS key is disabled, forbidden or throttled. Each API spells the codes differently.
    if code in _DESTINATION or code[:3].lower() == "kms" or status in (401, 403, 404, 408, 429) or status >= 500:
        return Blame.DESTINATION
    return Blame.UNSURE
