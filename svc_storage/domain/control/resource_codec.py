"""A resource as bytes, for the answers that are kept."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from svc_storage.ports import Packed, Resource


def encode_resource(resource: Resource) -> bytes:
    fields = {
        "name": resource.name,
        "uid": resource.uid,
        "revision": resource.revision,
        "generation": resource.generation,
        "spec": _out(resource.spec),
        "status": _out(resource.status),
        "created_us": resource.created_us,
        "updated_us": resource.updated_us,
        "owner": resource.owner,
        "last_event": resource.last_event,
    }
    return zlib.compress(json.dumps(fields, separators=(",", ":")).encode(), 1)


def decode_resource(data: bytes) -> Resource:
    fields = json.loads(zlib.decompress(data))
    return Resource(**{**fields, "spec": _in(fields["spec"]), "status": _in(fields["status"])})


def _out(packed: Packed | None) -> list[str] | None:
    return None if packed is None else [packed.type_url, base64.b64encode(packed.value).decode()]


def _in(stored: list[Any] | None) -> Packed | None:
    return None if stored is None else Packed(stored[0], base64.b64decode(stored[1]))
