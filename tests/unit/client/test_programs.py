"""What programs touch first: finding the services, conditions, rows of any shape, the blocking face."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from millrace import connect, errors
from millrace.client.blocking import LoopThread
from millrace.client.endpoints import Endpoints
from millrace.client.rows import batches_of
from millrace.client.where import predicate
from millrace.types.v1 import types_pb2 as pb

SCHEMA = pa.schema([pa.field("n", pa.int64()), pa.field("s", pa.string())])


def test_endpoints_are_found_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Missing) as nothing:
        Endpoints.find(tmp_path)
    assert "make up" in nothing.value.hint
    (tmp_path / "token").write_text("secret\n")
    content = {"services": {"storage": "127.0.0.1:7"}, "url": "http://x", "token_file": "token"}
    (tmp_path / "endpoints.json").write_text(json.dumps(content))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    found = Endpoints.find()
    assert found.target("storage") == "127.0.0.1:7"
    assert found.token() == "secret"
    assert "secret" not in repr(found)
    with pytest.raises(errors.Missing, match="analysis"):
        found.target("analysis")
    (tmp_path / "token").write_text("newer")
    os.utime(tmp_path / "token", ns=(1, 1))
    assert found.token() == "newer"
    (tmp_path / "endpoints.json").write_text("{")
    with pytest.raises(errors.FieldInvalid):
        Endpoints.find()


def test_an_unknown_service_is_a_mistake_at_once() -> None:
    with pytest.raises(TypeError, match="storag"):
        connect(storag="127.0.0.1:7")


def test_conditions() -> None:
    made = predicate([("a", ">", 1), ("b", "in", ["x", "y"]), ("c", "is not null")])
    assert made is not None
    first, second, third = made.all_of.predicates
    assert first.compare == pb.Comparison(column="a", op=pb.COMPARE_OP_GT, value=pb.Value(int=1))
    assert [value.string for value in second.one_of.values] == ["x", "y"]
    assert third.negation.is_null == "c"
    assert predicate(made) is made
    assert predicate(None) is None
    with pytest.raises(errors.FieldInvalid, match="not a condition"):
        predicate([("a", "~", 1)])


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"n": [1, 2], "s": ["a", None]}),
        pa.table({"n": [1, 2], "s": ["a", None]}).to_batches(),
        pd.DataFrame({"n": [1, 2], "s": ["a", None]}),
        pd.DataFrame({"n": [1.0, 2.0], "s": ["a", None]}),
        {"n": [1, 2], "s": ["a", None]},
        [{"n": 1, "s": "a"}, {"n": 2}],
        [pa.record_batch({"n": [1], "s": ["a"]}), {"n": 2}],
        iter([{"n": 1, "s": "a"}, {"n": 2}]),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_rows_of_any_shape(rows: Any) -> None:
    table = pa.Table.from_batches(list(batches_of(rows, SCHEMA)), SCHEMA)
    assert table.to_pylist() == [{"n": 1, "s": "a"}, {"n": 2, "s": None}]


@pytest.mark.parametrize(
    "rows", [{"n": ["x"]}, [{"n": 1, "more": 1}], [{"n": 2**70}], pd.DataFrame({"n": [1.5]}), 7, "text"]
)
def test_rows_that_do_not_fit(rows: Any) -> None:
    with pytest.raises(errors.FixRequest):
        list(batches_of(rows, SCHEMA))


def test_importing_millrace_loads_nothing_heavy() -> None:
    code = (
        "import sys, millrace, millrace.errors; print([m for m in ('grpc', 'pyarrow', 'pandas') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    code = "import sys; from millrace import connect; print([m for m in ('pandas', 'polars', 'duckdb') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_leaving_a_loop_closes_what_it_read_from() -> None:
    thread, closed = LoopThread(), threading.Event()

    async def numbers() -> Any:
        try:
            for number in range(100):
                yield number
        finally:
            closed.set()

    for number in thread.each(numbers()):
        if number == 3:
            break
    assert closed.wait(2)
    with pytest.raises(ZeroDivisionError):
        thread.run(_fail())
    thread.close()
    thread.close()
    assert not thread._thread.is_alive()


async def _fail() -> None:
    raise ZeroDivisionError


def test_an_unreachable_server_is_an_error_in_words() -> None:
    began = time.monotonic()
    with connect(storage="127.0.0.1:1") as client, pytest.raises(errors.RetryLater, match="connection broke"):
        client.run(_quick(client.aio))
    assert time.monotonic() - began < 5


async def _quick(client: Any) -> None:
    from millrace.client.channel import call
    from millrace.storage.v1 import storage_pb2, storage_pb2_grpc

    connection = client.connection("storage")
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    await call(
        connection, stub.ListTables, storage_pb2.ListTablesRequest(), answer=storage_pb2.ListTablesResponse, tries=2
    )
