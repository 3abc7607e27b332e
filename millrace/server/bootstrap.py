"""From nothing to a serving process, and back: what every service's `__main__` calls.

if __name__ == "__main__":
    run(ServiceSpec(name="storage", settings=Settings.from_env, compose=compose))
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import traceback
from collections.abc import Mapping
from typing import NoReturn, TypeVar

from millrace import errors
from millrace.server import logs
from millrace.server.audit import start_audit
from millrace.server.authentication import Authenticator
from millrace.server.config import ServerSettings
from millrace.server.peers import Peers
from millrace.server.process import end_with
from millrace.server.runtime import Runtime, ServiceSpec
from millrace.server.serving import PortTaken, Serving
from millrace.server.settings import SettingsError, redacted
from millrace.server.supervision import Background
from millrace.server.telemetry import start_telemetry

S = TypeVar("S")
HANG_LIMIT_S = 15.0
"""How much longer than its grace a drain may take before the process ends without it."""

_log = logging.getLogger("millrace.server")


def run(spec: ServiceSpec[S], env: Mapping[str, str] | None = None) -> NoReturn:
    """Serves until SIGTERM, SIGINT or Drain, then ends the process: 0 after a drain, 1 when it could not start (one FATAL line)."""
    end_with(_number(os.environ, "MILLRACE_SUPERVISOR_PID", 0), _number(os.environ, "MILLRACE_SUPERVISOR_FD", -1))
    try:
        asyncio.run(serve(spec, os.environ if env is None else env))
    except Exception as error:
        _say_fatal(spec.name, error)
        _end(1)
    except KeyboardInterrupt:
        _end(130)
    _end(0)


async def serve(spec: ServiceSpec[S], env: Mapping[str, str]) -> None:
    """Returns after a drain. Raises what kept the service from starting."""
    settings, own = _settings(spec, env)
    logs.start_logging(spec.name, settings.log_level)
    start_audit(settings.audit_file)
    telemetry = start_telemetry(spec.name, otlp_endpoint=settings.otlp_endpoint)
    runtime = Runtime(
        settings=settings,
        telemetry=telemetry,
        background=Background(),
        peers=Peers(settings.targets, settings.token, telemetry),
        authenticator=Authenticator.of(settings),
        draining=asyncio.Event(),
    )
    try:
        await _serve_until_drained(spec, own, runtime)
    finally:
        await telemetry.close()


async def _serve_until_drained(spec: ServiceSpec[S], own: S, runtime: Runtime) -> None:
    composition = await spec.compose(own, runtime)
    shown = {**redacted(runtime.settings), **redacted(own)}
    serving = Serving(runtime, composition, own=shown)
    await serving.start()
    if runtime.settings.principals_file is None:
        _log.warning("MILLRACE_PRINCIPALS_FILE is not set: every call but health is refused")
    _log.info("listening on %s:%d", runtime.settings.host, serving.port)
    _drain_on_signals(serving, runtime.settings)
    await serving.ready()
    await serving.ended.wait()
    _log.info("ended")


def _settings(spec: ServiceSpec[S], env: Mapping[str, str]) -> tuple[ServerSettings, S]:
    """Both kinds of settings, with the faults of both."""
    faults: list[str] = []
    shared: ServerSettings | None = None
    own: list[S] = []
    try:
        shared = ServerSettings.from_env(spec.name, env)
    except SettingsError as error:
        faults += error.faults
    try:
        own.append(spec.settings(env))
    except SettingsError as error:
        faults += error.faults
    if faults or shared is None:
        raise SettingsError(dict.fromkeys(faults))
    return shared, own[0]


def _drain_on_signals(serving: Serving, settings: ServerSettings) -> None:
    """The first SIGTERM or SIGINT drains; a second one, or a drain that hangs, ends the process at once."""
    loop = asyncio.get_running_loop()
    limit_s = settings.drain_lead_s + settings.drain_grace_s + HANG_LIMIT_S
    seen: list[int] = []

    def stop(number: int) -> None:
        if seen:
            _log.warning("a second signal: ending at once")
            _end(128 + number)
        seen.append(number)
        watchdog = threading.Timer(limit_s, _give_up)
        watchdog.daemon = True
        watchdog.start()
        serving.drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _give_up() -> None:
    _log.error("the drain hangs: ending without it")
    _end(1)


def _say_fatal(service: str, error: Exception) -> None:
    """One line: what is wrong, in words for settings, ports and our own errors; with the traceback for everything else."""
    if isinstance(error, SettingsError | PortTaken):
        logs.fatal_line(service, str(error))
    elif isinstance(error, errors.MillraceError):
        logs.fatal_line(service, f"{error.message}{f' ({error.hint})' if error.hint else ''}", reason=error.reason)
    else:
        trace = "".join(traceback.format_exception(error))
        logs.fatal_line(service, f"{type(error).__name__}: {error}", exception=trace)


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    """Before settings are read and faults can be told: a bad value counts as not set, and is told a moment later."""
    try:
        return int(env.get(name, default))
    except ValueError:
        return default


def _end(code: int) -> NoReturn:
    """Without waiting for threads of engines and pools that may be stuck; logs are flushed."""
    logging.shutdown()
    os._exit(code)
