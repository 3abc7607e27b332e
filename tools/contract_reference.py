"""Writes docs/reference/{rpcs,errors,sql}.md from the protos, the status table and the sandbox; `--check` says whether they are fresh."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from millrace.engine import functions
from millrace.server.status import CODES
from millrace.types.v1 import access_pb2

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
AREAS = ("storage", "extract", "transform", "analysis", "viz", "admin")
LEVELS = {
    MethodOptions.NO_SIDE_EFFECTS: "no side effects",
    MethodOptions.IDEMPOTENT: "idempotent",
    MethodOptions.IDEMPOTENCY_UNKNOWN: "by offset",
}
Comments = dict[tuple[int, ...], str]
WRITTEN = "Written by `python tools/contract_reference.py`; a test holds it fresh."


def files() -> Iterator[tuple[descriptor_pb2.FileDescriptorProto, Comments]]:
    """Every file of `protos/` with its comments by source path."""
    protos = ROOT / "protos"
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{ROOT / 'third_party/protos'}"]
        command += ["--include_source_info", f"--descriptor_set_out={out}", *sources]
        subprocess.run(command, check=True)
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    for file in found.file:
        yield file, {tuple(place.path): place.leading_comments for place in file.source_code_info.location}


def sentence(comment: str) -> str:
    """A comment as one line of Markdown."""
    return " ".join(comment.split()).replace("|", "\\|")


def arrow(method: descriptor_pb2.MethodDescriptorProto) -> str:
    return {(False, False): "→", (False, True): "⇉", (True, True): "⇄"}[
        (method.client_streaming, method.server_streaming)
    ]


CALLERS = {
    access_pb2.CALLERS_SIGNED_IN: "everybody signed in",
    access_pb2.CALLERS_SERVICES: "services, admin everywhere",
}


def who(method: descriptor_pb2.MethodDescriptorProto) -> str:
    """Which role the RPC needs, and for what: `writer of open.table`."""
    access = method.options.Extensions[access_pb2.access]
    needs = dict.fromkeys(
        f"{' or '.join(access_pb2.Role.Name(role)[5:].lower() for role in need.any_of)}"
        f" {f'of `{need.field}`' if need.field else 'everywhere'}"
        for need in access.needs
    )
    return "; ".join([*needs, *([CALLERS[access.callers]] if access.callers else [])])


def rpcs() -> str:
    """All RPCs by service."""
    lines = [f"# The RPCs\n\n{WRITTEN}\n", "→ one answer, ⇉ a stream of answers, ⇄ streams both ways.", ""]
    by_area: dict[str, list[str]] = {area: [] for area in AREAS}
    for file, comments in files():
        area = file.package.split(".")[1]
        for index, service in enumerate(file.service):
            part = [f"## {file.package}.{service.name}", "", sentence(comments.get((6, index), "")), ""]
            part += ["| RPC | | repeating it | who may | what it does |", "| --- | --- | --- | --- | --- |"]
            for number, method in enumerate(service.method):
                said = sentence(comments.get((6, index, 2, number), ""))
                level = LEVELS[method.options.idempotency_level]
                part.append(f"| `{method.name}` | {arrow(method)} | {level} | {who(method)} | {said} |")
            by_area[area] += [*part, ""]
    return "\n".join([*lines, *(line for area in AREAS for line in by_area[area])])


def errors() -> str:
    """All reasons with their code and what to do next."""
    lines = [
        f"# Errors\n\n{WRITTEN}\n",
        textwrap.dedent("""\
            Every error that Millrace makes is a `google.rpc.Status` with an `ErrorInfo` of the domain `millrace.dev`; its `reason`
            is one of these. `BadRequest` names fields, `RetryInfo` a pause, `LocalizedMessage` what to do next. A status without it
            is *bare*: it came from the transport or a proxy; resume the stream, or repeat a read with back-off (0.1 to 5 s, full
            jitter, at most 10 tries without a new message)."""),
        "",
        "| reason | code | what it means, what to do |",
        "| --- | --- | --- |",
    ]
    for file, comments in files():
        for index, enum in enumerate(file.enum_type):
            if enum.name == "Reason":
                for number, value in enumerate(enum.value[1:], 1):
                    reason = value.name.removeprefix("REASON_")
                    said = sentence(comments.get((5, index, 2, number), "")).split(".", 1)[-1].strip()
                    lines.append(f"| `{reason}` | {CODES[reason].name} | {said} |")
    return "\n".join([*lines, ""])


def sql() -> str:
    """What SQL may use."""
    groups = {
        "Aggregates": functions.AGGREGATES,
        "Windows": functions.WINDOWS,
        "Numbers": functions.NUMBERS,
        "Text": functions.TEXT,
        "Times": functions.TIMES,
        "Lists, structs, maps, JSON": functions.NESTED,
        "General": functions.GENERAL,
        "Volatile (allowed in queries; a transform that uses one is not incremental)": functions.VOLATILE,
        "Table functions": functions.TABLE_FUNCTIONS,
        "Type names": functions.TYPES,
    }
    intro = textwrap.dedent("""\
        One SELECT in DuckDB's dialect. Tables are named `flights` or `other_namespace.flights`; `flights$all` also has the columns that
        storage adds (`_ingested_at`), and `flights$dead_letters` the rows that were refused. `$name` is a parameter. Nothing else can be
        reached: no files, settings, catalogs, other statements, nor functions that are not listed here. What is refused is named in
        SQL_INVALID.""")
    parts = [f"# SQL\n\n{WRITTEN}\n", intro, ""]
    for title, names in groups.items():
        parts += [f"## {title}", "", textwrap.fill(" · ".join(f"`{name}`" for name in sorted(names)), 140), ""]
    return "\n".join(parts)


PIPELINE_INTRO = """\
A pipeline file is YAML; `millrace apply` reads it whole before it changes anything, and names every mistake with its line and the
nearest right word.

    apiVersion: millrace.dev/v1
    kind: Pipeline                 # or Dashboard: `spec` is then one dashboard
    metadata: {name: flights, namespace: default, title: Departures from New York, description: …}
    spec:
      tables:     {flights: …}
      sources:    {flights: …}
      transforms: {departures: …}
      dashboards: {flights: …}

