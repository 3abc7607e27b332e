"""A pipeline file as the requests that make it so: tables, sources, transforms, dashboards, in the order to apply them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import yaml
from google.protobuf.message import Message

from millrace.errors import FieldInvalid, UnsupportedType
from millrace.extract.v1 import extract_pb2
from millrace.pipeline.document import Problem, Problems, entries, known_entries, nearest, parse, scalar
from millrace.pipeline.messages import fill
from millrace.pipeline.order import cycle_in, tables_of
from millrace.pipeline.tables import read_table
from millrace.storage.v1 import storage_pb2
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import pipeline_pb2
from millrace.viz.v1 import viz_pb2

__all__ = ["Pipeline", "Problem", "read_pipeline"]

API_VERSION = "millrace.dev/v1"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HEAD = ("apiVersion", "kind", "metadata", "spec")
_PARTS = ("tables", "sources", "transforms", "dashboards")
M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Pipeline:
    """What one file says. Names are full; every part is ready for its Put or Create request."""

    name: str = ""
    namespace: str = "default"
    title: str = ""
    description: str = ""
    tables: list[storage_pb2.Table] = field(default_factory=list)
    sources: list[extract_pb2.Source] = field(default_factory=list)
    transforms: list[transform_pb2.Transform] = field(default_factory=list)
    dashboards: list[viz_pb2.Dashboard] = field(default_factory=list)

    def full(self, collection: str, name: str) -> str:
        """`name` in this pipeline's namespace, unless it is a full name already."""
        return name if "/" in name or not name else f"namespaces/{self.namespace}/{collection}/{name}"

    def spec(self) -> pipeline_pb2.PipelineSpec:
        """The resource that groups the parts."""
        return pipeline_pb2.PipelineSpec(
            title=self.title or self.name,
            description=self.description,
            tables=[table.name for table in self.tables] + [t.spec.output for t in self.transforms],
            sources=[source.name for source in self.sources],
            transforms=[transform.name for transform in self.transforms],
            dashboards=[dashboard.name for dashboard in self.dashboards],
        )


def read_pipeline(text: str, file: str, namespace: str = "default") -> Pipeline:
    """Reads a pipeline file (or one of loose parts, or of one dashboard: its `name` stays empty). `namespace`: where the file names none.

    Raises PipelineInvalid with every mistake that it has."""
    problems = Problems(file)
    pipeline = Pipeline(namespace=namespace)
    nodes = parse(text, file)
    if not nodes:
        problems.found.append(Problem(file, 1, 1, "", "the file is empty"))
    for node in nodes:
        _read_document(pipeline, node, problems)
    problems.raise_any()
    return pipeline


def _read_document(pipeline: Pipeline, node: yaml.Node, problems: Problems) -> None:
    head = known_entries(node, "", _HEAD, problems)
    version = _word(head, "apiVersion", node, problems)
    if version not in (None, API_VERSION):
        problems.add(head["apiVersion"][1], "apiVersion", f"`{version}` is not known here: write {API_VERSION}")
    kind = _word(head, "kind", node, problems)
    name = _read_metadata(pipeline, head, node, problems)
    if "spec" not in head:
        problems.add(node, "spec", "missing")
    elif kind in ("Pipeline", "Parts"):
        if kind == "Pipeline" and pipeline.name:
            problems.add(
                node, "", f"a second pipeline in one file: `{pipeline.name}` stands above; give it its own file"
            )
        pipeline.name = name if kind == "Pipeline" else pipeline.name
        _read_parts(pipeline, head["spec"][1], problems)
    elif kind == "Dashboard":
        _read_dashboard(pipeline, name, head["spec"][1], "spec", problems)
    elif kind is not None:
        problems.add(
            head["kind"][1], "kind", f"unknown kind `{kind}`{nearest(kind, ('Pipeline', 'Parts', 'Dashboard'))}"
        )


def _word(head: Mapping[str, tuple[yaml.Node, yaml.Node]], key: str, node: yaml.Node, problems: Problems) -> str | None:
    if key not in head:
        problems.add(node, key, "missing")
        return None
    return scalar(head[key][1], key, problems)


