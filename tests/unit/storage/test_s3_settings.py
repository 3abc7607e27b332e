"""Settings of S3: references only, told together, and never shown."""

from __future__ import annotations

import pytest

from millrace.server.settings import SettingsError, redacted
from svc_storage.config import Settings

GOOD = {
    "MILLRACE_STORAGE_BACKEND": "s3",
    "MILLRACE_STORAGE_S3_URL": "s3://bucket/some/prefix",
    "MILLRACE_STORAGE_S3_ACCESS_KEY": "env:MY_ACCESS",
    "MILLRACE_STORAGE_S3_SECRET_KEY": "file:/run/secrets/s3",
    "MY_ACCESS": "AKIAEXAMPLE",
}


def test_only_what_a_reference_names_is_taken() -> None:
    found = Settings.from_env({**GOOD, "OTHER_SECRET": "x"}).s3
    assert list(found.environment) == ["MY_ACCESS"]
    assert found.environment["MY_ACCESS"].reveal() == "AKIAEXAMPLE"


def test_nothing_that_is_shown_holds_a_key() -> None:
    shown = str(redacted(Settings.from_env(GOOD)))
    assert "file:/run/secrets/s3" in shown
    assert "AKIAEXAMPLE" not in shown


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("URL", "https://bucket", "is not s3://bucket/prefix"),
        ("URL", "", "is missing"),
        ("ACCESS_KEY", "AKIATHEKEYITSELF", "is not a reference"),
        ("ACCESS_KEY", "env:NOBODY_SET_THIS", "names NOBODY_SET_THIS, which is not set"),
        ("ACCESS_KEY", "", "go together"),
        ("SECRET_KEY", "file:relative", "is not a reference"),
    ],
)
def test_a_fault_is_told_without_the_key(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as failed:
        Settings.from_env({**GOOD, f"MILLRACE_STORAGE_S3_{name}": value})
    assert said in str(failed.value)
    assert "THEKEYITSELF" not in str(failed.value)


def test_other_backends_need_none_of_it() -> None:
    assert Settings.from_env({}).s3.url == ""
