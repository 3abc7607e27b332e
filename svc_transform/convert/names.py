"""Resource names of transforms and their runs."""

from __future__ import annotations

import re

from millrace.errors import FieldInvalid

_NAME = re.compile(r"namespaces/[a-z][a-z0-9_]{0,62}/transforms/[a-z][a-z0-9_]{0,62}")
_PARENT = re.compile(r"namespaces/[a-z][a-z0-9_]{0,62}")
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def transform_name(name: str, *, field: str) -> str:
    """`name` when it is a transform's full name. Raises FieldInvalid at `field`."""
    if not _NAME.fullmatch(name):
        raise FieldInvalid(
            "a transform is `namespaces/{namespace}/transforms/{transform}`, names [a-z][a-z0-9_]{0,62}", field=field
        )
    return name


def parent_of(parent: str) -> str:
    """`namespaces/{namespace}`, `namespaces/default` for an empty one. Raises FieldInvalid at `parent`."""
    if not parent:
        return "namespaces/default"
    if not _PARENT.fullmatch(parent):
        raise FieldInvalid("expected `namespaces/{namespace}`", field="parent")
    return parent


def check_run_id(request_id: str) -> str:
    """`request_id` when it can name a run. Raises FieldInvalid."""
    if not _RUN_ID.fullmatch(request_id):
        raise FieldInvalid("a run's id has 1 to 128 of [A-Za-z0-9._-]", field="request_id")
    return request_id