def _read_metadata(
    pipeline: Pipeline, head: Mapping[str, tuple[yaml.Node, yaml.Node]], node: yaml.Node, problems: Problems
) -> str:
    if "metadata" not in head:
        problems.add(node, "metadata", "missing: `metadata: {name: …}`")
        return ""
    known = known_entries(head["metadata"][1], "metadata", ("name", "namespace", "title", "description"), problems)
    said = {key: scalar(value, f"metadata.{key}", problems) or "" for key, (_, value) in known.items()}
    pipeline.namespace = said.get("namespace") or pipeline.namespace
    pipeline.title = said.get("title", pipeline.title)
    pipeline.description = said.get("description", pipeline.description)
    for key in ("name", "namespace"):
        if key in known and not _NAME.fullmatch(said[key]):
            problems.add(known[key][1], f"metadata.{key}", _bad_name(said[key]))
    if "name" not in known:
        problems.add(head["metadata"][1], "metadata.name", "missing")
    return said.get("name", "")


def _bad_name(name: str) -> str:
    return f"`{name}` is no name: a small letter, then small letters, digits and _, 63 at most"


def _read_parts(pipeline: Pipeline, node: yaml.Node, problems: Problems) -> None:
    parts = known_entries(node, "spec", _PARTS, problems)
    readers: dict[str, Callable[[Pipeline, str, yaml.Node, str, Problems], None]] = {
        "tables": _read_table,
        "sources": _read_source,
        "transforms": _read_transform,
        "dashboards": _read_dashboard,
    }
    places: dict[str, yaml.Node] = {}
    for part in _PARTS:
        if part not in parts:
            continue
        for name, (key, value) in entries(parts[part][1], f"spec.{part}", problems).items():
            path = f"spec.{part}.{name}"
            if not _NAME.fullmatch(name):
                problems.add(key, path, _bad_name(name))
                continue
            places[f"{part}/{name}"] = key
            readers[part](pipeline, name, value, path, problems)
    _check_cycles(pipeline, places, problems)


def _read_table(pipeline: Pipeline, name: str, node: yaml.Node, path: str, problems: Problems) -> None:
    try:
        pipeline.tables.append(read_table(pipeline.full("tables", name), node, path, problems))
    except (UnsupportedType, FieldInvalid) as error:
        problems.add(node, path, error.message)


def _read_source(pipeline: Pipeline, name: str, node: yaml.Node, path: str, problems: Problems) -> None:
    source = extract_pb2.Source(name=pipeline.full("sources", name))
    fill(source.spec, node, path, problems)
    source.spec.table = pipeline.full("tables", source.spec.table)
    if not source.spec.table:
        problems.add(node, f"{path}.table", "missing: the table that its rows go to")
    if source.spec.WhichOneof("connector") is None:
        connectors = extract_pb2.SourceSpec.DESCRIPTOR.oneofs_by_name["connector"].fields
        problems.add(node, path, f"names no connector: one of {', '.join(f.name for f in connectors)}")
    pipeline.sources.append(source)


def _read_transform(pipeline: Pipeline, name: str, node: yaml.Node, path: str, problems: Problems) -> None:
    transform = transform_pb2.Transform(name=pipeline.full("transforms", name))
    fill(transform.spec, node, path, problems)
    transform.spec.output = pipeline.full("tables", transform.spec.output or name)
    transform.spec.driving_table = pipeline.full("tables", transform.spec.driving_table)
    if not transform.spec.sql:
        problems.add(node, f"{path}.sql", "missing: one SELECT")
    pipeline.transforms.append(transform)


def _read_dashboard(pipeline: Pipeline, name: str, node: yaml.Node, path: str, problems: Problems) -> None:
    dashboard = viz_pb2.Dashboard(name=pipeline.full("dashboards", name))
    fill(dashboard.spec, node, path, problems)
    if not dashboard.spec.title:
        dashboard.spec.title = pipeline.title or name
    pipeline.dashboards.append(dashboard)


def _check_cycles(pipeline: Pipeline, places: Mapping[str, yaml.Node], problems: Problems) -> None:
    edges = {
        t.spec.output: {pipeline.full("tables", table) for table in tables_of(t.spec.sql, pipeline.namespace)}
        for t in pipeline.transforms
    }
    if ring := cycle_in(edges):
        guilty = next(t for t in pipeline.transforms if t.spec.output == ring[0])
        name = guilty.name.rsplit("/", 1)[1]
        words = " → ".join(table.rsplit("/", 1)[1] for table in ring)
        problems.add(places[f"transforms/{name}"], f"spec.transforms.{name}", f"a cycle: {words}")
