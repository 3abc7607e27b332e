"""What is no good is refused by name or kept as a dead letter; nothing else happens."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millrace.errors import FieldInvalid, MillraceError, NotAllowed, SchemaMismatch
from svc_extract.ports import RunState
from tests.unit.extract.conftest import SCHEMA, World, files, finished

HEADER = b"id,name,price\n"


async def read(world: World, content: bytes, name: str = "a.csv", **options: Any) -> list[dict[str, object]]:
    (world.folder / name).write_bytes(content)
    await world.put(files(world.folder, name, **options))
    async with world.working():
        done = finished(await world.run("r1"))
    assert done.state is RunState.SUCCEEDED, done.error
    return world.table.rows()


def letters(world: World) -> list[tuple[int, str, str, bytes]]:
    return [(one.row_index, one.reason, one.field, one.raw) for one in world.table.letters]


async def test_each_bad_line_is_kept_with_reason_place_and_bytes(world: World) -> None:
    lines = [
        b"1,a,1",
        b"x,b,2",
        b"3,c",
        b"4,d,4,5",
        b"5,\xff\xfe,5",
        b'6,"f,6',
        b"7,g,1e999",
        b"99999999999999999999,h,8",
        b"9,i,9",
    ]
    rows = await read(world, HEADER + b"\n".join(lines))
    assert [row["id"] for row in rows] == [1, 9]
    assert letters(world) == [
        (1, "TYPE", "id", lines[1]),
        (2, "FIELD_COUNT", "", lines[2]),
        (3, "FIELD_COUNT", "", lines[3]),
        (4, "ENCODING", "", lines[4]),
        (5, "UNPARSEABLE", "", lines[5]),
        (6, "TYPE", "price", lines[6]),
        (7, "TYPE", "id", lines[7]),
    ]


async def test_nan_and_infinity_are_values_overflow_is_not(world: World) -> None:
    rows = await read(world, HEADER + b"1,a,NaN\n2,b,-inf\n3,c,1e400\n")
    assert math.isnan(rows[0]["price"])  # type: ignore[arg-type]
    assert rows[1]["price"] == -math.inf
    assert [one[1:3] for one in letters(world)] == [("TYPE", "price")]


@pytest.mark.parametrize(
    ("prefix", "encoding", "said"),
    [
        (b"\xef\xbb\xbf", "utf-8", ""),
        (b"\xff\xfe", "utf-16-le", ""),
        (b"", "utf-16-le", "utf-16"),
        (b"", "latin-1", "latin-1"),
        (b"", "utf-8", "UTF8"),
    ],
)
async def test_encodings(world: World, prefix: bytes, encoding: str, said: str) -> None:
    text = 'id,name,price\r\n1,"Käse\r\n""süß""",1.5\r\n\r\nx,é,2\r\n2,ü,3'
    rows = await read(world, prefix + text.encode(encoding), csv={"encoding": said})
    assert [(row["id"], row["name"]) for row in rows] == [(1, 'Käse\r\n"süß"'), (2, "ü")]
    assert letters(world) == [(1, "TYPE", "id", "x,é,2".encode(encoding))]


async def test_null_values_and_quoted_ones(world: World) -> None:
    rows = await read(world, HEADER + b'1,NA,NA\n2,"NA","NA"\n3,,-\n', csv={"null_values": ["NA", "-"]})
    assert [(row["name"], row["price"]) for row in rows] == [(None, None), ("NA", None), ("", None)]


async def test_renamed_and_extra_columns(world: World) -> None:
    content = b"Order ID,Name,unit-price,color\n1,a,2,red\n"
    options = {"rename": {"Order ID": "id", "unit_price": "price"}, "ignore_extra_columns": True}
    assert await read(world, content, csv=options) == [{"id": 1, "name": "a", "price": 2.0}]


@pytest.mark.parametrize(
    ("content", "csv", "field"),
    [
        (b"id,name,price,color\n1,a,2,red\n", {}, "color"),
        (b"id,name,Name,price\n", {}, "name"),
        (b"name,price\na,1\n", {}, "id"),
    ],
)
async def test_a_header_that_does_not_fit_is_refused(
    world: World, content: bytes, csv: dict[str, Any], field: str
) -> None:
    (world.folder / "a.csv").write_bytes(content)
    with pytest.raises(SchemaMismatch) as refused:
        await world.put(files(world.folder, "a.csv", csv=csv))
    assert field in refused.value.field or field in refused.value.message


