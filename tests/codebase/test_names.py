"""Names: modules say what they hold, and one thing has one word."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.codebase.tree import Module, modules_under, texts

BANNED_MODULES = {"utils", "util", "common", "helpers", "helper", "misc", "shared"}
WORDS = {
    # a wrong word -> the design's word
    r"snapshot_?id|SnapshotId": "version",
    r"WriteRows|InsertRows": "AppendRows",
    r"DatasetService|dataset_id": "table",
    r"rejects?_table|error_table|bad_rows_table": "dead letters",
    r"dead_?letter_?queue": "dead letters",
    r"svc_runtime": "millrace.server",
    r"high_?watermark_?offset": "next_offset",
    r"generation_?id": "epoch",
}


def badly_named(module: Module) -> bool:
    return bool(set(module.name.split(".")) & BANNED_MODULES)


def test_modules_say_what_they_hold(planted: Callable[..., Module]) -> None:
    assert not (found := [module.path for module in modules_under() if badly_named(module)]), (
        f"{found}: name what is in it"
    )
    assert badly_named(planted("", "millrace/server/utils.py"))
    assert badly_named(planted("", "svc_viz/common/__init__.py"))


def wrong_words(path: str, text: str) -> list[str]:
    return [
        f"{path}:{number} says {match.group()}: {right}"
        for number, line in enumerate(text.splitlines(), 1)
        for wrong, right in WORDS.items()
        for match in re.finditer(rf"\b({wrong})\b", line)
    ]


def test_one_thing_has_one_word() -> None:
    files = [
        (path, text)
        for path, text in texts()
        if path.endswith((".py", ".proto")) and not path.startswith("tests/codebase/")
    ]
    assert files, "the rule looked at nothing"
    assert not (found := [line for path, text in files for line in wrong_words(path, text)]), found
    assert wrong_words("a.proto", "int64 snapshot_id = 1;")
