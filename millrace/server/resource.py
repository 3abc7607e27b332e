"""The metadata that a mesh authorises by must name the resource that the body names (contracts.md section 6)."""

from __future__ import annotations

from typing import Any

from millrace import errors
from millrace.server import names


def check_resource(context: Any, name: str) -> None:
    """Raises FieldInvalid when `x-millrace-resource` is sent and is not `name`; absent is allowed."""
    for key, value in context.invocation_metadata() or ():
        if key == names.RESOURCE and value != name:
            raise errors.FieldInvalid(
                f"the metadata {names.RESOURCE} does not name the request's resource",
                hint=f"send the request's own name as {names.RESOURCE}, or leave it out",
            )
