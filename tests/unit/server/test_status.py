"""The table of reasons, and what survives the way through a status."""

from __future__ import annotations

import errno

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from millrace import errors
from millrace.server import status as table
from millrace.types.v1 import errors_pb2


def test_the_table_the_errors_and_the_enum_name_the_same_reasons() -> None:
    enum = {name.removeprefix("REASON_") for name in errors_pb2.Reason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    ours = {reason for reason, kind in errors.reasons().items() if kind.__module__ == "millrace.errors"}
    assert set(table.CODES) == enum == ours


def test_codes_are_those_of_the_contract() -> None:
    assert table.CODES["WRITER_FENCED"] is grpc.StatusCode.FAILED_PRECONDITION
    assert table.CODES["OFFSET_GAP"] is grpc.StatusCode.OUT_OF_RANGE
    assert table.CODES["STREAM_DRAINING"] is grpc.StatusCode.ABORTED
    assert table.CODES["COMMIT_UNKNOWN"] is grpc.StatusCode.UNAVAILABLE


_words = st.text(max_size=30)


@given(
    reason=st.sampled_from(sorted(table.CODES)),
    message=st.text(max_size=3000),
    field=_words,
    hint=st.text(max_size=3000),
    metadata=st.dictionaries(_words, st.text(max_size=3000), max_size=5),
    pause=st.none() | st.integers(0, 10**7),
    violations=st.lists(st.tuples(_words, st.text(max_size=500)), max_size=60),
)
def test_any_error_fits_and_keeps_its_reason(
    reason: str,
    message: str,
    field: str,
    hint: str,
    metadata: dict[str, str],
    pause: int | None,
    violations: list[tuple[str, str]],
) -> None:
    error = errors.from_reason(
        reason,
        message,
        field=field,
        hint=hint,
        metadata=metadata,
        retry_after_ms=pause,
        violations=tuple(violations),
    )
    status = table.to_status(error, trace_id="0" * 32)
    assert status.ByteSize() <= table.MAX_STATUS_BYTES
    found = table.from_status(status)
    assert type(found) is type(error)


def test_a_small_error_comes_back_whole() -> None:
    error = errors.FieldInvalid(
        "no", field="a.b", hint="do", metadata={"k": "v"}, retry_after_ms=5, violations=(("c", "d"),)
    )
    found = table.from_status(table.to_status(error))
    assert found is not None
    assert vars(found) == vars(error)


def test_a_status_of_others_is_bare() -> None:
    assert table.from_status(status_pb2.Status(code=14, message="connection refused")) is None


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left"), "DISK_FULL"),
        (MemoryError(), "MEMORY_LIMIT"),
        (ValueError("row value"), "UNEXPECTED"),
        (ExceptionGroup("g", [errors.WriterFenced("x")]), "WRITER_FENCED"),
        (errors.OutcomeUnknown("x"), "COMMIT_UNKNOWN"),
    ],
)
def test_exceptions_become_reasons(raised: Exception, reason: str) -> None:
    found = table.from_exception(raised)
    assert found.reason == reason
    assert "row value" not in found.message


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "STORE_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED"),
        (grpc.StatusCode.UNIMPLEMENTED, "UNEXPECTED"),
    ],
)
def test_a_peers_bare_status_gets_a_reason(code: grpc.StatusCode, reason: str) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert table.from_exception(error).reason == reason


def test_reasons_that_no_server_may_send_are_translated() -> None:
    class Broke(errors.RetryLater):
        reason = "TRANSPORT"

    assert table.from_exception(Broke("cut")).reason == "STORE_UNAVAILABLE"
