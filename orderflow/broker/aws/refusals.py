"""What AWS's error codes blame: the message, its destination, or one can't tell.

Only a code that can blame nothing but the message is final, and dead-letters it. `SenderFault`, HTTP's 4xx and the
words "not retryable" don't count: AWS counts throttling, a missing permission and a missing queue among the sender's
faults, too. What can't be told apart goes one by one, so that a bad message is found out without holding up others.

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
    """Whom an error code blames, and so who must wait."""

    MESSAGE = "message"
    """It will never be taken."""
    UNSURE = "unsure"
    """A message, or how the destination is configured: each message by itself tells."""
    DESTINATION = "destination"
    """Nothing is taken there for now, whatever the message."""


FINAL: Final[Mapping[str, frozenset[str]]] = {
    # Characters that XML doesn't have.
    "sqs": frozenset({"InvalidMessageContents"}),
    "sns": frozenset(),
    # Its `Detail` is no JSON.
    "events": frozenset({"MalformedDetail"}),
    "stepfunctions": frozenset({"InvalidExecutionInput", "InvalidName", "InvalidOutput"}),
}
"""By API: the codes that blame nothing but the message.

No code for length is among them: what is staged never exceeds 192 KiB (`orderflow.envelope.MAX_BYTES`), so a queue that
finds a message too long has a MaximumMessageSize that was set too low; the message passes when that is mended. Nor is
InvalidParameter (SNS: also for a wrong topic), InvalidParameterValue (SQS: also for the queue's settings),
InvalidArgument (EventBridge: also for a wrong bus) or ValidationException."""

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
"""A part of the stack is not there: it may be another broker by now."""

_DESTINATION: Final = MISSING | {
    # Too much, or too fast.
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
    # Not allowed, or no longer.
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
    # Out of order, or set up wrong for every message.
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
    """Whom `code` blames, of a call to `api` (`sqs`, `sns`, `events`, `stepfunctions`) or of one entry of it.

    `status`: HTTP's, of a whole call. An unknown code is UNSURE, but for a failure of the server's own."""
    code = code.removeprefix("AWS.SimpleQueueService.")
    if code in FINAL[api]:
        return Blame.MESSAGE
    # Encrypted topics and queues, each API with its own spelling: a key that is disabled, not permitted, throttled …
    if code in _DESTINATION or code[:3].lower() == "kms" or status in (401, 403, 404, 408, 429) or status >= 500:
        return Blame.DESTINATION
    return Blame.UNSURE
