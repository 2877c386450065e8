"""AWS's protocols on the wire, as far as orderflow uses them: JSON (SQS, EventBridge, Step Functions) and query (SNS).

https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html
https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.aws_like.rules import Fault

_SERVICES: Final = {"AmazonSQS": "sqs", "AWSEvents": "events", "AWSStepFunctions": "stepfunctions"}
_ENTRY: Final = re.compile(r"PublishBatchRequestEntries\.member\.(\d+)\.(.+)")
_XML: Final = "http://sns.amazonaws.com/doc/2010-03-31/"
_FIELDS: Final = "fields"
"""The fields of one entry of PublishBatch, by the rest of their form names."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call. `form` is the form of the query protocol, without the entries of a batch."""

    service: str
    operation: str
    params: dict[str, Any]
    target: str = ""
    form: Mapping[str, str] | None = None

    def encoded(self, operation: str, params: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
        """Headers and body of this call with other parameters, or of another of the same service."""
        if self.form is None:
            return {"X-Amz-Target": f"{self.target}.{operation}"}, json.dumps(params).encode()
        form = dict(self.form)
        for number, entry in enumerate(params.get("PublishBatchRequestEntries", ()), 1):
            form |= {f"PublishBatchRequestEntries.member.{number}.{n}": v for n, v in entry[_FIELDS].items()}
        return {}, urlencode(form).encode()

    def answer(self, body: bytes) -> dict[str, Any]:
        """The content of an answer with status 200."""
        if self.form is None:
            return json.loads(body) if body else {}
        return _batch_of_xml(body) if self.operation == "PublishBatch" else {"raw": body}

    def body_of(self, answer: Mapping[str, Any]) -> bytes:
        """The body of an answer."""
        if self.form is None:
            return json.dumps(answer).encode()
        return _xml_of_batch(answer) if self.operation == "PublishBatch" else bytes(answer["raw"])

    def error(self, fault: Fault) -> tuple[dict[str, str], bytes]:
        """Headers and body of an error."""
        if self.form is None:
            kind = "Sender" if fault.sender else "Receiver"
            headers = {"x-amzn-query-error": f"{fault.code};{kind}"} if self.service == "sqs" else {}
            return headers, json.dumps({"__type": fault.code, "message": fault.code}).encode()
        kind = "Sender" if fault.sender else "Receiver"
        return {}, (
            f'<ErrorResponse xmlns="{_XML}"><Error><Type>{kind}</Type><Code>{fault.code}</Code>'
            f"<Message>{fault.code}</Message></Error><RequestId>0</RequestId></ErrorResponse>"
        ).encode()

    def fault_of(self, status: int, body: bytes) -> Fault:
        """The error that an answer reports."""
        if self.form is None:
            try:
                code = str(json.loads(body).get("__type", "")).rpartition("#")[2]
            except ValueError:
                code = ""
        else:
            found = re.search(rb"<Code>([^<]*)</Code>", body)
            code = found[1].decode() if found else ""
        return Fault(code, status)


def parse(headers: Mapping[str, str], body: bytes) -> Request | None:
    """Parses a request; None if it is for another API."""
    target, _, operation = headers.get("X-Amz-Target", "").rpartition(".")
    if target in _SERVICES:
        return Request(_SERVICES[target], operation, json.loads(body or b"{}"), target)
    if not body.startswith(b"Action=") and b"&Action=" not in body:
        return None
    form: dict[str, str] = {}
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for name, value in parse_qsl(body.decode(), keep_blank_values=True):
        if found := _ENTRY.fullmatch(name):
            entries[int(found[1])][found[2]] = value
        else:
            form[name] = value
    batch = [{"Id": fields["Id"], _FIELDS: fields} for _, fields in sorted(entries.items())]
    return Request("sns", form["Action"], {"PublishBatchRequestEntries": batch} if batch else {}, form=form)


def _batch_of_xml(body: bytes) -> dict[str, Any]:
    root = ElementTree.fromstring(body)

    def members(kind: str) -> list[dict[str, Any]]:
        found = root.findall(f".//{{*}}{kind}/{{*}}member")
        return [{field.tag.rpartition("}")[2]: field.text or "" for field in member} for member in found]

    failed = [{**entry, "SenderFault": entry.get("SenderFault") == "true"} for entry in members("Failed")]
    return {"Successful": members("Successful"), "Failed": failed}


def _xml_of_batch(answer: Mapping[str, Any]) -> bytes:
    def members(kind: str) -> str:
        return "".join(
            "<member>" + "".join(f"<{name}>{_text(value)}</{name}>" for name, value in entry.items()) + "</member>"
            for entry in answer.get(kind, ())
        )

    return (
        f'<PublishBatchResponse xmlns="{_XML}"><PublishBatchResult><Successful>{members("Successful")}</Successful>'
        f"<Failed>{members('Failed')}</Failed></PublishBatchResult>"
        "<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></PublishBatchResponse>"
    ).encode()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else escape(str(value))
