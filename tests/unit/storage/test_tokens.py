from __future__ import annotations

import contextlib
import datetime as dt
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import TokenMismatch, TokenUnsupported
from svc_storage.domain.reading import scans
from svc_storage.domain.reading.predicates import bind
from svc_storage.domain.reading.scans import Scan, TimeRange
from svc_storage.domain.reading.tokens import (
    MAX_BYTES,
    PageToken,
    Place,
    ResumeToken,
    SplitToken,
    decode_page,
    decode_resume,
    decode_split,
    encode_page,
    encode_resume,
    encode_split,
)
from tests.unit.storage.strategies import SCHEMA, predicates

numbers = st.integers(0, 2**63 - 1)
places = st.builds(Place, numbers, numbers)
prints = st.binary(min_size=16, max_size=16)
uids = st.uuids().map(lambda value: value.hex)
resumes = st.builds(ResumeToken, uids, numbers, prints, places, numbers)
splits = st.builds(SplitToken, uids, numbers, prints, places, places, st.binary(max_size=350))


@given(resumes, splits)
def test_tokens_come_back_as_they_went(resume: ResumeToken, split: SplitToken) -> None:
    assert decode_resume(encode_resume(resume)) == resume
    assert decode_split(encode_split(split), field="f") == split
    assert len(encode_split(split)) <= MAX_BYTES


@given(resumes, st.integers(0), st.integers(1, 255))
def test_a_damaged_token_is_noticed(resume: ResumeToken, at: int, flip: int) -> None:
    data = bytearray(encode_resume(resume))
    data[at % len(data)] ^= flip
    with pytest.raises((TokenMismatch, TokenUnsupported)):
        decode_resume(bytes(data))


@given(st.binary(max_size=600))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for decode in (decode_resume, lambda raw: decode_split(raw, field="f")):
        with pytest.raises((TokenMismatch, TokenUnsupported)):
            decode(data)


@given(st.binary(max_size=100))
def test_a_right_checksum_over_nonsense_is_refused_too(data: bytes) -> None:
    body = b"\x01R" + data
    sealed = body + zlib.crc32(body).to_bytes(4, "big")
    with contextlib.suppress(TokenMismatch):
        assert decode_resume(sealed).place.file >= 0


def test_one_kind_is_not_another() -> None:
    token = ResumeToken("u", 1, b"f" * 16, Place(0), 0)
    with pytest.raises(TokenMismatch):
        decode_split(encode_resume(token), field="split_token")
    with pytest.raises(TokenUnsupported):
        decode_resume(b"\x02" + encode_resume(token)[1:])


@given(prints, st.text(max_size=60))
def test_a_page_token_belongs_to_its_list(fingerprint: bytes, after: str) -> None:
    token = encode_page(PageToken(fingerprint, after))
    assert decode_page(token, fingerprint=fingerprint).after == after
    with pytest.raises(TokenMismatch):
        decode_page(token, fingerprint=b"other")


instants = st.none() | st.datetimes().map(lambda value: value.replace(tzinfo=dt.UTC, fold=0))


@given(
    st.builds(
        Scan,
        table=st.text(min_size=1, max_size=60),
        columns=st.lists(st.sampled_from(SCHEMA.names), unique=True).map(tuple),
        predicate=st.none() | predicates.map(lambda found: bind(found, SCHEMA)),
        time_range=st.none() | st.builds(TimeRange, instants, instants),
        limit=numbers,
        after_version=st.none() | numbers,
    )
)
def test_a_scan_is_encoded_the_same_every_time(scan: Scan) -> None:
    encoded = scans.encode(scan)
    again = scans.decode(encoded)
    assert repr(again) == repr(scan)
    assert scans.encode(again) == encoded


_NESTED = zlib.compress(b'{"t":"x","p":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_a_foreign_scan_is_refused() -> None:
    for data in (
        b"",
        b"x",
        zlib.compress(b"[]"),
        zlib.compress(b'{"t":"x","p":["??"]}'),
        _NESTED,
        zlib.compress(b'{"t":"x","p":["eq",1,2]}'),
    ):
        with pytest.raises(TokenMismatch):
            scans.decode(data)
