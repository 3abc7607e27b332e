"""A pipeline file becomes requests; a mistake is named with its place and the nearest right word, all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.pipeline.document import PipelineInvalid
from millrace.pipeline.render import part_of, to_yaml
from millrace.pipeline.spec import Pipeline, read_pipeline
from millrace.types.v1 import types_pb2

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SMALL = """\
apiVersion: millrace.dev/v1
kind: Pipeline
metadata: {name: small, title: A small one}
spec:
  tables:
    orders:
      event_time: at
      columns: {id: int64, at: "timestamp[UTC]", price: "decimal(10,2)?", state: string}
      rules:
        price: {minimum: 0.00, maximum: 99999.99}
        state: {allowed: [open, paid]}
  sources:
    orders: {table: orders, continuous: true, commit_interval: 250ms, files: {path: in/*.csv, format: csv, csv: {null_values: [NA, ""]}}}
  transforms:
    paid: {sql: "SELECT id, at, price FROM orders WHERE state = 'paid'", driving_table: orders}
"""


def read(text: str) -> Pipeline:
    return read_pipeline(text, "small.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(PipelineInvalid) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_names_become_full_and_types_become_messages() -> None:
    pipeline = read(SMALL)
    (table,) = pipeline.tables
    assert table.name == "namespaces/default/tables/orders"
    assert [field.name for field in table.schema.fields if field.nullable] == ["price"]
    assert table.rules[0].minimum == types_pb2.Value(decimal="0.00")
    (source,) = pipeline.sources
    assert source.spec.table == table.name
    assert source.spec.commit_interval.ToMilliseconds() == 250
    assert list(source.spec.files.csv.null_values) == ["NA", ""]
    (transform,) = pipeline.transforms
    assert transform.spec.output == "namespaces/default/tables/paid"


def test_another_namespace_names_everything() -> None:
    pipeline = read(SMALL.replace("name: small,", "name: small, namespace: shop,"))
    assert pipeline.sources[0].spec.table == "namespaces/shop/tables/orders"


@pytest.mark.parametrize("example", sorted(EXAMPLES.rglob("pipeline.yaml")), ids=lambda path: path.parent.name)
def test_what_is_rendered_reads_the_same(example: Path) -> None:
    before = read_pipeline(example.read_text(), str(example))
    parts: dict[str, dict[str, object]] = {}
    everything = [*before.tables, *before.sources, *before.transforms, *before.dashboards]
    assert everything
    for message in everything:
        collection, name, value = part_of(message)
        parts.setdefault(collection, {})[name] = value
    after = read_pipeline(to_yaml(parts, before.name), "rendered.yaml")
    assert [*after.tables, *after.sources, *after.transforms, *after.dashboards] == everything


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("driving_table", "driving_tabel", "15:74: unknown key `driving_tabel`; did you mean `driving_table`?"),
        ("continuous: true", "continuous: perhaps", "13:41: `perhaps` is neither true nor false"),
        ("250ms", "soon", "13:64: `soon` is no duration: write 250ms, 1s, 5m, 2h or 1d"),
        ("format: csv", "format: cvs", "13:103: `cvs` is not one of the values; did you mean `csv`?"),
        ("id: int64", "id: int46", "8:21: no type is called `int46`"),
        ("event_time: at", "event_time: ta", "7:19: no column `ta`; known here: at, id, price, state"),
        ("minimum: 0.00", "minimum: none", "10:26: `none` is no decimal128(10, 2)"),
        ("kind: Pipeline", "kind: Pipelin", "2:7: unknown kind `Pipelin`; did you mean `Pipeline`?"),
        ("name: small", "name: Small", "3:18: `Small` is no name"),
        ("millrace.dev/v1", "millrace.dev/v9", "1:13: `millrace.dev/v9` is not known here"),
        ("    paid:", "    9paid:", "15:5: `9paid` is no name"),
        ("sources:", "tables:", "12:3: said twice"),
    ],
)
def test_a_mistake_is_named_with_its_place(wrong: str, right: str, said: str) -> None:
    assert any(f"small.yaml:{said}" in line for line in problems(SMALL.replace(wrong, right, 1)))


def test_all_mistakes_are_told_at_once() -> None:
    text = SMALL.replace("int64", "int46").replace("250ms", "soon").replace("driving_table", "driver")
    assert [line.split(":")[1] for line in problems(text)] == ["8", "13", "15"]


def test_a_ring_is_refused_before_anything_is_applied() -> None:
    ring = (
        SMALL
        + "    back: {sql: SELECT * FROM paid, output: middle}\n    again: {sql: SELECT * FROM middle, output: orders}\n"
    )
    assert any("a cycle: " in line for line in problems(ring))


def test_connectors_exclude_each_other() -> None:
    text = SMALL.replace("files: {path", "push: {}, files: {path")
    assert any("`files` and `push` exclude each other" in line for line in problems(text))


@pytest.mark.parametrize(
    "text", ["", "{", "a: b", "- 1", "kind: [", "\x00", "&a [*a]", "spec: !!python/object:os.system {}"]
)
def test_what_is_no_pipeline_says_so(text: str) -> None:
    assert problems(text)
