"""Secrets are named, from an allow-list, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import FieldInvalid, MillraceError, NotAllowed
from svc_extract.adapters.secrets import ReferencedSecrets
from svc_extract.config import Settings


@pytest.fixture
def secrets(tmp_path: Path) -> ReferencedSecrets:
    (tmp_path / "pg").write_text("postgresql://u:hunter2@db\n")
    return ReferencedSecrets({"MILLRACE_SECRET_PG": "hunter2", "HOME": "x"}, ("MILLRACE_SECRET_*",), (tmp_path,))


def test_what_is_allowed_is_revealed(secrets: ReferencedSecrets, tmp_path: Path) -> None:
    assert secrets.reveal("env:MILLRACE_SECRET_PG", field="f") == "hunter2"
    assert secrets.reveal(f"file:{tmp_path / 'pg'}", field="f") == "postgresql://u:hunter2@db"


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("hunter2", FieldInvalid),
        ("env:", FieldInvalid),
        ("env:HOME", NotAllowed),
        ("env:MILLRACE_SECRET_GONE", FieldInvalid),
        ("file:/etc/passwd", NotAllowed),
        ("vault:x", FieldInvalid),
    ],
)
def test_everything_else_is_refused_without_a_value(
    secrets: ReferencedSecrets, reference: str, kind: type[MillraceError]
) -> None:
    with pytest.raises(kind) as refused:
        secrets.reveal(reference, field="sql.connection")
    assert refused.value.field == "sql.connection"
    assert "hunter2" not in str(refused.value.message + refused.value.hint)


def test_settings_show_no_environment(tmp_path: Path) -> None:
    env = {
        "MILLRACE_HOME": str(tmp_path),
        "MILLRACE_SECRET_PG": "hunter2",
        "MILLRACE_EXTRACT_FILE_ROOTS": str(tmp_path),
    }
    settings = Settings.from_env(env)
    assert settings.file_roots == (tmp_path.resolve(),)
    assert "hunter2" not in repr(settings) + str(settings.environment)
