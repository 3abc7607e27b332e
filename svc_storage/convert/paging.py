"""Page sizes and page tokens of every list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from millrace.errors import FieldInvalid, TokenMismatch
from svc_storage.domain.reading.scans import fingerprint
from svc_storage.domain.reading.tokens import PageToken, decode_page, encode_page

DEFAULT_PAGE = 50
MAX_PAGE = 1_000
MAX_PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early beyond it: gRPC refuses an answer of more than 4 MiB."""

M = TypeVar("M", bound=Message)


def page_size_of(asked: int) -> int:
    """Raises FieldInvalid below 0; more than 1,000 is 1,000 (AIP-158)."""
    if asked < 0:
        raise FieldInvalid("a page has 1 to 1,000 entries", field="page_size")
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def fitting(entries: Iterable[M]) -> list[M]:
    """The first entries, as many as a page carries, and always one."""
    page: list[M] = []
    room = MAX_PAGE_BYTES
    for entry in entries:
        room -= entry.ByteSize()
        if page and room < 0:
            break
        page.append(entry)
    return page


def after_of(page_token: str, *list_of: str) -> str:
    """Where the page starts, "" for the first. `list_of`: what tells this list from others. Raises TokenMismatch, TokenUnsupported."""
    if not page_token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(page_token.encode())
    except (binascii.Error, ValueError) as broken:
        raise TokenMismatch("the page token is damaged", field="page_token", hint="list again without it") from broken
    return decode_page(raw, fingerprint=_of(list_of)).after


def token_after(after: str, *list_of: str) -> str:
    return base64.urlsafe_b64encode(encode_page(PageToken(_of(list_of), after))).decode()


def _of(list_of: tuple[str, ...]) -> bytes:
    return fingerprint(*(part.encode() for part in list_of))