async def test_a_binary_named_csv_is_refused(world: World) -> None:
    (world.folder / "a.csv").write_bytes(b"\x7fELF\x02\x01\x01\0\0\0" * 200)
    with pytest.raises(MillraceError) as refused:
        await world.put(files(world.folder, "a.csv"))
    assert "not a text file" in refused.value.message


async def test_files_outside_of_the_roots_are_refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "b.csv"
    outside.write_bytes(HEADER)
    (world.folder / "link.csv").symlink_to(outside)
    for pattern in (str(outside), "../*/b.csv", "link.csv"):
        with pytest.raises(NotAllowed) as refused:
            await world.put(files(world.folder, pattern))
        assert str(outside.parent) not in refused.value.message


async def test_more_than_a_thousand_files_are_refused(world: World) -> None:
    for index in range(1001):
        (world.folder / f"{index}.csv").touch()
    with pytest.raises(FieldInvalid, match="1000"):
        await world.put(files(world.folder, "*.csv"))


@pytest.mark.parametrize(
    "csv", [{"delimiter": ",,"}, {"quote": "\n"}, {"encoding": "klingon"}, {"encoding": "utf-7"}, {"quote": ","}]
)
async def test_options_that_cannot_work_are_refused(world: World, csv: dict[str, Any]) -> None:
    with pytest.raises(FieldInvalid) as refused:
        await world.put(files(world.folder, "a.csv", csv=csv))
    assert refused.value.field.startswith(("source.spec.files.csv", "source.spec.csv"))


async def test_a_line_without_end_costs_one_dead_letter(world: World) -> None:
    rows = await read(world, HEADER + b"1,a,1\n2," + b"x" * 3_000_000 + b",2\n3,c,3\n")
    assert [row["id"] for row in rows] == [1, 3]
    (found,) = world.table.letters
    assert (found.reason, len(found.raw)) == ("ROW_TOO_LARGE", 64 * 1024)


async def test_json_lines(world: World) -> None:
    lines = [
        b'{"id": 1, "name": "a", "price": 1e2}',
        b'{"id": "9007199254740993", "price": null}',
        b'{"id": 3, "name": 5}',
        b'{"id": 4, "color": "red"}',
        b'{"id": 5,',
        b"[1]",
        b'{"id": true}',
        b'{"id": 8, "name": "\\ud800"}',
    ]
    rows = await read(world, b"\n".join(lines) + b"\n", "a.jsonl")
    assert rows == [{"id": 1, "name": "a", "price": 100.0}, {"id": 9007199254740993, "name": None, "price": None}]
    assert [(index, reason, field) for index, reason, field, _ in letters(world)] == [
        (2, "TYPE", "name"),
        (3, "FIELD_COUNT", "color"),
        (4, "UNPARSEABLE", ""),
        (5, "UNPARSEABLE", ""),
        (6, "TYPE", "id"),
        (7, "TYPE", "name"),
    ]


async def test_parquet_is_read_once_and_its_misfits_are_dead_letters(world: World) -> None:
    path = world.folder / "a.parquet"
    table = pa.table({"id": pa.array([1, 2**63, 3], pa.uint64()), "name": ["a", "b", "c"], "price": [1, 2, 3]})
    pq.write_table(table, path)
    await world.put(files(world.folder, "*.parquet"))
    async with world.working():
        first = finished(await world.run("r1"))
        again = finished(await world.run("r2"))
    assert [row["id"] for row in world.table.rows()] == [1, 3]
    assert json.loads(world.table.letters[0].raw)["name"] == "b"
    assert (first.progress.rows_read, again.progress.rows_read) == (3, 0)


async def test_chunks_fit_one_message_however_the_bytes_blow_up(tmp_path: Path) -> None:
    from tests.unit.extract.conftest import make_world

    wide = pa.schema([SCHEMA.field("id"), *(pa.field(f"c{index}", pa.decimal128(38, 0)) for index in range(30))])
    world = make_world(tmp_path, wide)
    (tmp_path / "a.csv").write_text(",".join(wide.names) + "\n" + "".join(f"{i}{',1' * 30}\n" for i in range(30_000)))
    await world.put(files(tmp_path, "a.csv"))
    async with world.working():
        await world.run("r1")
    assert max(batch.nbytes for batch in world.table.batches) <= 2_500_000
    assert [row["id"] for row in world.table.rows()] == list(range(30_000))
