"""Settings: every fault at once, by name; secrets never shown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from millrace.server.config import ServerSettings, service_env
from millrace.server.settings import Env, Secret, SettingsError, redacted


def test_all_faults_come_at_once() -> None:
    env = {
        "MILLRACE_X_COUNT": "many",
        "MILLRACE_X_WAIT": "soon",
        "MILLRACE_X_ON": "perhaps",
        "MILLRACE_X_KIND": "blue",
        "MILLRACE_X_LIMIT": "11",
        "MILLRACE_X_COUTN": "1",
    }
    reader = Env(env, "MILLRACE_X_")
    reader.integer("COUNT", 1)
    reader.duration_ms("WAIT", 500)
    reader.boolean("ON")
    reader.text("KIND", "red", choices=("red", "green"))
    reader.integer("LIMIT", 5, low=1, high=10)
    reader.text("NAME")
    with pytest.raises(SettingsError) as caught:
        reader.done()
    assert list(caught.value.faults) == [
        "MILLRACE_X_COUNT is 'many'; a whole number is expected",
        "MILLRACE_X_WAIT is 'soon'; a duration such as 500ms, 30s or 1h is expected",
        "MILLRACE_X_ON is 'perhaps'; true or false is expected",
        "MILLRACE_X_KIND is 'blue'; one of red, green is expected",
        "MILLRACE_X_LIMIT is 11; a whole number in 1..10 is expected",
        "MILLRACE_X_NAME is missing",
        "MILLRACE_X_COUTN is not a setting; did you mean MILLRACE_X_COUNT?",
    ]


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("250", 250), ("250ms", 250), ("1.5s", 1500), ("2m", 120_000), ("1h", 3_600_000)]
)
def test_durations(text: str, milliseconds: int) -> None:
    assert Env({"A_D": text}, "A_").duration_ms("D", 1) == milliseconds


def test_values_are_read() -> None:
    env = {"A_I": "7", "A_F": "0.5", "A_B": "yes", "A_P": "~/x", "A_PS": "/a:/b", "A_W": "a, b,,c", "A_S": "pw"}
    reader = Env(env, "A_")
    assert (reader.integer("I"), reader.number("F"), reader.boolean("B")) == (7, 0.5, True)
    assert reader.path("P") == Path.home() / "x"
    assert reader.paths("PS") == (Path("/a"), Path("/b"))
    assert reader.words("W") == ("a", "b", "c")
    assert reader.secret("S") == Secret("pw")
    reader.done()


def test_a_secret_shows_nowhere() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {redacted(_settings(token=secret))}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def _settings(**changes: object) -> ServerSettings:
    return ServerSettings(**{"service": "storage", "home": Path("/h"), **changes})  # type: ignore[arg-type]


def test_shared_settings_leave_a_services_own_names_alone(tmp_path: Path) -> None:
    token = tmp_path / "t"
    token.write_text("abc\n")
    env = {
        "MILLRACE_HOME": str(tmp_path),
        "MILLRACE_STORAGE_PORT": "7402",
        "MILLRACE_STORAGE_TARGET": "127.0.0.1:7402",
        "MILLRACE_STORAGE_BACKEND": "local",
        "MILLRACE_TOKEN_FILE": str(token),
        "MILLRACE_STREAM_AGE": "2m",
    }
    found = ServerSettings.from_env("storage", env)
    assert (found.port, found.token.reveal(), found.stream_age_s) == (7402, "abc", 120.0)
    assert found.targets == {"storage": "127.0.0.1:7402"}
    own = service_env(env, "storage")
    own.text("BACKEND")
    own.done()


def test_shared_faults_are_all_named(tmp_path: Path) -> None:
    env = {
        "MILLRACE_STORAGE_PORT": "x",
        "MILLRACE_LOG_LEVEL": "LOUD",
        "MILLRACE_TOKEN_FILE": str(tmp_path / "none"),
        "MILLRACE_PRINCIPALS_FILE": str(tmp_path / "none"),
    }
    with pytest.raises(SettingsError) as caught:
        ServerSettings.from_env("storage", env)
    for name in env:
        assert any(fault.startswith(name) for fault in caught.value.faults), name


def test_a_server_that_listens_everywhere_is_reached_at_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostbyname", lambda name: "10.1.2.3")
    home = Path("/nowhere")
    assert ServerSettings(service="storage", home=home, host="0.0.0.0", port=7402).address == "10.1.2.3:7402"
    assert ServerSettings(service="storage", home=home, port=7402).address == "127.0.0.1:7402"
    assert ServerSettings(service="storage", home=home).address == ""
