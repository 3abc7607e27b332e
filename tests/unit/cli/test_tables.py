"""Against storage itself: apply, get, load, delete, and what they say when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.cli.conftest import Cli

ORDERS = """\
apiVersion: millrace.dev/v1
kind: Pipeline
metadata: {name: shop, title: A shop}
spec:
  tables:
    orders:
      event_time: at
      columns: {id: int64, at: "timestamp[UTC]", price: "decimal(10,2)?", state: "string?"}
      rules:
        price: {minimum: 0, maximum: 9999}
"""


@pytest.fixture
def shop(tmp_path: Path, cli: Cli) -> Path:
    """The file, applied."""
    path = tmp_path / "shop.yaml"
    path.write_text(ORDERS)
    assert cli("apply", str(path)).code == 0
    return path


def test_apply_creates_then_leaves_alone_then_changes(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(ORDERS.replace("orders", "first").replace("shop", "one"))
    dry = cli("apply", "--dry-run", str(path))
    assert (dry.code, dry.err) == (0, "nothing was changed\n"), dry.err
    assert [line.split()[:2] + line.split()[2:5] for line in dry.out.splitlines()] == [
        ["table", "first", "would", "be", "created"],
        ["pipeline", "one", "would", "be", "created"],
    ]
    assert [line.split() for line in cli("apply", str(path)).out.splitlines()] == [
        ["table", "first", "created"],
        ["pipeline", "one", "created"],
    ]
    again = cli("apply", str(path))
    assert [line.split()[2] for line in again.out.splitlines()] == ["unchanged", "unchanged"]
    path.write_text(path.read_text().replace("maximum: 9999", "maximum: 99"))
    assert cli("apply", str(path)).out.split()[:3] == ["table", "first", "changed"]
    path.write_text(path.read_text().replace("id: int64", "id: int32"))
    refused = cli("apply", str(path))
    assert refused.code == 1
    assert refused.err.splitlines()[0] == (
        "error: table `first` exists, and the file says otherwise about columns `id` [SCHEMA_MISMATCH]"
    )


def test_what_get_prints_apply_takes_back(cli: Cli, shop: Path, tmp_path: Path) -> None:
    for arguments in (("table", "orders"), ("tables",), ("pipeline", "shop")):
        said = cli("get", *arguments, "-o", "yaml")
        assert said.code == 0, said.err
        path = tmp_path / "back.yaml"
        path.write_text(said.out)
        answer = cli("apply", str(path))
        assert answer.code == 0, answer.err
        assert {line.split()[2] for line in answer.out.splitlines()} == {"unchanged"}, answer.out


def test_get_shows_a_table_and_json(cli: Cli, shop: Path) -> None:
    listed = cli("get", "tables")
    assert listed.out.splitlines()[0].split()[:3] == ["NAME", "VERSION", "ROWS"]
    table = json.loads(cli("get", "table", "orders", "-o", "json").out)
    assert table["name"] == "namespaces/default/tables/orders"
    assert cli("get", "pipelines").out.splitlines()[0].split()[:2] == ["NAME", "TITLE"]
    assert "there are no runs" in cli("get", "runs").err


def test_a_mistyped_name_gets_the_right_one(cli: Cli, shop: Path) -> None:
    said = cli("get", "table", "ordres")
    assert said.code == 1
    assert said.out == ""
    first, second = said.err.splitlines()
    assert first.endswith("[TABLE_NOT_FOUND]")
    assert second == "hint: did you mean `orders`? `millrace get tables` lists all"
    assert cli("delete", "table", "ordres").code == 1


def test_a_file_with_mistakes_changes_nothing_and_names_all(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(ORDERS.replace("orders", "never").replace("event_time", "event_tiem").replace("minimum", "minimun"))
    said = cli("apply", str(path))
    assert said.code == 1
    assert "did you mean `event_time`?" in said.err
    assert "did you mean `minimum`?" in said.err
    assert "[PIPELINE_INVALID]" in said.err
    assert cli("get", "table", "never").code == 1


def test_a_refusal_names_the_part(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(ORDERS.replace("orders", "odd").replace("id: int64", "_id: int64"))
    said = cli("apply", str(path))
    assert said.code == 1
    assert said.err.startswith("error: table `odd`: "), said.err


def test_load_creates_the_table_and_is_exactly_once(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "Sales.csv"
    path.write_text('ID,When,Price,Note,Nothing\n1,2024-01-01T00:00:00Z,1.5,"",\n2,2024-01-02T00:00:00Z,,x,\n')
    said = cli("load", str(path), "--table", "sales", "--event-time", "when")
    assert said.code == 0, said.err
    assert "table sales created with 5 columns" in said.err
    assert "sales: 2 rows in" in said.err
    table = json.loads(cli("get", "table", "sales", "-o", "json").out)
    kinds = {field["name"]: field["type"]["kind"] for field in table["schema"]["fields"]}
    assert kinds == {
        "id": "TYPE_KIND_INT", "when": "TYPE_KIND_TIMESTAMP", "price": "TYPE_KIND_FLOAT",
        "note": "TYPE_KIND_STRING", "nothing": "TYPE_KIND_STRING",
    }  # fmt: skip
    again = cli("load", str(path), "--table", "sales")
    assert "these 2 rows were loaded before" in again.err
    assert json.loads(cli("get", "table", "sales", "-o", "json").out)["row_count"] == "2"
    assert cli("load", str(path), "--table", "sales", "--again").code == 0
    assert json.loads(cli("get", "table", "sales", "-o", "json").out)["row_count"] == "4"


def test_whole_numbers_above_64_bits_keep_their_digits(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(b"\xef\xbb\xbfid,x\n99999999999999999999,1.5\n1,nan\n")
    assert cli("load", str(path), "--table", "ids").code == 0
    table = json.loads(cli("get", "table", "ids", "-o", "json").out)
    kinds = [(field["name"], field["type"]["kind"]) for field in table["schema"]["fields"]]
    assert kinds == [("id", "TYPE_KIND_STRING"), ("x", "TYPE_KIND_FLOAT")]


def test_a_file_without_a_namespace_goes_where_the_command_says(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(ORDERS)
    assert cli("apply", str(path), "-n", "elsewhere").code == 0
    assert "orders" in cli("get", "tables", "-n", "elsewhere").out
    assert cli("get", "pipeline", "shop", "-n", "elsewhere").code == 0


def named(name: str) -> str:
    """The file with a table of a test's own."""
    return ORDERS.replace("orders", name).replace("name: shop", f"name: {name}")


