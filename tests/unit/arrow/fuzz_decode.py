"""Feeds damaged Arrow messages to the guarded decoder; run in a process of its own, because that is what a hole would kill.

`python fuzz_decode.py SEED COUNT`: exits 0 when every input was decoded or refused with one of Millrace's errors. Before each try the
input is written to the file that FUZZ_INPUT names, so an input that kills the process is kept.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa

from millrace.arrow import ipc
from millrace.errors import FixRequest


def seeds() -> list[bytes]:
    """Honest messages of every layout."""
    words = ["", "a", "word" * 9, None]
    batches = [
        pa.record_batch({"n": pa.array([1, None, 3]), "s": pa.array(["x", None, "long enough to not be inlined"])}),
        pa.record_batch(
            {"v": pa.array(words, pa.string_view()), "b": pa.array([b"a", None, b"cc" * 20, b""], pa.binary_view())}
        ),
        pa.record_batch(
            {"l": pa.array([[1, 2], None, []]), "big": pa.array([["a"], [], None], pa.large_list(pa.large_string()))}
        ),
        pa.record_batch(
            {
                "st": pa.array([{"a": 1, "b": ["q"]}, None]),
                "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
            }
        ),
        pa.record_batch(
            {"f": pa.array([[1, 2], None], pa.list_(pa.int16(), 2)), "fb": pa.array([b"abc", None], pa.binary(3))}
        ),
        pa.record_batch(
            {"d": pa.array([1, None]).cast(pa.decimal128(21, 2)), "d256": pa.array([1, 2]).cast(pa.decimal256(30, 2))}
        ),
        pa.record_batch(
            {"t": pa.array([1, 2], pa.timestamp("us", "UTC")), "u": pa.array([1, 2], pa.uint64()), "o": [True, None]}
        ),
        pa.record_batch({"dict": pa.array(["a", "b", "a"]).dictionary_encode()}),
        pa.record_batch(
            {"un": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])}
        ),
        pa.record_batch({"ree": pa.RunEndEncodedArray.from_arrays([2, 4], [1, 2])}),
        pa.record_batch({"lv": pa.array([[1], [2, 3]], pa.list_view(pa.int64())), "nul": pa.nulls(2)}),
    ]
    return [ipc.encode(batch, codec) for batch in batches for codec in ipc.Codec]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` with a few bytes, words or lengths changed, cut or repeated."""
    mess = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(mess))
        match dice.randrange(6):
            case 0:
                mess[at] = dice.randrange(256)
            case 1:
                mess[at] ^= 1 << dice.randrange(8)
            case 2:
                _overwrite(
                    mess,
                    at // 4 * 4,
                    struct.pack("<i", dice.choice((-1, 0, 1, 7, 8, 2**31 - 1, -(2**31), dice.randrange(2**31)))),
                )
            case 3:
                _overwrite(
                    mess,
                    at // 8 * 8,
                    struct.pack("<q", dice.choice((-1, 0, 1, 2**40, 2**63 - 1, -(2**63), dice.randrange(2**20)))),
                )
            case 4:
                del mess[at : at + dice.randrange(1, 64)]
            case 5:
                mess[at:at] = mess[at : at + dice.randrange(1, 64)]
        if not mess:
            break
    return bytes(mess)


def _overwrite(mess: bytearray, at: int, with_: bytes) -> None:
    mess[at : at + len(with_)] = with_[: len(mess) - at]


def main(seed: int, count: int) -> None:
    dice, honest, outcomes = random.Random(seed), seeds(), Counter[str]()
    keep = Path(os.environ.get("FUZZ_INPUT", os.devnull))
    for _ in range(count):
        data = damaged(dice.choice(honest), dice)
        keep.write_bytes(data)
        try:
            batch = ipc.decode(data)
        except FixRequest as error:
            outcomes[error.reason] += 1
        else:
            outcomes["decoded"] += 1
            # What was let through must be safe to use.
            repr(batch.to_pylist() if "tz=" not in str(batch.schema) else str(batch))
            ipc.encode(batch)
    print(dict(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
