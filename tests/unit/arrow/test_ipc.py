"""What the guarded decoder takes, refuses, and survives."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from millrace.arrow import ipc
from millrace.errors import ArrowInvalid, ArrowTooLarge, FixRequest, UnsupportedType

BATCH = pa.record_batch({"n": [1, None, 3], "s": ["a", "", None], "l": [[1], [], None]})


@pytest.mark.parametrize("codec", ipc.Codec)
def test_a_batch_comes_back_as_it_was(codec: ipc.Codec) -> None:
    assert ipc.decode(ipc.encode(BATCH, codec)).equals(BATCH)
    assert ipc.read(ipc.encode(BATCH, codec)).equals(BATCH)


def test_a_slice_carries_only_its_own_rows() -> None:
    whole = pa.record_batch({"n": np.arange(100_000)})
    assert len(ipc.encode(whole.slice(5, 10))) < 1_000
    assert ipc.decode(ipc.encode(whole.slice(5, 10))).equals(whole.slice(5, 10))


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    bomb = ipc.encode(pa.record_batch({f"c{at}": np.zeros(10_000_000, np.int64) for at in range(10)}), ipc.Codec.ZSTD)
    assert len(bomb) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArrowTooLarge) as refused:
        ipc.decode(bomb)
    assert refused.value.metadata["decoded_bytes"] == str(800_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_the_limit_is_the_decoded_size() -> None:
    data = ipc.encode(pa.record_batch({"n": np.zeros(1_000, np.int64)}), ipc.Codec.LZ4)
    assert ipc.decode(data, max_decoded_bytes=8_000).num_rows == 1_000
    with pytest.raises(ArrowTooLarge):
        ipc.decode(data, max_decoded_bytes=7_999)


def stream(*batches: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, BATCH.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 64,
        b"col_a,col_b\n1,2\n",
        stream(),
        stream(BATCH, BATCH),
        ipc.encode(BATCH) + b"\x00" * 8,
        ipc.encode(BATCH)[:-20],
        ipc.encode(BATCH)[4:],
        pa.ipc.read_message(ipc.encode(BATCH)).serialize().to_pybytes(),
    ],
    ids=["empty", "zeros", "csv", "no-batch", "two-batches", "trailing", "cut", "no-marker", "schema-alone"],
)
def test_what_is_not_one_batch_is_refused(data: bytes) -> None:
    with pytest.raises(ArrowInvalid):
        ipc.decode(data)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "a"]).dictionary_encode(),
        pa.array(["a"], pa.string_view()),
        pa.array([[1]], pa.list_view(pa.int64())),
        pa.array([b""], pa.binary(0)),
        pa.array([[]], pa.list_(pa.int8(), 0)),
        pa.nulls(3),
        pa.array([{}], pa.struct([])),
        pa.RunEndEncodedArray.from_arrays([2], [1]),
        pa.array([pa.MonthDayNano([1, 2, 3])]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
    ],
    ids=lambda column: str(column.type)[:20],
)
def test_types_that_no_table_has_are_refused(column: pa.Array) -> None:
    with pytest.raises((UnsupportedType, ArrowInvalid)):
        ipc.decode(ipc.encode(pa.record_batch({"c": column})))


def test_values_that_break_arrows_own_rules_are_refused() -> None:
    text = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    with pytest.raises(ArrowInvalid):
        ipc.decode(ipc.encode(pa.record_batch({"c": text})))
    honest, wild = (np.array([0, end], np.int32).tobytes() for end in (2, 2**30))
    with pytest.raises(ArrowInvalid):
        ipc.decode(ipc.encode(pa.record_batch({"c": pa.array(["ab"])})).replace(honest, wild))


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_messages_never_kill_the_process(seed: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("fuzz_decode.py")
    kept = tmp_path / "input"
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(script), str(seed), "6000"],
        env={**os.environ, "FUZZ_INPUT": str(kept), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, f"{kept.read_bytes().hex()}\n{run.stderr}"
    assert "ARROW_INVALID" in run.stdout
    assert "decoded" in run.stdout


REGRESSIONS = sorted(Path(__file__).with_name("fuzz_kept").glob("*.bin"))


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_inputs_that_once_killed_it_are_refused(path: Path) -> None:
    with pytest.raises(FixRequest):
        ipc.decode(path.read_bytes())