def test_load_evolve_adds_the_files_columns(cli: Cli, tmp_path: Path) -> None:
    shop, path = tmp_path / "shop.yaml", tmp_path / "more.csv"
    shop.write_text(named("gaining"))
    assert cli("apply", str(shop)).code == 0
    path.write_text("id,at,state,Clerk,bonus\n1,2024-01-01T00:00:00Z,new,Ada,1.5\n")
    assert "no column `clerk`" in cli("load", str(path), "--table", "gaining").err
    said = cli("load", str(path), "--table", "gaining", "--evolve")
    assert said.code == 0, said.err
    assert "table gaining gained clerk string, bonus float64" in said.err
    assert "gaining: 1 row" in said.err
    table = json.loads(cli("get", "table", "gaining", "-o", "json").out)
    assert [field["name"] for field in table["schema"]["fields"]] == ["id", "at", "price", "state", "clerk", "bonus"]
    assert cli("apply", str(shop)).out.split()[2] == "unchanged", "a file that does not know the columns leaves them"


def test_apply_adds_widens_and_relaxes_columns(cli: Cli, tmp_path: Path) -> None:
    first, shop = named("growing"), tmp_path / "shop.yaml"
    shop.write_text(first)
    assert cli("apply", str(shop)).code == 0
    grown = first.replace("decimal(10,2)?", "decimal(20,4)?").replace("id: int64,", 'id: "int64?",')
    shop.write_text(grown.replace('state: "string?"', 'state: "string?", clerk: "string?"'))
    assert "would" in cli("apply", str(shop), "--dry-run").out
    said = cli("apply", str(shop))
    assert (said.code, said.out.split()[2]) == (0, "changed"), said.err
    assert cli("apply", str(shop)).out.split()[2] == "unchanged"
    table = json.loads(cli("get", "table", "growing", "-o", "json").out)
    fields = {field["name"]: field for field in table["schema"]["fields"]}
    assert (fields["price"]["type"]["precision"], fields["id"]["nullable"], "clerk" in fields) == (20, True, True)
    for wrong in (first, grown.replace("state:", "status:"), grown.replace('"int64?"', '"string?"')):
        shop.write_text(wrong)
        answer = cli("apply", str(shop))
        assert answer.code == 1, wrong
        assert "[SCHEMA_MISMATCH]" in answer.err