Names match `[a-z][a-z0-9_]{0,62}`; a bare table name means the file's namespace. Durations are `250ms`, `1s`, `5m`, `2h`, `1d`;
times are ISO 8601 with an offset. Sources that are not `continuous` are run once by `apply`.

## Tables

| key | what it says |
| --- | --- |
| `columns` | name: [type](types.md), `?` behind it allows NULL |
| `event_time` | the column of event time: a timestamp |
| `primary_key` | a column or a list of columns that name a row: what `merge` replaces it by and `lookup` finds it by |
| `sequence_column` | the column that says which of two rows of one key is the newer; cannot be changed |
| `native_lookup` | `true`: keep the rows by key in a table of the store's own as well (Cassandra); when the table is made |
| `rules` | column: `{minimum, maximum, allowed}`; what breaks one becomes a dead letter |
| `description` | for people |
| `retention` | `{keep_rows, exact, keep_versions}`: how long rows (by event time) and versions stay, as [here](../how-to/keep-less.md) |
"""
ROOTS = {"Sources": "SourceSpec", "Transforms": "TransformSpec", "Dashboards": "DashboardSpec"}


def pipeline() -> str:
    """Every key of a pipeline file."""
    known: dict[str, tuple[descriptor_pb2.DescriptorProto, Comments, int]] = {}
    choices: dict[str, str] = {}
    for file, comments in files():
        known |= {f".{file.package}.{m.name}": (m, comments, index) for index, m in enumerate(file.message_type)}
        choices |= {f".{file.package}.{enum.name}": words_of(enum) for enum in file.enum_type}
    parts = [f"# The pipeline file\n\n{WRITTEN}\n", PIPELINE_INTRO]
    for title, root in ROOTS.items():
        parts += [f"## {title}", ""]
        todo, seen = [next(name for name in known if name.endswith(f".{root}"))], set[str]()
        while todo:
            name = todo.pop(0)
            if name not in seen:
                seen.add(name)
                lines, inner = keys_of(*known[name], choices)
                parts += lines if name.endswith(f".{root}") else [f"### {name.rsplit('.', 1)[1]}", "", *lines]
                todo += [one for one in inner if one in known and "google" not in one]
    return "\n".join(parts)


def words_of(enum: descriptor_pb2.EnumDescriptorProto) -> str:
    """An enum's values as YAML spells them."""
    prefix = enum.value[0].name.removesuffix("UNSPECIFIED")
    return ", ".join(f"`{value.name.removeprefix(prefix).lower()}`" for value in enum.value[1:])


def keys_of(
    message: descriptor_pb2.DescriptorProto, comments: Comments, index: int, choices: dict[str, str]
) -> tuple[list[str], list[str]]:
    """A message as a table of keys, and the messages that its keys hold."""
    lines, inner = ["| key | value | what it says |", "| --- | --- | --- |"], []
    entries = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
    for number, field in enumerate(message.field):
        value = entries.get(field.type_name.rsplit(".", 1)[-1])
        kind = field if value is None else value.field[1]
        shown = kind.type_name.rsplit(".", 1)[1] if kind.type_name else TYPE_WORDS.get(kind.type, "number")
        shown = choices.get(kind.type_name, shown)
        shown = f"id: {shown}" if value is not None else f"list of {shown}" if field.label == 3 else shown
        automatic = "".join([w if i == 0 else w.capitalize() for i, w in enumerate(field.name.split("_"))])
        key = field.json_name if field.json_name != automatic else field.name
        lines.append(f"| `{key}` | {shown} | {sentence(comments.get((4, index, 2, number), ''))} |")
        if kind.type == kind.TYPE_MESSAGE:
            inner.append(kind.type_name)
    return [*lines, ""], inner


TYPE_WORDS = {9: "text", 8: "true or false", 5: "whole number", 3: "whole number", 1: "number"}
PAGES = {"rpcs.md": rpcs, "errors.md": errors, "sql.md": sql, "pipeline.md": pipeline}


def stale() -> list[str]:
    """Pages that are not what they would be written as."""
    return [name for name, make in PAGES.items() if not (page := FOLDER / name).exists() or page.read_text() != make()]


def main() -> int:
    if "--check" in sys.argv:
        return 1 if stale() else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
