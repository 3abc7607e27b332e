"""Resource names that extract makes and reads."""

from __future__ import annotations

import re

from millrace.errors import FieldInvalid, FieldRequired

_PART = r"[a-z][a-z0-9_]{0,62}"
_SOURCE = re.compile(rf"namespaces/({_PART})/sources/({_PART})")
_TABLE = re.compile(rf"namespaces/({_PART})/tables/({_PART})")
_RUN = re.compile(rf"namespaces/({_PART})/runs/([A-Za-z0-9._-]{{1,128}})")
_NAMESPACE = re.compile(rf"namespaces/({_PART})")
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def source_parts(name: str, *, field: str = "name") -> tuple[str, str]:
    """Namespace and id. Raises FieldRequired, FieldInvalid."""
    return _parts(_SOURCE, name, field, "namespaces/{namespace}/sources/{source}")


def run_parts(name: str, *, field: str = "name") -> tuple[str, str]:
    return _parts(_RUN, name, field, "namespaces/{namespace}/runs/{request_id}")


def check_table(name: str, *, field: str) -> None:
    _parts(_TABLE, name, field, "namespaces/{namespace}/tables/{table}")


def check_request_id(request_id: str, *, field: str = "request_id") -> None:
    if not request_id:
        raise FieldRequired("a request id is needed", field=field)
    if len(request_id) > 128:
        raise FieldInvalid("at most 128 characters", field=field)


def run_name(source: str, request_id: str) -> str:
    """The run's name beside its source. Raises FieldInvalid."""
    namespace, _ = source_parts(source, field="source")
    if not _RUN_ID.fullmatch(request_id):
        raise FieldInvalid("at most 128 of `[A-Za-z0-9._-]`", field="request_id")
    return f"namespaces/{namespace}/runs/{request_id}"


def namespace_of(parent: str) -> str:
    """Of a list's parent; "" means `default`. Raises FieldInvalid."""
    if not parent:
        return "default"
    found = _NAMESPACE.fullmatch(parent)
    if found is None:
        raise FieldInvalid("written as namespaces/{namespace}", field="parent")
    return found[1]


def writer_of(source: str) -> str:
    """The writer id, and the lease's name, of a source: `sources/{namespace}/{source}`."""
    namespace, source_id = source_parts(source)
    return f"sources/{namespace}/{source_id}"


def short(name: str) -> str:
    """The last part of a full name, for people."""
    return name.rpartition("/")[2]


def _parts(form: re.Pattern[str], name: str, field: str, shape: str) -> tuple[str, str]:
    if not name:
        raise FieldRequired("a full name is needed", field=field)
    found = form.fullmatch(name)
    if found is None:
        raise FieldInvalid(f"written as {shape}", field=field)
    return found[1], found[2]
