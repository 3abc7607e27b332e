"""What tells one request from another: its id, who sent it, and a fingerprint of all the rest."""

from __future__ import annotations

import hashlib

from google.protobuf.message import Message

from millrace.errors import FieldInvalid
from millrace.server.interceptors.deadline import ends_s
from svc_storage.ports import RequestMark

MAX_REQUEST_ID = 128


def request_mark(request: Message, principal: str) -> RequestMark:
    """`request` has a `request_id`. Raises FieldInvalid when that is too long."""
    request_id = str(getattr(request, "request_id", ""))
    if len(request_id) > MAX_REQUEST_ID:
        raise FieldInvalid(f"at most {MAX_REQUEST_ID} characters", field="request_id")
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField("request_id")
    digest = hashlib.sha256(request.DESCRIPTOR.full_name.encode() + b"\0" + rest.SerializeToString(deterministic=True))
    return RequestMark(request_id, principal, digest.hexdigest(), ends_s())


def heartbeat_s(request: Message) -> float:
    """The `heartbeat` of a watch request in seconds, 15 when unset. Raises FieldInvalid outside of 5 to 60 s."""
    if not request.HasField("heartbeat"):
        return 15.0
    wanted = getattr(request, "heartbeat")  # noqa: B009 - a Message has no such attribute for the type checker
    seconds = float(wanted.seconds + wanted.nanos / 1e9)
    if not 5.0 <= seconds <= 60.0:
        raise FieldInvalid("a heartbeat is 5 to 60 s", field="heartbeat")
    return seconds
