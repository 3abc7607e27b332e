"""Records of CSV: the same wherever blocks are cut, and one broken line costs one line."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from svc_extract.domain.parsing.records import MAX_RECORD_BYTES, Dialect, split

THREE = Dialect(columns=3)
PIECES = st.sampled_from([b"a", b"1", b",", b",", b'"', b'"', b"\n", b"\n", b"\r\n", b"\r", b"\xc3\xa9", b'""'])


def all_of(data: bytes, dialect: Dialect = THREE) -> list[tuple[bytes, str]]:
    found = split(data, dialect, final=True)
    pairs = enumerate(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    return [(data[start:end], found.bad.get(index, "")) for index, (start, end) in pairs]


def in_blocks(data: bytes, size: int, dialect: Dialect = THREE) -> list[tuple[bytes, str]]:
    """As a growing file is read: `size` more bytes each time."""
    records: list[tuple[bytes, str]] = []
    at, end = 0, size
    while True:
        final = end >= len(data)
        block = data[at:end]
        found = split(block, dialect, final=final)
        for index, (start, stop) in enumerate(zip(found.starts.tolist(), found.ends.tolist(), strict=True)):
            records.append((block[start:stop], found.bad.get(index, "")))
        at += found.consumed
        if final:
            return records
        end += size


@given(st.lists(PIECES, max_size=60).map(b"".join), st.integers(1, 40))
@example(b'1,"a\nb",2\n3,"x,4\n5,6,7\n', 4)
@example(b'a,"b\r\n",c\r\n', 7)
@settings(max_examples=400)
def test_records_do_not_depend_on_where_blocks_are_cut(data: bytes, size: int) -> None:
    assert in_blocks(data, size) == all_of(data)


@given(st.lists(PIECES, max_size=60).map(b"".join))
@settings(max_examples=300)
def test_every_byte_is_in_a_record_or_a_line_break(data: bytes) -> None:
    found = split(data, THREE, final=True)
    kept = b"".join(record for record, _ in all_of(data))
    assert found.consumed == len(data)
    assert len(kept.replace(b"\r", b"").replace(b"\n", b"")) == len(data.replace(b"\r", b"").replace(b"\n", b""))


def test_quoted_line_breaks_belong_to_their_record() -> None:
    assert all_of(b'1,"a\nb",2\n3,"c""\n",4') == [(b'1,"a\nb",2', ""), (b'3,"c""\n",4', "")]


def test_an_open_quote_spoils_its_own_line_only() -> None:
    data = b'1,"a,2\n3,b,4\n5,"c",6\n7,d,8\n'
    assert all_of(data) == [(b'1,"a,2', "UNPARSEABLE"), (b"3,b,4", ""), (b'5,"c",6', ""), (b"7,d,8", "")]


def test_a_quote_that_swallows_whole_lines_is_taken_for_a_broken_one() -> None:
    data = b'1,"a,2\n3,b,4\n5",c,6\n'
    assert [reason for _, reason in all_of(data)] == ["UNPARSEABLE", "", ""]


def test_quotes_inside_a_plain_field_are_text() -> None:
    assert all_of(b'1,5" pipe,2\n') == [(b'1,5" pipe,2', "")]


def test_blank_lines_are_no_records() -> None:
    assert all_of(b"\n\r\n1,2,3\n\n") == [(b"1,2,3", "")]


def test_an_unterminated_line_waits_unless_it_is_the_last() -> None:
    assert not len(split(b"1,2,3", THREE, final=False))
    assert all_of(b"1,2,3") == [(b"1,2,3", "")]


def test_a_record_without_end_is_told() -> None:
    assert split(b"x" * (MAX_RECORD_BYTES + 1), THREE, final=False).overlong
    long = b"y" * (MAX_RECORD_BYTES + 1) + b"\n1,2,3\n"
    assert [reason for _, reason in all_of(long)] == ["ROW_TOO_LARGE", ""]
    opened = b'1,"' + b"z" * MAX_RECORD_BYTES + b"\n4,5,6\n"
    assert [reason for _, reason in all_of(opened)] == ["ROW_TOO_LARGE", ""] or [
        reason for _, reason in all_of(opened)
    ] == ["UNPARSEABLE", ""]