def test_load_reads_parquet_and_json_lines(cli: Cli, tmp_path: Path) -> None:
    rows = pa.table({"n": pa.array(range(200_000)), "t": pa.array(["x"] * 200_000)})
    pq.write_table(rows, tmp_path / "many.parquet")
    assert "200,000 rows" in cli("load", str(tmp_path / "many.parquet"), "--table", "many").err
    (tmp_path / "more.jsonl").write_text('{"n": 1, "t": "a"}\n{"n": 2, "t": null}\n')
    said = cli("load", str(tmp_path / "more.jsonl"), "--table", "many")
    assert "many: 2 rows" in said.err, said.err
    assert json.loads(cli("get", "table", "many", "-o", "json").out)["row_count"] == "200002"


@pytest.mark.parametrize(
    ("text", "reason", "said"),
    [
        ("id,at,cost\n1,2024-01-01T00:00:00Z,3\n", "SCHEMA_MISMATCH", "no column `cost`"),
        ("id,at\nx,2024-01-01T00:00:00Z\n", "ROW_INVALID", "invalid value 'x'"),
        ("id,at\n1\n", "ROW_INVALID", "Expected 2 columns"),
        ("id,at,price\n1,2024-01-01T00:00:00Z,-1\n", "ROW_INVALID", ""),
        ("", "ROW_INVALID", "Empty CSV file"),
        ("id,id\n1,2\n", "SCHEMA_MISMATCH", "two columns are called `id`"),
        ("\x00\x01\x02PNG\n\x00\x03", "SCHEMA_MISMATCH", ""),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    cli: Cli, shop: Path, tmp_path: Path, text: str, reason: str, said: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    answer = cli("load", str(path), "--table", "orders")
    assert answer.code == 1
    assert f"[{reason}]" in answer.err
    assert said in answer.err
    assert len(answer.err.splitlines()) == 2, answer.err


def test_bad_rows_become_dead_letters_when_asked(cli: Cli, shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("id,at,price\n1,2024-01-01T00:00:00Z,-1\n2,2024-01-01T00:00:00Z,2\n")
    answer = cli("load", str(path), "--table", "orders", "--bad-rows", "dead-letter")
    assert answer.code == 0, answer.err
    assert "1 row in" in answer.err
    assert "1 dead letter" in answer.err


def test_delete_takes_a_pipeline_and_leaves_its_tables(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "gone.yaml"
    path.write_text(ORDERS.replace("orders", "kept").replace("shop", "gone"))
    cli("apply", str(path))
    assert cli("delete", "pipeline", "gone").code == 0
    assert cli("get", "pipeline", "gone").code == 1
    assert cli("get", "table", "kept").code == 0
    unasked = cli("delete", "table", "kept")  # no terminal: nobody can say yes
    assert (unasked.code, unasked.err.splitlines()[-1]) == (2, "hint: `--yes` says that it is meant")
    assert cli("get", "table", "kept").code == 0
    assert cli("delete", "table", "kept", "--yes").code == 0
    assert cli("get", "table", "kept").code == 1
